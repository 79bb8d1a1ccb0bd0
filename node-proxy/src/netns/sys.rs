//! The socket options that no safe wrapper offers. Nothing here decides anything.

#![expect(unsafe_code, reason = "setsockopt and ioctl without a safe wrapper")]

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
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
