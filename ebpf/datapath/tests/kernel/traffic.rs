//! Applications that send and receive checked bytes, in the ways in which applications use sockets.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::{PATIENCE, Pod};

/// How an application treats its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Blocking from the beginning.
    Blocking,
    /// Non-blocking until the connection stands (connect with a time limit; a listener in an event loop), blocking afterwards.
    Switching,
    /// Non-blocking, with an epoll of its own.
    Polling,
}

/// A stream that waits in its own way.
pub(crate) struct Stream {
    pub(crate) inner: TcpStream,
    style: Style,
    /// Watches the socket, if that is how it waits.
    epoll: Option<OwnedFd>,
}

impl Stream {
    pub(crate) fn connect(target: SocketAddr, style: Style) -> io::Result<Self> {
        let inner = match style {
            Style::Blocking => TcpStream::connect(target)?,
            // The standard library makes the socket non-blocking for the connect, and blocking again.
            Style::Switching => TcpStream::connect_timeout(&target, PATIENCE)?,
            Style::Polling => {
                let socket = Socket::new(
                    Domain::for_address(target),
                    Type::STREAM,
                    Some(Protocol::TCP),
                )?;
                socket.set_nonblocking(true)?;
                match socket.connect(&target.into()) {
                    Err(err) if err.raw_os_error() == Some(libc::EINPROGRESS) => {
                        wait(&socket, PollFlags::OUT)?;
                        socket.take_error()?.map_or(Ok(()), Err)?;
                    }
                    done => done?,
                }
                socket.into()
            }
        };
        Self::new(inner, style)
    }

    pub(crate) fn accept(listener: &TcpListener, style: Style) -> io::Result<Self> {
        let inner = loop {
            match listener.accept() {
                Err(err) if err.kind() == ErrorKind::WouldBlock => wait(listener, PollFlags::IN)?,
                done => break done?.0,
            }
        };
        Self::new(inner, style)
    }

    fn new(inner: TcpStream, style: Style) -> io::Result<Self> {
        if style != Style::Polling {
            inner.set_read_timeout(Some(PATIENCE))?;
            inner.set_write_timeout(Some(PATIENCE))?;
            return Ok(Stream {
                inner,
                style,
                epoll: None,
            });
        }
        inner.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &inner, NO_DATA, epoll::EventFlags::IN)?;
        Ok(Stream {
            inner,
            style,
            epoll: Some(epoll),
        })
    }

    fn wait(&self, events: epoll::EventFlags) -> io::Result<()> {
        let Some(epoll) = &self.epoll else {
            return Ok(());
        };
        epoll::modify(epoll, &self.inner, NO_DATA, events)?;
        let mut happened = Vec::with_capacity(1);
        let limit = Timespec::try_from(PATIENCE).unwrap();
        epoll::wait(
            epoll,
            rustix::buffer::spare_capacity(&mut happened),
            Some(&limit),
        )?;
        if happened.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn retry<T>(
        &mut self,
        events: epoll::EventFlags,
        mut operation: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match operation(&mut self.inner) {
                Err(err) if err.kind() == ErrorKind::WouldBlock && self.style == Style::Polling => {
                    self.wait(events)?;
                }
                done => return done,
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry(epoll::EventFlags::IN, |stream| stream.read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(epoll::EventFlags::OUT, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait(fd: impl std::os::fd::AsFd, events: PollFlags) -> io::Result<()> {
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let mut fds = [PollFd::new(&fd, events)];
    match poll(&mut fds, Some(&limit))? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// A listener of the wanted style.
pub(crate) fn listen_as(style: Style, address: SocketAddr) -> TcpListener {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .unwrap();
    socket.set_nonblocking(style != Style::Blocking).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

/// Who ends a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client says that it has no more to send, and waits for the answer.
    HalfClose,
    /// The client states how much it sends; the server answers and closes.
    ServerFirst,
    /// The client reads the whole answer and closes.
    ClientFirst,
}

/// Serves conversations until told to stop. Returns the faults that servers saw.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<String>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(pod: &Pod, listener: TcpListener, style: Style, workers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let faults = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..workers)
            .map(|_| {
                let (stop, faults) = (Arc::clone(&stop), Arc::clone(&faults));
                let listener = listener.try_clone().unwrap();
                pod.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let result = Stream::accept(&listener, style).and_then(answer);
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Err(err) = result {
                            faults.lock().unwrap().push(format!("server: {err}"));
                        }
                    }
                })
            })
            .collect();
        Server {
            stop,
            faults,
            threads,
        }
    }

    /// Stops the workers; each needs one more connection to notice.
    pub(crate) fn stop(self, mut poke: impl FnMut()) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            while !thread.is_finished() {
                poke();
                thread::park_timeout(Duration::from_millis(1));
            }
            thread.join().unwrap();
        }
        std::mem::take(&mut self.faults.lock().unwrap())
    }
}

/// Reads a request (its way of ending, its length, its bytes) and answers with the bytes again.
fn answer(mut stream: Stream) -> io::Result<()> {
    let mut head = [0; HEAD_LEN];
    stream.read_exact(&mut head)?;
    let len = u64::from_le_bytes(head[1..].try_into().unwrap());
    let mut body = Vec::new();
    if head[0] == Ending::HalfClose as u8 {
        stream.read_to_end(&mut body)?;
    } else {
        (&mut stream).take(len).read_to_end(&mut body)?;
    }
    if u64::try_from(body.len()).unwrap() != len {
        return Err(io::Error::other(format!(
            "{} bytes instead of {len}",
            body.len()
        )));
    }
    stream.write_all(&body)?;
    if head[0] == Ending::ClientFirst as u8 {
        let rest = stream.read(&mut [0; 1])?;
        assert_eq!(rest, 0);
    }
    Ok(())
}

/// Holds one conversation and checks every byte of it.
pub(crate) fn converse(
    mut stream: Stream,
    ending: Ending,
    body: &[u8],
    chunk_max: usize,
) -> io::Result<()> {
    let mut head = vec![ending as u8];
    head.extend(u64::try_from(body.len()).unwrap().to_le_bytes());
    stream.write_all(&head)?;
    // The answer comes only after the whole request, so writing first cannot lock up.
    for chunk in body.chunks(chunk_max.max(1)) {
        stream.write_all(chunk)?;
    }
    if ending == Ending::HalfClose {
        stream.inner.shutdown(Shutdown::Write)?;
    }
    let mut reply = Vec::new();
    if ending == Ending::ClientFirst {
        let len = u64::try_from(body.len()).unwrap();
        (&mut stream).take(len).read_to_end(&mut reply)?;
    } else {
        stream.read_to_end(&mut reply)?;
    }
    if reply == body {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{} bytes instead of {}, or other ones",
            reply.len(),
            body.len()
        )))
    }
}

/// A small generator of pseudo-random numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit).unwrap()
    }

    /// A piece of random bytes, short or long.
    pub(crate) fn body(&mut self) -> &'static [u8] {
        static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let mut random = Random(4711);
            (0..2 * BODY_LEN_MAX)
                .map(|_| u8::try_from(random.below(256)).unwrap())
                .collect()
        });
        let len = match self.below(8) {
            0 => self.below(10),
            1..=3 => self.below(3_000),
            4..=6 => self.below(100_000),
            _ => self.below(600_000),
        };
        let start = self.below(600_000);
        &BYTES[start..start + len]
    }
}

/// There is one socket in each epoll.
const NO_DATA: epoll::EventData = epoll::EventData::new_u64(0);
/// Longest body.
const BODY_LEN_MAX: usize = 600_000;
const HEAD_LEN: usize = 9;
