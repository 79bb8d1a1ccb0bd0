//! A pod as the kernel side captures it, and the cookies that name namespaces and sockets.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::sockopt;

/// A pod whose traffic shall be captured.
#[derive(Debug, Clone, Copy)]
pub struct PodCapture<'a> {
    /// The pod's uid: names its pins.
    pub uid: &'a str,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// The cookie of that namespace (see [`NetnsCookie::of_socket`]).
    pub netns_cookie: NetnsCookie,
    /// Its addresses: connections to them from inside stay inside.
    pub addresses: &'a [IpAddr],
    /// The proxy's listeners for inbound plaintext in that namespace, one for each family.
    pub inbound: &'a [BorrowedFd<'a>],
    /// Whether sockets of its applications may enter the sockmap, where the node's mode lets any.
    pub may_join: bool,
}

/// The kernel's number for a network namespace; never reused until the machine reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsCookie(pub u64);

/// The kernel's number for a socket; never reused until the machine reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketCookie(pub u64);

/// Where a captured connection wanted to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginalDestination {
    /// What the application asked for.
    pub requested: SocketAddr,
    /// The backend that the kernel side chose; the same as `requested` when a workload was asked for by its own address.
    pub backend: SocketAddr,
    /// The backend is outside the mesh: only policy led the connection to the proxy, and no tunnel leads on.
    pub is_outside: bool,
}

impl NetnsCookie {
    /// The cookie of the namespace that a socket of any kind lives in.
    ///
    /// # Errors
    /// When the descriptor is no socket, or the kernel is older than 5.14.
    pub fn of_socket(socket: impl AsFd) -> io::Result<Self> {
        cookie(socket.as_fd(), libc::SO_NETNS_COOKIE).map(NetnsCookie)
    }
}

impl SocketCookie {
    /// The cookie of a socket.
    ///
    /// # Errors
    /// When the descriptor is no socket.
    pub fn of_socket(socket: impl AsFd) -> io::Result<Self> {
        Ok(SocketCookie(sockopt::socket_cookie(socket)?))
    }
}

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SocketCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads a 64-bit socket option.
#[expect(unsafe_code, reason = "rustix has no SO_NETNS_COOKIE")]
fn cookie(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    use std::os::fd::AsRawFd as _;

    let mut value = 0u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: `value` and `len` live across the call, `len` says how large `value` is, and any bytes are a valid `u64`;
    // the descriptor is open because it is borrowed.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if status == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}
