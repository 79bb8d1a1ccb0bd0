//! What a publisher writes where: the keys that are its own, its sign of life, and the marks that say that all is there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tulle_model::ClusterName;

use crate::{cilium, layout, rfc3339::rfc3339};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct PublishPlan {
    /// What is under these belongs to the cluster: what should not be there is deleted.
    pub(super) prefixes: Vec<String>,
    /// Single keys of the same kind.
    pub(super) singles: Vec<String>,
    /// Written before all others.
    pub(super) first: String,
    /// Written once everything is.
    pub(super) marks: Vec<String>,
    pub(super) heartbeat: String,
    pub(super) heartbeat_interval: Duration,
    /// How long the heartbeat outlives the publisher.
    pub(super) lease_ttl: Duration,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tulle,
    Cilium,
}

impl PublishPlan {
    /// The own layout.
    pub fn tulle(cluster: &ClusterName) -> Self {
        let prefix = layout::prefix(cluster);
        PublishPlan {
            first: format!("{prefix}{}", layout::INFO),
            marks: vec![format!("{prefix}{}", layout::SYNCED)],
            heartbeat: format!("{prefix}{}", layout::HEARTBEAT),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            lease_ttl: LEASE_TTL,
            prefixes: vec![prefix],
            singles: Vec::new(),
            kind: Kind::Tulle,
        }
    }

    /// The layout of Cilium's Cluster Mesh.
    pub fn cilium(cluster: &ClusterName) -> Self {
        let config = cilium::keys::config(cluster);
        PublishPlan {
            prefixes: cilium::keys::published_prefixes(cluster),
            singles: vec![config.clone()],
            first: config,
            marks: cilium::keys::published_marks(cluster),
            heartbeat: cilium::keys::HEARTBEAT.to_owned(),
            heartbeat_interval: CILIUM_HEARTBEAT_INTERVAL,
            lease_ttl: CILIUM_LEASE_TTL,
            kind: Kind::Cilium,
        }
    }

    /// For messages.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Tulle => "tulle",
            Kind::Cilium => "cilium",
        }
    }

    /// Whether this is what the status page means by the store.
    pub(crate) fn is_own(&self) -> bool {
        self.kind == Kind::Tulle
    }

    /// Whether marks end with the publisher, as Cilium's do.
    pub(super) fn marks_are_leased(&self) -> bool {
        self.kind == Kind::Cilium
    }

    /// The value of a mark.
    pub(super) fn mark(&self) -> String {
        match self.kind {
            Kind::Tulle => "true".to_owned(),
            Kind::Cilium => rfc3339(SystemTime::now()),
        }
    }

    /// The next sign of life: new every time, also after a restart and when the clock steps back within a run.
    pub(super) fn beat(&self, last: &mut u64) -> String {
        let now = SystemTime::now();
        let clock = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        *last = u64::try_from(clock)
            .unwrap_or(u64::MAX)
            .max(last.saturating_add(1));
        match self.kind {
            Kind::Tulle => last.to_string(),
            Kind::Cilium => rfc3339(now),
        }
    }

    /// Keys that come and go by other rules than the state's.
    pub(super) fn is_special(&self, key: &str) -> bool {
        key == self.heartbeat || self.marks.iter().any(|mark| mark == key)
    }
}

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Long against an etcd restart, so that a short one leaves the key where it is.
const LEASE_TTL: Duration = Duration::from_secs(20);
const CILIUM_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);
const CILIUM_LEASE_TTL: Duration = Duration::from_secs(15 * 60);
