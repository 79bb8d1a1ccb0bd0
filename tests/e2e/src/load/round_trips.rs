//! Round trips on kept connections, as many at once as there are connections.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::event::epoll::EventFlags;

use super::{ECHO, latency::Latency, poller::Poller};

/// When a load is over.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// After this time.
    Time(Duration),
    /// After so many requests.
    Requests(usize),
}

/// Round trips of `size` bytes on each of `connections` kept connections; each has one request under way.
///
/// # Errors
/// What the first connection that fails says; `TimedOut` when nothing comes back for 30 s.
pub fn round_trips(
    server: SocketAddr,
    size: usize,
    connections: usize,
    length: Length,
) -> io::Result<Latency> {
    let mut poller = Poller::new()?;
    let message = vec![7u8; size];
    let mut kept = (0..connections)
        .map(|number| Kept::open(server, &message, &poller, number))
        .collect::<io::Result<Vec<_>>>()?;
    let mut block = vec![0u8; size.max(1)];
    let mut samples = Vec::with_capacity(SAMPLES_EXPECTED);
    let begun = Instant::now();
    for connection in &mut kept {
        connection.send(&message, &poller)?;
    }
    while !length.is_over(begun.elapsed(), samples.len()) {
        let ready = poller.wait(PATIENCE)?;
        if ready.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        for number in ready {
            let Some(connection) = kept.get_mut(number) else {
                continue;
            };
            connection.flush(&message, &poller)?;
            if connection.receive(&mut block)? {
                samples.push(connection.sent.elapsed());
                connection.send(&message, &poller)?;
            }
        }
    }
    Ok(Latency::new(samples, begun.elapsed()))
}

impl Length {
    fn is_over(self, elapsed: Duration, requests: usize) -> bool {
        match self {
            Length::Time(time) => elapsed >= time,
            Length::Requests(wanted) => requests >= wanted,
        }
    }
}

/// A connection with at most one request under way.
pub(super) struct Kept {
    stream: TcpStream,
    number: usize,
    pub(super) sent: Instant,
    unsent: usize,
    unread: usize,
    waits_for_room: bool,
}

impl Kept {
    /// Connects, and proves the connection with one round trip that is not counted.
    pub(super) fn open(
        server: SocketAddr,
        message: &[u8],
        poller: &Poller,
        number: usize,
    ) -> io::Result<Kept> {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[ECHO])?;
        stream.write_all(message)?;
        stream.read_exact(&mut vec![0; message.len()])?;
        stream.set_nonblocking(true)?;
        poller.watch(&stream, number, EventFlags::IN)?;
        Ok(Kept {
            stream,
            number,
            sent: Instant::now(),
            unsent: 0,
            unread: 0,
            waits_for_room: false,
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.unread == 0
    }

    /// Begins the next request.
    pub(super) fn send(&mut self, message: &[u8], poller: &Poller) -> io::Result<()> {
        self.sent = Instant::now();
        self.unsent = message.len();
        self.unread = message.len();
        self.flush(message, poller)
    }

    /// Sends what there is room for.
    pub(super) fn flush(&mut self, message: &[u8], poller: &Poller) -> io::Result<()> {
        while self.unsent > 0 {
            let rest = message.get(message.len() - self.unsent..);
            match self.stream.write(rest.unwrap_or_default()) {
                Ok(len) => self.unsent -= len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        let waits = self.unsent > 0;
        if waits != self.waits_for_room {
            self.waits_for_room = waits;
            let flags = if waits {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            poller.change(&self.stream, self.number, flags)?;
        }
        Ok(())
    }

    /// Takes what has come; true when that was the rest of an answer.
    pub(super) fn receive(&mut self, block: &mut [u8]) -> io::Result<bool> {
        while self.unread > 0 {
            match self.stream.read(block) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) if len > self.unread => {
                    return Err(io::Error::other("more came back than was sent"));
                }
                Ok(len) => self.unread -= len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
            if self.unread == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const SAMPLES_EXPECTED: usize = 1 << 19;
