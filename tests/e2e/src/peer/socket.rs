//! TCP sockets that are blocking or polled, behind one face.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        PollFd, PollFlags, Timespec,
        epoll::{self, EventData, EventFlags},
        poll,
    },
};
use socket2::{Domain, SockRef, Type};

/// How a program waits for its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Discipline {
    /// Blocking calls with `SO_RCVTIMEO`.
    Blocking,
    /// `O_NONBLOCK` from the start and `poll(2)`.
    Polled,
    /// `O_NONBLOCK` from the start and `epoll(7)`.
    Watched,
    /// Connected with `O_NONBLOCK` and a deadline, then switched to blocking: what many C programs do.
    Switched,
}

/// A connected TCP socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    polled: bool,
    /// Watches the stream, if that is how it waits, and for what.
    epoll: Option<(OwnedFd, EventFlags)>,
}

impl Socket {
    /// Connects to `to`.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut` after 30 s.
    pub fn connect(to: SocketAddr, discipline: Discipline) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if discipline == Discipline::Blocking {
            socket.connect(&to.into())?;
        } else {
            socket.set_nonblocking(true)?;
            match socket.connect(&to.into()) {
                Err(e)
                    if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
                {
                    wait(&socket, PollFlags::OUT)?;
                    if let Some(error) = socket.take_error()? {
                        return Err(error);
                    }
                }
                other => other?,
            }
        }
        Socket::from_stream(socket.into(), discipline)
    }

    /// Takes over an accepted stream.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn from_stream(stream: TcpStream, discipline: Discipline) -> io::Result<Socket> {
        let polled = matches!(discipline, Discipline::Polled | Discipline::Watched);
        stream.set_nonblocking(polled)?;
        if !polled {
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.set_write_timeout(Some(DEADLINE))?;
        }
        let epoll = match discipline {
            Discipline::Watched => {
                let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
                epoll::add(&epoll, &stream, ALONE, EventFlags::IN)?;
                Some((epoll, EventFlags::IN))
            }
            _ => None,
        };
        Ok(Socket {
            stream,
            polled,
            epoll,
        })
    }

    /// Sends small messages at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send_at_once(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)
    }

    /// Reads without a deadline: for connections that may be idle as long as the peer likes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_patiently(&mut self, block: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read(block) {
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
                    ) => {}
                other => return other,
            }
        }
    }

    /// Ends the sending side.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn shut_write(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Makes the coming close a reset.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }

    fn wait(&mut self, flags: PollFlags) -> io::Result<()> {
        let Some((epoll, watched)) = &mut self.epoll else {
            return wait(&self.stream, flags);
        };
        let wanted = if flags.contains(PollFlags::OUT) {
            EventFlags::OUT
        } else {
            EventFlags::IN
        };
        if *watched != wanted {
            epoll::modify(&*epoll, &self.stream, ALONE, wanted)?;
            *watched = wanted;
        }
        let limit = Timespec::try_from(DEADLINE).map_err(io::Error::other)?;
        let mut events = Vec::with_capacity(1);
        epoll::wait(&*epoll, spare_capacity(&mut events), Some(&limit))?;
        if events.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn repeat<T>(
        &mut self,
        flags: PollFlags,
        mut step: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let begun = Instant::now();
            match step(&mut self.stream) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.polled => {
                    self.wait(flags)?;
                }
                Err(e)
                    if e.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < DEADLINE / 2 =>
                {
                    let text = format!("EAGAIN on a blocking socket after {:?}", begun.elapsed());
                    return Err(io::Error::other(text));
                }
                other => return other,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        self.repeat(PollFlags::IN, |stream| stream.read(block))
    }
}

impl Write for Socket {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        self.repeat(PollFlags::OUT, |stream| stream.write(block))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the socket is ready, at most [`DEADLINE`].
fn wait(socket: &impl AsFd, flags: PollFlags) -> io::Result<()> {
    let mut polled = [PollFd::new(socket, flags)];
    let limit = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    match poll(&mut polled, Some(&limit))? {
        0 => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "not ready within 30 s",
        )),
        _ => Ok(()),
    }
}

/// The longest that one step of a conversation may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// There is one socket in each epoll.
const ALONE: EventData = EventData::new_u64(0);
