//! New connections: connect, one request and its answer, close.
//!
//! The end that closes first keeps its port for a minute (TIME_WAIT). A client on Linux finds a free port quickly only as long as
//! half of its 28,232 are free: after 14,116 connections within that minute each `connect()` walks through thousands of taken ones, and
//! the rate of *direct* TCP falls from 13,000/s to 50/s. So the rate is measured with the server closing first, as HTTP/1.0 servers do;
//! with the client closing first it is a measurement of its own.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{event::epoll::EventFlags, io::Errno};
use socket2::{Domain, Socket, Type};

use super::{ECHO, ONCE, ONCE_LEN, latency::Latency, poller::Poller, round_trips::PATIENCE};

/// Which end closes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Closing {
    /// The server, after its answer.
    Server,
    /// The client, after the answer.
    Client,
}

/// What happened in one part of the time.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// The connections that were answered, from `connect()` to the answer.
    pub latency: Latency,
    /// How many failed.
    pub errors: usize,
}

/// New connections by each of `clients` at once, in as many windows of a given time; a failure is counted, and the next one tried.
///
/// # Errors
/// When the kernel gives no socket, or nothing at all happens for 30 s.
pub fn new_connections(
    server: SocketAddr,
    clients: usize,
    closing: Closing,
    windows: usize,
    window: Duration,
) -> io::Result<Vec<Window>> {
    let mut poller = Poller::new()?;
    let mut attempts: Vec<Option<Attempt>> = (0..clients).map(|_| None).collect();
    let mut seen = Vec::with_capacity(windows);
    let mut block = [0u8; ONCE_LEN];
    for _ in 0..windows {
        let begun = Instant::now();
        let (mut samples, mut errors) = (Vec::new(), 0);
        while begun.elapsed() < window {
            for (number, slot) in attempts.iter_mut().enumerate() {
                if slot.is_none() {
                    *slot = Attempt::begin(server, &poller, number)
                        .inspect_err(|_| errors += 1)
                        .ok();
                }
            }
            let waiting = attempts.iter().any(Option::is_some);
            let ready = poller.wait(if waiting { PATIENCE } else { RETRY_PAUSE })?;
            if waiting && ready.is_empty() {
                return Err(ErrorKind::TimedOut.into());
            }
            for number in ready {
                let Some(slot) = attempts.get_mut(number) else {
                    continue;
                };
                let Some(attempt) = slot else { continue };
                match attempt.step(closing, &poller, number, &mut block) {
                    Ok(Step::Waits) => {}
                    Ok(Step::Done(took)) => {
                        samples.push(took);
                        *slot = None;
                    }
                    Err(_) => {
                        errors += 1;
                        *slot = None;
                    }
                }
            }
        }
        let latency = Latency::new(samples, begun.elapsed());
        seen.push(Window { latency, errors });
    }
    Ok(seen)
}

/// One connection of a client.
struct Attempt {
    stream: TcpStream,
    begun: Instant,
    is_sent: bool,
    unread: usize,
    answered: Option<Duration>,
}

enum Step {
    Waits,
    Done(Duration),
}

impl Attempt {
    fn begin(server: SocketAddr, poller: &Poller, number: usize) -> io::Result<Attempt> {
        let begun = Instant::now();
        let socket = Socket::new(
            Domain::for_address(server),
            Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&server.into()) {
            Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            other => other?,
        }
        let stream = TcpStream::from(socket);
        poller.watch(&stream, number, EventFlags::OUT)?;
        Ok(Attempt {
            stream,
            begun,
            is_sent: false,
            unread: ONCE_LEN,
            answered: None,
        })
    }

    fn step(
        &mut self,
        closing: Closing,
        poller: &Poller,
        number: usize,
        block: &mut [u8],
    ) -> io::Result<Step> {
        if !self.is_sent {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            let kind = match closing {
                Closing::Server => ONCE,
                Closing::Client => ECHO,
            };
            let mut message = [7u8; ONCE_LEN + 1];
            message[0] = kind;
            self.stream.write_all(&message)?;
            self.is_sent = true;
            poller.change(&self.stream, number, EventFlags::IN)?;
            return Ok(Step::Waits);
        }
        loop {
            match self.stream.read(block) {
                Ok(0) => {
                    return match self.answered {
                        Some(took) => Ok(Step::Done(took)),
                        None => Err(ErrorKind::UnexpectedEof.into()),
                    };
                }
                Ok(len) => self.unread = self.unread.saturating_sub(len),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Step::Waits),
                Err(e) => return Err(e),
            }
            if self.unread == 0 && self.answered.is_none() {
                let took = self.begun.elapsed();
                self.answered = Some(took);
                if closing == Closing::Client {
                    return Ok(Step::Done(took));
                }
            }
        }
    }
}

/// After a moment in which no connection could even be begun.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
