//! The socket options that no safe wrapper offers. Nothing here decides anything.

#![expect(unsafe_code, reason = "setsockopt and ioctl without a safe wrapper")]

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

/// Asks for the port at `connect()` instead of at `bind()`.
///
/// Without it a bind to port 0 searches a port that is free for *every* destination: slow, and exhausted after 28,000 connections.
pub(crate) fn set_bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// How many bytes were written to the socket and not yet acknowledged by its peer.
pub(crate) fn unacknowledged_len(socket: &impl AsFd) -> io::Result<usize> {
    let mut value: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call and SIOCOUTQ (= TIOCOUTQ) writes one int to the valid pointer.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut value) };
    if result == 0 {
        Ok(usize::try_from(value).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How long a connection's round trips take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundTrips {
    /// The fastest of the last minutes (`tcpi_min_rtt`).
    pub(crate) fastest: Duration,
    /// Lately, on average (`tcpi_rtt`).
    pub(crate) smoothed: Duration,
    /// How far from that they were lately, on average (`tcpi_rttvar`).
    pub(crate) variation: Duration,
}

/// What the kernel saw of a connection's round trips (`TCP_INFO`).
pub(crate) fn round_trips(socket: &impl AsFd) -> io::Result<RoundTrips> {
    let mut info = [0_u32; TCP_INFO_LEN / size_of::<u32>()];
    let mut len = libc::socklen_t::try_from(TCP_INFO_LEN).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call, the pointer is to a live array and `len` is its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let field = |offset: usize| {
        let micros = info.get(offset / size_of::<u32>()).copied();
        // All ones: no round trip was seen.
        let seen = micros.filter(|_| len as usize >= offset + size_of::<u32>());
        seen.filter(|micros| *micros != u32::MAX)
            .map(|micros| Duration::from_micros(micros.into()))
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    };
    Ok(RoundTrips {
        fastest: field(MIN_RTT_OFFSET)?,
        smoothed: field(RTT_OFFSET)?,
        variation: field(RTT_VARIATION_OFFSET)?,
    })
}

// `struct tcp_info` of the uapi header `linux/tcp.h`, up to and with `tcpi_min_rtt` (Linux 4.6).
const RTT_OFFSET: usize = 68;
const RTT_VARIATION_OFFSET: usize = 72;
const MIN_RTT_OFFSET: usize = 148;
const TCP_INFO_LEN: usize = 152;

fn set_int(socket: &impl AsFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call, the pointer is to a live int and `len` is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
