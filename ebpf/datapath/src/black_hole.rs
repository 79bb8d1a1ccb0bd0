//! Sockets that answer nothing: where calls are led that policy denies, so that a denial looks like a network that loses packets.
//!
//! They are bound, so the kernel answers with no reset and no "unreachable"; and a filter drops every packet before they see it, so a
//! connection is never established and a datagram never queued. All that happens on the pod's loopback: nothing leaves.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::BLACK_HOLE_PORT;

/// The black hole of one network namespace; it is there as long as this value.
#[derive(Debug)]
pub struct BlackHole {
    _sockets: Vec<Socket>,
}

impl BlackHole {
    /// Opens it in the namespace of the calling thread. The ports are shared, so that a successor can open its own first.
    ///
    /// # Errors
    /// When the port is in use by somebody else. A family that the namespace lacks is left out, unless it is IPv6 and `needs_v6`.
    pub fn open(needs_v6: bool) -> io::Result<Self> {
        let kinds = [(Type::STREAM, Protocol::TCP), (Type::DGRAM, Protocol::UDP)];
        let ips = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let mut sockets = Vec::new();
        for ip in ips {
            for (kind, protocol) in kinds {
                match open(SocketAddr::new(ip, BLACK_HOLE_PORT), kind, protocol) {
                    Ok(socket) => sockets.push(socket),
                    Err(_) if ip.is_ipv6() && !needs_v6 => {}
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(BlackHole { _sockets: sockets })
    }
}

/// The filter is there before the address, so that no packet comes in between.
fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        kind.nonblocking().cloexec(),
        Some(protocol),
    )?;
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, NO_BYTES)])?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if protocol == Protocol::TCP {
        socket.listen(1)?;
    }
    Ok(socket)
}

/// `BPF_RET | BPF_K`: the packet is cut to as many bytes as the constant says.
const RETURN: u16 = 0x06;
/// A packet of no bytes is dropped.
const NO_BYTES: u32 = 0;
