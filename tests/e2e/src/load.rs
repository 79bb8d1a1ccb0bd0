//! Loads for measuring: round trips, streams, new connections, idle connections, datagrams.
//!
//! One event loop over `epoll(7)` on each side, as event-driven programs have. The first byte of a connection tells the server
//! what is going to happen on it; the messages carry no other protocol, so what is measured is the path and not a parser.
//! Every load ends after a given time or number of requests.

mod connections;
mod datagrams;
mod idle;
mod latency;
mod paced;
mod poller;
mod round_trips;
mod server;
mod streams;

use std::{io, net::SocketAddr};

pub use self::{
    connections::{Closing, Window, new_connections},
    datagrams::{dial, round_trips as datagram_round_trips},
    idle::hold,
    latency::Latency,
    paced::paced,
    round_trips::{Length, round_trips},
    server::serve,
    streams::{Moved, upload},
};
use crate::peer::{Discipline, Socket};

/// A connection whose first byte has been sent.
fn open(server: SocketAddr, kind: u8) -> io::Result<Socket> {
    let mut socket = Socket::connect(server, Discipline::Watched)?;
    socket.send_at_once()?;
    io::Write::write_all(&mut socket, &[kind])?;
    Ok(socket)
}

/// Whatever comes goes back.
const ECHO: u8 = 1;
/// Bytes are counted; at the end of them the count goes back.
const SINK: u8 = 2;
/// One message goes back, then the server closes.
const ONCE: u8 = 3;
/// The server sends as many bytes as the next eight say, then does nothing.
const SOURCE: u8 = 4;
const BLOCK_LEN: usize = 128 * 1024;
/// The one message of a new connection.
const ONCE_LEN: usize = 64;
