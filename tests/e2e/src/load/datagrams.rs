//! UDP: round trips of unconnected sockets, and what `connect()` costs.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::latency::Latency;

/// Round trips of one datagram each, sent without `connect()`: the path that is decided anew for each. Returns how many got lost as well.
///
/// # Errors
/// What the socket says; `TimedOut` when more than a hundredth got lost.
pub fn round_trips(
    server: SocketAddr,
    size: usize,
    time: Duration,
) -> io::Result<(Latency, usize)> {
    let socket = bound_for(server)?;
    socket.set_read_timeout(Some(LOST_AFTER))?;
    let mut message = vec![7u8; size.max(8)];
    let mut block = vec![0u8; message.len()];
    let (mut samples, mut lost) = (Vec::new(), 0);
    let begun = Instant::now();
    let mut number = 0u64;
    while begun.elapsed() < time {
        number += 1;
        message[..8].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        socket.send_to(&message, server)?;
        loop {
            match socket.recv_from(&mut block) {
                // The answer to one that was given up.
                Ok(_) if block.get(..8) != message.get(..8) => {}
                Ok(_) => {
                    samples.push(sent.elapsed());
                    break;
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    lost += 1;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
    }
    if lost * 100 > samples.len() {
        let text = format!("{lost} datagrams got lost, {} came back", samples.len());
        return Err(io::Error::new(ErrorKind::TimedOut, text));
    }
    Ok((Latency::new(samples, begun.elapsed()), lost))
}

/// What one `connect()` costs. On a UDP socket no packet is sent, so what is measured is the call and whoever decides inside of it.
///
/// # Errors
/// What the socket says.
pub fn dial(server: SocketAddr, time: Duration) -> io::Result<Latency> {
    let socket = bound_for(server)?;
    let mut samples = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        // The clock costs a part of what is measured, so several calls share one reading.
        let at = Instant::now();
        for _ in 0..CALLS_PER_SAMPLE {
            socket.connect(server)?;
        }
        samples.push(at.elapsed() / CALLS_PER_SAMPLE);
    }
    Ok(Latency::new(samples, begun.elapsed()))
}

fn bound_for(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
}

const LOST_AFTER: Duration = Duration::from_secs(1);
const CALLS_PER_SAMPLE: u32 = 16;
