//! How the proxy's TCP sockets are set up. Options that a listener hands down to what it accepts are set once, on the listener.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::sys;
use crate::tunnel::Congestion;

/// What a socket will carry; it decides the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketPurpose {
    /// Bytes of an application, on the pod's side.
    Application,
    /// Bytes of an application, over the network without a tunnel.
    Plaintext,
    /// A tunnel to another pod.
    Tunnel {
        /// How long sent bytes may stay unacknowledged before the connection counts as dead.
        user_timeout: Duration,
        /// How many bytes may wait unsent in the kernel; more would only be a queue in front of small messages.
        unsent_len_max: u32,
        /// What to do about pacing; `None` where the system does not pace.
        congestion: Option<Congestion>,
    },
}

/// Opens a listener in the namespace of the calling thread.
///
/// The port is shared (`SO_REUSEPORT`), so that a successor can bind it before this process leaves.
///
/// # Errors
/// What the kernel says, chiefly that the address is in use by somebody else.
pub fn listen_tcp(
    address: SocketAddr,
    backlog: i32,
    purpose: SocketPurpose,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_up(&socket, purpose)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Makes a socket that will connect, in the namespace of the calling thread.
///
/// # Errors
/// What the kernel says.
pub fn new_stream_socket(domain: Domain, purpose: SocketPurpose) -> io::Result<Socket> {
    let socket = Socket::new(
        domain,
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    sys::set_bind_address_no_port(&socket)?;
    set_up(&socket, purpose)?;
    Ok(socket)
}

fn set_up(socket: &Socket, purpose: SocketPurpose) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    match purpose {
        SocketPurpose::Application => {
            sys::tell_what_is_left(socket)?;
            socket.set_linger(RESET_AT_CLOSE)
        }
        SocketPurpose::Plaintext => {
            set_keepalive(socket)?;
            sys::tell_what_is_left(socket)?;
            socket.set_linger(RESET_AT_CLOSE)
        }
        SocketPurpose::Tunnel {
            user_timeout,
            unsent_len_max,
            congestion,
        } => {
            set_keepalive(socket)?;
            if let Some(congestion) = congestion {
                congestion.begin(socket);
            }
            socket.set_tcp_user_timeout(Some(user_timeout))?;
            socket.set_tcp_notsent_lowat(unsent_len_max)
        }
    }
}

fn set_keepalive(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES),
    )
}

/// An application must never take a cut connection for a finished one. With a linger time of zero every close is a reset, also
/// the kernel's own when this process is killed; a clean end takes the linger away first.
const RESET_AT_CLOSE: Option<Duration> = Some(Duration::ZERO);
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
