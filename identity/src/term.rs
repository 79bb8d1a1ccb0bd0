//! For how long a connection may be used: as long as the certificates that it was opened with.
//!
//! A handshake proves an identity at one moment, and a connection may go on for days. Envoy and ztunnel look at a certificate's end
//! in the handshake only, so that whoever was taken out of the mesh is heard as long as it keeps its connections open; what their
//! users are given instead is an age for connections, which has to be guessed. Here every connection knows its own end.
//!
//! The end is the handshake's own: a connection is good for exactly as long as the same handshake would succeed. It is compared with
//! the wall clock when the connection is about to be used, since that clock may be set while a timer runs.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use crate::{svid::Svid, verify::Peer};

/// The end of what a connection was opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// The first second, since 1970, in which nothing new may begin. Eight bytes: there is one for each connection.
    over_at: u64,
}

impl Term {
    /// For whoever looks at the peer's certificate only.
    pub fn of_peer(peer: &Peer) -> Self {
        Term::until(peer.not_after)
    }

    /// For both ends' certificates: the one that ends first counts.
    pub fn of_both(own: &Svid, peer: &Peer) -> Self {
        Term::until(own.not_after().min(peer.not_after))
    }

    /// A certificate is valid in its last second, to the end of it.
    fn until(not_after: SystemTime) -> Self {
        Term {
            over_at: seconds(not_after).saturating_add(1),
        }
    }

    /// Whether nothing new may begin on the connection.
    pub fn is_over(self, now: SystemTime) -> bool {
        seconds(now) >= self.over_at
    }

    /// How much is left, by a clock that may be set.
    pub fn left(self, now: SystemTime) -> Duration {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Duration::from_secs(self.over_at).saturating_sub(now)
    }

    /// Resolves when the term is over.
    pub async fn end(self, clock: impl Fn() -> SystemTime) {
        wait_while(|| self.left(clock())).await;
    }
}

/// Waits for a time of the wall clock, which may jump: it is looked at again and again.
pub(crate) async fn wait_while(left: impl Fn() -> Duration) {
    loop {
        let left = left();
        if left.is_zero() {
            return;
        }
        sleep(left.min(CLOCK_CHECK_INTERVAL)).await;
    }
}

/// The seconds since 1970 that have begun; none before that year, when nothing was valid.
fn seconds(moment: SystemTime) -> u64 {
    moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A clock that was set forward is noticed within this time.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
