//! What the kernel side tells about connections that lead straight to a backend.

use std::{
    fmt,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use tulle_abi::{CONNECT_RECOVERED, CONNECT_REFUSED, CONNECT_SILENT, CONNECT_UNREACHABLE};
use zerocopy::FromBytes as _;

/// What became of a connection to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectEvent {
    /// The backend.
    pub backend: SocketAddr,
    /// What became of it.
    pub outcome: ConnectOutcome,
}

/// What became of a connection. A connection that succeeds at once is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectOutcome {
    /// The backend's node answered with a reset: nobody listens.
    Refused,
    /// The network says that there is no way.
    Unreachable,
    /// The first packet was not answered in time. The kernel goes on trying.
    Silent,
    /// It was silent and answered after all.
    Recovered,
}

/// The events, oldest first. Its descriptor is readable when there are some.
///
/// Bounded: when nobody reads, the kernel side counts what it cannot tell.
pub struct ConnectEvents(RingBuf<MapData>);

impl ConnectEvents {
    /// What an earlier process left unread is too old to act upon.
    pub(crate) fn from_now_on(mut ring: RingBuf<MapData>) -> Self {
        for _ in 0..tulle_abi::EVENTS_LEN {
            if ring.next().is_none() {
                break;
            }
        }
        ConnectEvents(ring)
    }

    /// The next event, if there is one now.
    pub fn take_next(&mut self) -> Option<ConnectEvent> {
        while let Some(item) = self.0.next() {
            let event = tulle_abi::ConnectEvent::read_from_bytes(&item).ok();
            // A kind that this build does not know is not told by its own programs.
            if let Some(event) = event.and_then(decode) {
                return Some(event);
            }
        }
        None
    }
}

impl AsFd for ConnectEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for ConnectEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl fmt::Debug for ConnectEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectEvents").finish_non_exhaustive()
    }
}

fn decode(event: tulle_abi::ConnectEvent) -> Option<ConnectEvent> {
    let outcome = match event.outcome {
        CONNECT_REFUSED => ConnectOutcome::Refused,
        CONNECT_UNREACHABLE => ConnectOutcome::Unreachable,
        CONNECT_SILENT => ConnectOutcome::Silent,
        CONNECT_RECOVERED => ConnectOutcome::Recovered,
        _ => return None,
    };
    Some(ConnectEvent {
        backend: event.backend.into(),
        outcome,
    })
}
