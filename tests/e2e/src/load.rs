//! Loads for measuring: round trips, streams, new connections, idle connections.
//!
//! Closed loops over TCP sockets that wait with `epoll(7)`, as event loops do. The first byte of a connection tells the server
//! what is going to happen on it; the messages carry no other protocol, so what is measured is the path and not a parser.
//! Every load ends after a given time.

mod server;

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use server::serve;

use crate::peer::{Discipline, Socket};

/// What a latency load saw.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    /// One round trip each, sorted.
    samples: Vec<Duration>,
    elapsed: Duration,
}

impl Latency {
    fn new(mut samples: Vec<Duration>, elapsed: Duration) -> Self {
        samples.sort_unstable();
        Latency { samples, elapsed }
    }

    /// The latency that the given share (0–1000) of the samples stays below.
    pub fn permille(&self, share: usize) -> Duration {
        let at = (self.samples.len() * share / 1000).min(self.samples.len().saturating_sub(1));
        self.samples.get(at).copied().unwrap_or_default()
    }

    /// Samples per second.
    pub fn rate(&self) -> f64 {
        self.samples.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Round trips of `size` bytes on one kept connection.
///
/// # Errors
/// What the connection says.
pub fn round_trips(server: SocketAddr, size: usize, time: Duration) -> io::Result<Latency> {
    let mut socket = open(server, ECHO)?;
    let message = vec![7u8; size];
    let mut back = vec![0u8; size];
    let begun = Instant::now();
    let mut samples = Vec::with_capacity(SAMPLES_EXPECTED);
    while begun.elapsed() < time {
        let sent = Instant::now();
        socket.write_all(&message)?;
        socket.read_exact(&mut back)?;
        samples.push(sent.elapsed());
    }
    Ok(Latency::new(samples, begun.elapsed()))
}

/// New connections one after the other by each of `clients` threads: connect, one byte and back, close.
///
/// # Errors
/// The first failure of any thread.
pub fn new_connections(server: SocketAddr, clients: usize, time: Duration) -> io::Result<Latency> {
    let begun = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            std::thread::spawn(move || {
                let mut samples = Vec::new();
                while begun.elapsed() < time {
                    let at = Instant::now();
                    let mut socket = open(server, ECHO)?;
                    socket.write_all(&[1])?;
                    socket.read_exact(&mut [0])?;
                    samples.push(at.elapsed());
                }
                io::Result::Ok(samples)
            })
        })
        .collect();
    let mut samples = Vec::new();
    for thread in threads {
        samples.extend(
            thread
                .join()
                .map_err(|_| io::Error::other("a client panicked"))??,
        );
    }
    Ok(Latency::new(samples, begun.elapsed()))
}

/// What an upload moved.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// Bytes that the server counted.
    pub bytes: u64,
    elapsed: Duration,
}

impl Moved {
    /// Bytes per second.
    pub fn per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends bytes from client to server over `streams` connections.
///
/// # Errors
/// The first failure of any thread.
pub fn upload(server: SocketAddr, streams: usize, time: Duration) -> io::Result<Moved> {
    let begun = Instant::now();
    let threads: Vec<_> = (0..streams)
        .map(|_| {
            std::thread::spawn(move || {
                let mut socket = open(server, SINK)?;
                let block = vec![5u8; BLOCK_LEN];
                while begun.elapsed() < time {
                    socket.write_all(&block)?;
                }
                socket.shut_write()?;
                let mut total = [0u8; 8];
                socket.read_exact(&mut total)?;
                io::Result::Ok(u64::from_be_bytes(total))
            })
        })
        .collect();
    let mut total = 0;
    for thread in threads {
        total += thread
            .join()
            .map_err(|_| io::Error::other("a client panicked"))??;
    }
    Ok(Moved {
        bytes: total,
        elapsed: begun.elapsed(),
    })
}

/// Opens `count` connections, proves each with one round trip, and keeps them until `wait` returns.
///
/// # Errors
/// The first connection that fails.
pub fn hold(server: SocketAddr, count: usize, wait: impl FnOnce()) -> io::Result<()> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut socket = open(server, ECHO)?;
        socket.write_all(&[1])?;
        socket.read_exact(&mut [0])?;
        held.push(socket);
    }
    wait();
    Ok(())
}

fn open(server: SocketAddr, kind: u8) -> io::Result<Socket> {
    let mut socket = Socket::connect(server, Discipline::Watched)?;
    socket.send_at_once()?;
    socket.write_all(&[kind])?;
    Ok(socket)
}

const ECHO: u8 = 1;
const SINK: u8 = 2;
const BLOCK_LEN: usize = 128 * 1024;
const SAMPLES_EXPECTED: usize = 1 << 19;
