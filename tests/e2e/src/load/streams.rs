//! Bytes from client to server, as fast as they go.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use super::{BLOCK_LEN, SINK, open};

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

/// Sends bytes from client to server over `streams` connections, each with a thread.
///
/// # Errors
/// The first failure of any thread.
pub fn upload(server: SocketAddr, streams: usize, time: Duration) -> io::Result<Moved> {
    let begun = Instant::now();
    let threads: Vec<_> = (0..streams)
        .map(|_| {
            thread::spawn(move || {
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
