//! The serving end: one event loop for each processor, each with a listener of its own.
//!
//! A thread for each connection would measure the scheduler: on two processors its rate of new connections had two modes, thirty
//! times apart.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::NonZero,
    os::fd::OwnedFd,
    thread,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};
use socket2::{Domain, Socket, Type};

use super::{BLOCK_LEN, ECHO, ONCE, ONCE_LEN, SINK, SOURCE};

/// Serves loads at `address`, by TCP and by UDP, until the process is killed.
///
/// # Errors
/// When the address cannot be bound, or the kernel gives no event loop.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let count = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = (0..count)
        .map(|_| Worker::new(address))
        .collect::<io::Result<Vec<_>>>()?;
    let datagrams = UdpSocket::bind(address)?;
    thread::scope(|scope| {
        let mut threads: Vec<_> = workers
            .into_iter()
            .map(|mut worker| scope.spawn(move || worker.run()))
            .collect();
        threads.push(scope.spawn(move || return_datagrams(&datagrams)));
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
        })
    })
}

fn return_datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut block = vec![0; DATAGRAM_LEN_MAX];
    loop {
        match socket.recv_from(&mut block) {
            Ok((len, from)) => {
                // A client that has gone away is no reason to end.
                socket
                    .send_to(block.get(..len).unwrap_or_default(), from)
                    .ok();
            }
            // What ICMP says about an earlier answer.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(e),
        }
    }
}

/// One event loop.
struct Worker {
    listener: TcpListener,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    block: Vec<u8>,
}

/// One connection, and what it wants.
struct Connection {
    stream: TcpStream,
    kind: Option<u8>,
    /// Bytes that came.
    total: u64,
    /// Bytes still to be made up and sent (source).
    owed: u64,
    /// Bytes that wait to be written; nothing is read meanwhile.
    pending: Vec<u8>,
    /// After the pending bytes it is over.
    is_last: bool,
}

/// What a connection waits for.
enum Wants {
    Bytes,
    Room,
    Nothing,
}

impl Worker {
    fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Children take it over, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        Ok(Worker {
            listener,
            epoll,
            connections: HashMap::new(),
            next: LISTENER + 1,
            block: vec![0; BLOCK_LEN],
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_LEN);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                done => done?,
            };
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    id => self.serve(id)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e),
            };
            stream.set_nonblocking(true)?;
            let id = self.next;
            self.next += 1;
            epoll::add(&self.epoll, &stream, EventData::new_u64(id), EventFlags::IN)?;
            let connection = Connection {
                stream,
                kind: None,
                total: 0,
                owed: 0,
                pending: Vec::new(),
                is_last: false,
            };
            self.connections.insert(id, connection);
        }
    }

    fn serve(&mut self, id: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        let had_pending = !connection.pending.is_empty() || connection.owed > 0;
        // A client that breaks off ends its connection, not the server.
        let wants = connection.step(&mut self.block).unwrap_or(Wants::Nothing);
        let data = EventData::new_u64(id);
        match wants {
            Wants::Bytes if had_pending => {
                epoll::modify(&self.epoll, &connection.stream, data, EventFlags::IN)?;
            }
            Wants::Room if !had_pending => {
                epoll::modify(&self.epoll, &connection.stream, data, EventFlags::OUT)?;
            }
            Wants::Bytes | Wants::Room => {}
            Wants::Nothing => drop(self.connections.remove(&id)),
        }
        Ok(())
    }
}

impl Connection {
    /// Does what it can without waiting.
    fn step(&mut self, block: &mut [u8]) -> io::Result<Wants> {
        loop {
            if !self.pending.is_empty() {
                match self.stream.write(&self.pending) {
                    Ok(len) => drop(self.pending.drain(..len)),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Wants::Room),
                    Err(e) => return Err(e),
                }
                continue;
            }
            if self.owed > 0 {
                let wanted = usize::try_from(self.owed).unwrap_or(usize::MAX);
                let piece = block.get(..wanted.min(block.len())).unwrap_or_default();
                match self.stream.write(piece) {
                    Ok(len) => self.owed -= len as u64,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Wants::Room),
                    Err(e) => return Err(e),
                }
                continue;
            }
            if self.is_last {
                return Ok(Wants::Nothing);
            }
            let len = match self.stream.read(block) {
                Ok(0) => {
                    self.is_last = true;
                    if self.kind == Some(SINK) {
                        self.pending.extend_from_slice(&self.total.to_be_bytes());
                    }
                    continue;
                }
                Ok(len) => len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Wants::Bytes),
                Err(e) => return Err(e),
            };
            self.take(block.get(..len).unwrap_or_default())?;
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let kind = match (self.kind, bytes) {
            (Some(kind), _) => kind,
            (None, [first, rest @ ..]) => {
                bytes = rest;
                self.kind = Some(*first);
                *first
            }
            (None, []) => return Ok(()),
        };
        match kind {
            _ if bytes.is_empty() => {}
            ECHO => self.give_back(bytes)?,
            ONCE => {
                self.total += bytes.len() as u64;
                self.give_back(bytes)?;
                self.is_last = self.total >= ONCE_LEN as u64;
            }
            SINK => self.total += bytes.len() as u64,
            // The client writes the eight bytes at once, behind the first.
            SOURCE => {
                let len = <[u8; 8]>::try_from(bytes).map_err(io::Error::other)?;
                self.owed = u64::from_be_bytes(len);
            }
            other => return Err(io::Error::other(format!("unknown load {other}"))),
        }
        Ok(())
    }

    fn give_back(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stream.write(bytes) {
            Ok(len) => self
                .pending
                .extend_from_slice(bytes.get(len..).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.pending.extend_from_slice(bytes),
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// The listener's number among the events; connections count from the next.
const LISTENER: u64 = 0;
const EVENTS_LEN: usize = 256;
/// A burst of clients must not wait for retransmissions of their SYN.
const BACKLOG: i32 = 4096;
const DATAGRAM_LEN_MAX: usize = 65_535;
