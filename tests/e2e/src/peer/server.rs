//! The accepting end.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{
    plan::{Mode, Pattern, Plan},
    socket::{DEADLINE, Discipline, Socket},
};

/// Serves conversations at `address` until the process is killed, one thread each; the client bounds how many there are.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(address: SocketAddr, discipline: Discipline) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    // An event loop's listener is non-blocking as well; the mesh looks at that flag.
    listener.set_nonblocking(discipline != Discipline::Blocking)?;
    let memory = Arc::new(Memory::default());
    loop {
        if discipline != Discipline::Blocking {
            poll(&mut [PollFd::new(&listener.as_fd(), PollFlags::IN)], None)?;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e),
        };
        memory.accepted.fetch_add(1, Ordering::Relaxed);
        let memory = Arc::clone(&memory);
        std::thread::Builder::new()
            .stack_size(THREAD_STACK_LEN)
            .spawn(move || {
                let socket = Socket::from_stream(stream, discipline);
                if let Err(error) = socket.and_then(|socket| converse(socket, &memory)) {
                    eprintln!("conversation without a plan: {error}");
                }
            })?;
    }
}

/// What the server saw of each conversation.
#[derive(Debug, Default)]
struct Memory {
    accepted: AtomicU64,
    outcomes: Mutex<HashMap<u64, String>>,
    changed: Condvar,
}

impl Memory {
    fn note(&self, id: u64, outcome: String) {
        self.outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, outcome);
        self.changed.notify_all();
    }

    /// Waits for the outcome of `id`, at most the deadline.
    fn wait_for(&self, id: u64) -> String {
        let until = Instant::now() + DEADLINE / 2;
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = outcomes.remove(&id) {
                return outcome;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return format!("conversation {id} never ended at the server");
            }
            (outcomes, _) = self
                .changed
                .wait_timeout(outcomes, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn converse(mut socket: Socket, memory: &Memory) -> io::Result<()> {
    let Some(plan) = Plan::read(&mut socket)? else {
        return Ok(());
    };
    if plan.mode == Mode::Report {
        return socket.write_all(memory.wait_for(plan.id).as_bytes());
    }
    if plan.mode == Mode::Count {
        let accepted = memory.accepted.load(Ordering::Relaxed);
        return socket.write_all(&accepted.to_be_bytes());
    }
    let outcome = match follow(socket, &plan) {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("server, {:?}: {error}", plan.mode),
    };
    memory.note(plan.id, outcome);
    Ok(())
}

fn follow(mut socket: Socket, plan: &Plan) -> io::Result<()> {
    match plan.mode {
        Mode::ServerCloses | Mode::Report | Mode::Count => {
            receive(&mut socket, plan.up())?;
            send(&mut socket, plan.down())
        }
        Mode::ClientCloses => {
            receive(&mut socket, plan.up())?;
            send(&mut socket, plan.down())?;
            expect_end(&mut socket)
        }
        Mode::HalfClose => {
            receive(&mut socket, plan.up())?;
            expect_end(&mut socket)?;
            send(&mut socket, plan.down())
        }
        Mode::ClientResets => {
            receive(&mut socket, plan.up())?;
            send(&mut socket, plan.down())?;
            // Tells that all bytes are here: a reset may overtake data, with a mesh and without.
            socket.write_all(&[1])?;
            expect_reset(&mut socket)
        }
        Mode::ServerResets => {
            receive(&mut socket, plan.up())?;
            send(&mut socket, plan.down())?;
            // One byte says that the client has everything; a reset may overtake data otherwise.
            socket.read_exact(&mut [0u8])?;
            socket.reset_on_close()
        }
    }
}

/// Sends all bytes of the pattern, in blocks of uneven length.
pub(super) fn send(socket: &mut Socket, mut pattern: Pattern) -> io::Result<()> {
    let mut block = vec![0u8; BLOCK_LEN];
    while pattern.left() > 0 {
        let uneven = 1 + usize::try_from(pattern.left() % 60_013).unwrap_or(0);
        let len = pattern.fill(&mut block[..uneven.min(BLOCK_LEN)]);
        socket.write_all(&block[..len])?;
    }
    Ok(())
}

/// Receives all bytes of the pattern, no more.
pub(super) fn receive(socket: &mut Socket, mut pattern: Pattern) -> io::Result<()> {
    let mut block = vec![0u8; BLOCK_LEN];
    while pattern.left() > 0 {
        let want = usize::try_from(pattern.left())
            .unwrap_or(BLOCK_LEN)
            .min(BLOCK_LEN);
        match socket.read(&mut block[..want])? {
            0 => {
                let text = format!("closed {} bytes too early", pattern.left());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            len => pattern.check(&block[..len])?,
        }
    }
    Ok(())
}

/// The peer closed cleanly, and sent nothing more before.
pub(super) fn expect_end(socket: &mut Socket) -> io::Result<()> {
    match socket.read(&mut [0u8; 16]) {
        Ok(0) => Ok(()),
        Ok(len) => Err(io::Error::other(format!("{len} bytes too many at the end"))),
        Err(error) => Err(io::Error::other(format!(
            "expected a clean end, got: {error}"
        ))),
    }
}

/// The peer reset the connection.
pub(super) fn expect_reset(socket: &mut Socket) -> io::Result<()> {
    match socket.read(&mut [0u8; 16]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Ok(len) => Err(io::Error::other(format!(
            "expected a reset, read {len} bytes"
        ))),
        Err(error) => Err(io::Error::other(format!("expected a reset, got: {error}"))),
    }
}

const BLOCK_LEN: usize = 64 * 1024;
const THREAD_STACK_LEN: usize = 256 * 1024;
