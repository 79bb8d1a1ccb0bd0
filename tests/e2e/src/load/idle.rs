//! Connections that stand and do nothing.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use super::{BLOCK_LEN, ECHO, SOURCE};
use crate::peer::{Discipline, Socket};

/// Opens `count` connections, keeps them until `wait` returns. Each is proven with one round trip, or has `moved` bytes come down first.
///
/// # Errors
/// The first connection that fails.
pub fn hold(server: SocketAddr, count: usize, moved: u64, wait: impl FnOnce()) -> io::Result<()> {
    let mut held = Vec::with_capacity(count);
    let mut block = vec![0; BLOCK_LEN];
    for _ in 0..count {
        // Without an epoll instance for each, which would be as many descriptors again.
        let mut socket = Socket::connect(server, Discipline::Polled)?;
        socket.send_at_once()?;
        if moved == 0 {
            socket.write_all(&[ECHO, 1])?;
            socket.read_exact(&mut [0])?;
        } else {
            socket.write_all(&[&[SOURCE][..], &moved.to_be_bytes()].concat())?;
            let mut left = moved;
            while left > 0 {
                let len = socket.read(&mut block)? as u64;
                if len == 0 || len > left {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left -= len;
            }
        }
        held.push(socket);
    }
    wait();
    Ok(())
}
