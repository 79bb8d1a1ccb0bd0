//! What the kernel side tells about connections that policy refused, or would have refused.

use std::{
    fmt,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use tulle_abi::{SEEN_AT_CALL, VERDICT_EVENTS_LEN};
use zerocopy::FromBytes as _;

use crate::{PolicyDirection, PolicyVerdict};

/// A connection or packet that was denied, or that a rule under audit would have denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerdictEvent {
    /// When, on the monotonic clock.
    pub time: Duration,
    /// The identity whose rules decided; 0 = a pod that is pending.
    pub subject: u32,
    /// The identity of the other end.
    pub peer: u32,
    /// On which side the subject is.
    pub direction: PolicyDirection,
    /// The protocol's number.
    pub protocol: u8,
    /// From where; the port is 0 when it was not chosen yet.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// What became of it. Other than `Deny`: only a rule under audit would have denied it.
    pub verdict: PolicyVerdict,
    /// The rule that denied or would have denied it; 0 = no rule, but that none allowed it.
    pub rule: u32,
    /// Whether it was seen when an application called, or on the wire.
    pub seen: Seen,
}

/// Where a connection was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// When an application called: `connect` or `sendmsg`.
    AtCall,
    /// At the pod's link: a packet that no judged call had sent.
    OnWire,
}

/// The events, oldest first. Its descriptor is readable when there are some.
///
/// Bounded in rate and number: what the kernel side does not tell, it counts.
pub struct VerdictEvents(RingBuf<MapData>);

impl VerdictEvents {
    /// What an earlier process left unread has numbers that mean nothing now.
    pub(crate) fn from_now_on(mut ring: RingBuf<MapData>) -> Self {
        for _ in 0..VERDICT_EVENTS_LEN {
            if ring.next().is_none() {
                break;
            }
        }
        VerdictEvents(ring)
    }

    /// The next event, if there is one now.
    pub fn take_next(&mut self) -> Option<VerdictEvent> {
        while let Some(item) = self.0.next() {
            let event = tulle_abi::VerdictEvent::read_from_bytes(&item).ok();
            // A kind that this build does not know is not told by its own programs.
            if let Some(event) = event.and_then(decode) {
                return Some(event);
            }
        }
        None
    }
}

impl AsFd for VerdictEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for VerdictEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl fmt::Debug for VerdictEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerdictEvents").finish_non_exhaustive()
    }
}

fn decode(event: tulle_abi::VerdictEvent) -> Option<VerdictEvent> {
    Some(VerdictEvent {
        time: Duration::from_nanos(event.time),
        subject: event.subject,
        peer: event.peer,
        direction: PolicyDirection::from_number(event.direction.into())?,
        protocol: event.protocol,
        source: event.source.into(),
        destination: event.destination.into(),
        verdict: PolicyVerdict::from_number(event.verdict)?,
        rule: event.rule,
        seen: if event.seen == SEEN_AT_CALL {
            Seen::AtCall
        } else {
            Seen::OnWire
        },
    })
}
