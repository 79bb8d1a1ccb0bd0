//! The last verdicts that somebody may ask about: what was denied, and what only an audit let pass.
//!
//! Decides what of them is kept: a bounded number, repeats of one as one with a count, so that a client that tries again and again
//! does not push out all others. Cilium shows them through a relay and a program of their own; here they stand in the dump.

use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tulle_model::Directory;
use tulle_policy::compiled::Direction;

/// Where something was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SeenAt {
    /// By the kernel, when an application called `connect` or `sendmsg`.
    Call,
    /// By the kernel, at the pod's link.
    Wire,
    /// By a proxy.
    Proxy,
    /// Of a connection that stood already when the rules changed.
    Standing,
}

impl SeenAt {
    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SeenAt::Call => "call",
            SeenAt::Wire => "wire",
            SeenAt::Proxy => "proxy",
            SeenAt::Standing => "standing",
        }
    }
}

/// A verdict to be kept.
pub(crate) struct Told<'a> {
    /// Whether the subject of the rules is the destination or the source.
    pub(crate) direction: Direction,
    /// The protocol's number.
    pub(crate) protocol: u8,
    /// From where.
    pub(crate) source: IpAddr,
    /// To where.
    pub(crate) destination: SocketAddr,
    /// `deny` or `audit`.
    pub(crate) outcome: &'static str,
    /// Where it was judged.
    pub(crate) seen: SeenAt,
    /// What decided.
    pub(crate) because: &'a dyn fmt::Display,
}

/// One verdict, and how often it fell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecentVerdict {
    direction: &'static str,
    protocol: u8,
    source: IpAddr,
    /// Who has that address.
    source_workload: Option<String>,
    destination: SocketAddr,
    destination_workload: Option<String>,
    verdict: &'static str,
    seen: SeenAt,
    because: String,
    count: u64,
    /// In milliseconds since 1970.
    first: u64,
    last: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct RecentVerdicts {
    /// The one that fell last is at the end.
    kept: Mutex<VecDeque<RecentVerdict>>,
}

impl RecentVerdicts {
    /// Keeps one more.
    pub(crate) fn note(&self, directory: &Directory, told: &Told<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.as_ref().map_or(0, |since| millis(*since));
        let mut kept = self.lock();
        if let Some(index) = kept.iter().position(|old| old.is_repeated_by(told)) {
            if let Some(mut old) = kept.remove(index) {
                old.count = old.count.saturating_add(1);
                if now.saturating_sub(old.last) > RENDER_PAUSE_MILLIS {
                    old.because = told.because.to_string();
                }
                old.last = now;
                kept.push_back(old);
            }
            return;
        }
        let workload = |ip: IpAddr| {
            directory
                .workload_at(ip)
                .map(|found| found.uid.0.to_string())
        };
        let fresh = RecentVerdict {
            direction: told.direction.name(),
            protocol: told.protocol,
            source: told.source,
            source_workload: workload(told.source),
            destination: told.destination,
            destination_workload: workload(told.destination.ip()),
            verdict: told.outcome,
            seen: told.seen,
            because: told.because.to_string(),
            count: 1,
            first: now,
            last: now,
        };
        if kept.len() >= RECENT_MAX {
            kept.pop_front();
        }
        kept.push_back(fresh);
    }

    /// All that are kept, the newest first.
    pub(crate) fn list(&self) -> Vec<RecentVerdict> {
        self.lock().iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RecentVerdict>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecentVerdict {
    fn is_repeated_by(&self, told: &Told<'_>) -> bool {
        self.source == told.source
            && self.destination == told.destination
            && self.direction == told.direction.name()
            && self.protocol == told.protocol
            && self.verdict == told.outcome
            && self.seen == told.seen
    }
}

fn millis(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Verdicts that are kept. Some 300 bytes each.
const RECENT_MAX: usize = 256;
/// A verdict that falls all the time is put into words once in this time.
const RENDER_PAUSE_MILLIS: u64 = 1_000;

#[cfg(test)]
mod tests;
