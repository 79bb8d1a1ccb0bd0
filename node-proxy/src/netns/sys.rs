//! The calls to sockets that no safe wrapper offers. Nothing here decides anything.

#![expect(
    unsafe_code,
    reason = "setsockopt, ioctl and recvmsg without a safe wrapper"
)]

use std::{
    io::{self, IoSliceMut},
    mem::{offset_of, size_of},
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

/// Has the kernel say with each read what it still has (`TCP_INQ`, Linux 4.18); see [`receive`]. Accepted sockets inherit it.
pub(crate) fn tell_what_is_left(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_INQ, 1)
}

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) len: usize,
    /// Bytes that can be read at once; the end of the stream counts as one. `None` where the kernel does not say: the socket was not
    /// asked by [`tell_what_is_left`], or the bytes came through the sockmap.
    pub(crate) left: Option<usize>,
}

impl Received {
    /// Whether the next read would find nothing, not even the end.
    pub(crate) fn is_last(self) -> bool {
        self.len > 0 && self.left == Some(0)
    }
}

/// Reads into `slices`, one after the other.
pub(crate) fn receive(socket: &impl AsFd, slices: &mut [IoSliceMut<'_>]) -> io::Result<Received> {
    // SAFETY: both are plain data, for which zeroes are valid.
    let (mut told, mut message): (Told, libc::msghdr) = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_mut_ptr().cast();
    message.msg_iovlen = slices.len();
    message.msg_control = (&raw mut told).cast();
    message.msg_controllen = size_of::<Told>();
    // SAFETY: the descriptor is borrowed for the call; `IoSliceMut` has the layout of `iovec`; both pointers are to live, writable
    // memory of the lengths beside them.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let header = &told.header;
    let is_told = header.cmsg_level == libc::IPPROTO_TCP
        && header.cmsg_type == libc::TCP_CM_INQ
        && header.cmsg_len >= offset_of!(Told, left) + size_of::<libc::c_int>();
    let left = is_told.then(|| usize::try_from(told.left).ok()).flatten();
    Ok(Received { len, left })
}

/// A control message of one int. Its data follow the header without a gap, on 64-bit machines (`CMSG_DATA`).
#[repr(C)]
struct Told {
    header: libc::cmsghdr,
    left: libc::c_int,
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
