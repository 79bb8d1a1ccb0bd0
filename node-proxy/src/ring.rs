//! Waits for what the kernel's programs tell through a ring.

use std::{io, os::fd::AsRawFd};

use tokio::io::{Interest, unix::AsyncFd};
use tulle_datapath::{ConnectEvents, VerdictEvents};

/// A reader of a ring that owns the ring's descriptor from its beginning to its drop, and always answers with that one.
pub(crate) trait Ring: AsRawFd {}

impl Ring for ConnectEvents {}
impl Ring for VerdictEvents {}

/// Makes it possible to wait for a ring.
#[expect(unsafe_code, reason = "tokio asks for a promise that no type can give")]
pub(crate) fn watch<R: Ring>(ring: R) -> io::Result<AsyncFd<R>> {
    // SAFETY: what `Ring` says of all readers.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}
