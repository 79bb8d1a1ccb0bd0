//! What the server knows about its connection to another cluster.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tulle_model::{ClusterName, TrustDomain};
pub use tulle_wire::management::RemoteState;

use super::number;
use crate::{remotes::RemoteKind, rfc3339::rfc3339};

/// Another cluster.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteStatus {
    /// Its name.
    pub name: String,
    /// What publishes there.
    pub kind: RemoteKind,
    /// How far the connection is; computed from the rest when the board is read.
    pub state: RemoteState,
    /// Its id, once read.
    pub cluster_id: Option<u16>,
    /// Its trust domain, once read.
    pub trust_domain: Option<TrustDomain>,
    /// Where it is read.
    pub endpoints: Vec<String>,
    /// The address that answered.
    pub address: Option<String>,
    /// Its etcd is being watched.
    pub connected: bool,
    /// Its complete state was read since the start.
    pub complete: bool,
    /// Its heartbeat stands still; its workloads are used last.
    pub demoted: bool,
    /// Why it is not taken in, if it is not.
    pub refused: Option<String>,
    /// How long ago its heartbeat moved.
    pub heartbeat_age_ms: Option<u64>,
    /// What went wrong last; it stays when it works again.
    pub last_error: Option<String>,
    /// When that was, in the form of RFC 3339.
    pub last_error_at: Option<String>,
    /// The same in seconds since 1970.
    #[serde(skip)]
    pub last_error_unix: Option<u64>,
    /// How often the connection was lost or could not be made.
    pub failures: u64,
    /// How often the connection was made again.
    pub reconnections: u64,
    /// Facts that were not believed or could not be read.
    pub refusals: u64,
    /// Times that facts changed.
    pub changes: u64,
    /// Which kinds of facts are complete.
    pub synced: BTreeMap<&'static str, bool>,
    /// How many facts of each kind are known.
    pub counts: BTreeMap<&'static str, usize>,
    /// What was read.
    pub bytes: RemoteBytes,
    /// It was connected before.
    #[serde(skip)]
    pub was_connected: bool,
}

/// Bytes of keys and values.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteBytes {
    /// All that was read since the start.
    pub read: u64,
    /// What the last change of facts cost.
    pub last_change: u64,
}

impl RemoteStatus {
    /// A cluster that is configured and not reached yet.
    pub fn new(cluster: &ClusterName, kind: RemoteKind, endpoints: Vec<String>) -> Self {
        RemoteStatus {
            name: cluster.to_string(),
            kind,
            endpoints,
            demoted: true,
            ..RemoteStatus::default()
        }
    }

    /// Something went wrong.
    pub fn note_error(&mut self, text: &str) {
        let now = SystemTime::now();
        self.last_error = Some(text.to_owned());
        self.last_error_at = Some(rfc3339(now));
        self.last_error_unix = now.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs());
    }

    pub(super) fn state_now(&self) -> RemoteState {
        let whole = self.complete && self.synced.values().all(|whole| *whole);
        if self.refused.is_some() {
            RemoteState::Refused
        } else if self.demoted && self.heartbeat_age_ms.is_some() {
            RemoteState::Silent
        } else if !self.connected {
            RemoteState::Connecting
        } else if whole && !self.demoted {
            RemoteState::Ready
        } else {
            RemoteState::Syncing
        }
    }

    /// Names of clusters are letters, digits and dashes, which need no escaping.
    pub(super) fn gauges(&self, name: &str, gauges: &mut Vec<(String, f64)>) {
        let flag = |on: bool| if on { 1.0 } else { 0.0 };
        let mut gauge = |what: &str, value| {
            let metric = format!("tulle_clustermesh_remote_cluster_{what}");
            gauges.push((format!("{metric}{{target_cluster=\"{name}\"}}"), value));
        };
        for (what, count) in &self.counts {
            gauge(what, number(*count));
        }
        let failed_at = self.last_error_unix.map_or(0.0, large);
        gauge("failures", large(self.failures));
        gauge("reconnections", large(self.reconnections));
        gauge("refusals", large(self.refusals));
        gauge("last_failure_ts", failed_at);
        gauge("readiness_status", flag(self.state == RemoteState::Ready));
        gauge("connected", flag(self.connected));
        gauge("silent", flag(self.state == RemoteState::Silent));
        gauge("refused", flag(self.state == RemoteState::Refused));
        gauge("last_change_bytes", large(self.bytes.last_change));
        if let Some(age) = self.heartbeat_age_ms {
            gauge("heartbeat_age_seconds", large(age) / 1000.0);
        }
    }
}

/// Exact up to four thousand million times a million; for a gauge near enough beyond.
fn large(value: u64) -> f64 {
    let part = |bits| u32::try_from(bits).map_or(f64::INFINITY, f64::from);
    part(value >> 32) * 4_294_967_296.0 + part(value & u64::from(u32::MAX))
}
