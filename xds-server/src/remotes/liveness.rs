//! Whether a cluster lives: judged by what its heartbeat key does on our own clock, never by the time that it writes.

use std::time::Duration;

use tokio::time::Instant;

use super::dialect::RemoteKind;
use crate::store::{EtcdError, KeyState};

/// The signs of life of one cluster.
///
/// A Tulle cluster counts twice a second, so each number is a sign. A Cilium cluster writes once a minute; in between, an answer of
/// its etcd is the sign, as long as the minute's value is not overdue.
#[derive(Debug)]
pub(super) struct Liveness {
    kind: RemoteKind,
    /// When the watch last brought the key.
    heard_at: Instant,
    /// The value, as the watch or the last look brought it.
    value: Option<Vec<u8>>,
    /// When the value last changed.
    changed_at: Instant,
    /// Signs given for a Cilium cluster.
    given: u64,
}

impl Liveness {
    pub(super) fn new(kind: RemoteKind, now: Instant) -> Self {
        Liveness {
            kind,
            heard_at: now,
            value: None,
            changed_at: now,
            given: 0,
        }
    }

    /// A connection begins; what was overdue before is given its time again.
    pub(super) fn begin(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// What a fresh connection proves by itself.
    pub(super) fn first_beat(&mut self, now: Instant) -> Option<u64> {
        match self.kind {
            RemoteKind::Tulle => None,
            RemoteKind::Cilium => self.give(now),
        }
    }

    /// A list brought the key.
    pub(super) fn listed(&mut self, value: &[u8], now: Instant) {
        self.note(value, now);
    }

    /// The watch brought the key.
    pub(super) fn heard(&mut self, key: &KeyState, beat: Option<u64>, now: Instant) -> Option<u64> {
        self.heard_at = now;
        if let KeyState::Value(value) = key {
            self.note(value, now);
        }
        match self.kind {
            RemoteKind::Tulle => beat,
            RemoteKind::Cilium => self.give(now),
        }
    }

    /// Whether the key should be read.
    pub(super) fn wants_look(&self, now: Instant) -> bool {
        match self.kind {
            RemoteKind::Tulle => now.duration_since(self.heard_at) >= QUIET_MAX,
            RemoteKind::Cilium => true,
        }
    }

    /// The key was read.
    ///
    /// # Errors
    ///
    /// When the watch stands still although there is news.
    pub(super) fn looked(
        &mut self,
        value: Option<&[u8]>,
        now: Instant,
    ) -> Result<Option<u64>, EtcdError> {
        let stuck = value.is_some() && self.value.as_deref() != value;
        match self.kind {
            // It may have come between the wait and the read; then the next connection begins with it.
            RemoteKind::Tulle if stuck => Err(EtcdError::WatchEnded {
                reason: "it stands still".to_owned(),
            }),
            RemoteKind::Tulle => Ok(None),
            RemoteKind::Cilium => {
                if let Some(value) = value {
                    self.note(value, now);
                }
                Ok(self.give(now))
            }
        }
    }

    fn note(&mut self, value: &[u8], now: Instant) {
        if self.value.as_deref() != Some(value) {
            self.value = Some(value.to_vec());
            self.changed_at = now;
        }
    }

    fn give(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.changed_at) >= CILIUM_OVERDUE {
            return None;
        }
        self.given += 1;
        Some(self.given)
    }
}

/// Six heartbeats of a Tulle cluster.
const QUIET_MAX: Duration = Duration::from_secs(3);
/// Cilium writes every minute and takes two minutes without for a failure; a little is added for the way.
const CILIUM_OVERDUE: Duration = Duration::from_secs(130);

#[cfg(test)]
mod tests;
