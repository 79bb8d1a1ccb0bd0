//! What is counted about the health of endpoints.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{Failure, Witness};

/// A counter for each pair of labels.
type ByPair = Family<[(&'static str, &'static str); 2], Counter>;
/// A counter for each value of one label.
type ByLabel = Family<[(&'static str, &'static str); 1], Counter>;

/// What is counted about the health of endpoints.
#[derive(Debug)]
pub struct HealthMetrics {
    failures: ByPair,
    /// Endpoints that were left out.
    pub ejections: Counter,
    restorations: ByLabel,
    ejected: Gauge,
    /// From a failure that the kernel saw to the kernel's tables.
    pub(super) destroyed: Counter,
    pub(super) destroy_failures: Counter,
    /// How long it takes to find and destroy connections.
    pub(super) destroy_seconds: Histogram,
    pub(super) dead_addresses: Counter,
    probes: ByLabel,
    dead_clusters: Gauge,
    /// Clusters that were avoided after a failure.
    pub(super) suspicions: Counter,
    suspected: Gauge,
}

impl Default for HealthMetrics {
    fn default() -> Self {
        HealthMetrics {
            failures: Family::default(),
            ejections: Counter::default(),
            restorations: Family::default(),
            ejected: Gauge::default(),
            destroyed: Counter::default(),
            destroy_failures: Counter::default(),
            destroy_seconds: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
            dead_addresses: Counter::default(),
            probes: Family::default(),
            dead_clusters: Gauge::default(),
            suspicions: Counter::default(),
            suspected: Gauge::default(),
        }
    }
}

impl HealthMetrics {
    /// Adds everything to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "tulle_endpoint_ejections",
                "Endpoints that were left out for a while because connections to them failed",
                &self.ejections,
            ),
            (
                "tulle_dead_addresses",
                "Addresses whose connections were reset because nobody is there any more",
                &self.dead_addresses,
            ),
            (
                "tulle_destroyed_connections",
                "Connections that were reset because nobody is at their far end any more",
                &self.destroyed,
            ),
            (
                "tulle_destroy_failures",
                "Connections, or pods, where that failed",
                &self.destroy_failures,
            ),
            (
                "tulle_cluster_suspicions",
                "Clusters that were avoided after a connection to one of their endpoints failed",
                &self.suspicions,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "tulle_endpoint_failures",
            "Connections to endpoints that failed, by how and by who saw it",
            self.failures.clone(),
        );
        registry.register(
            "tulle_endpoint_restorations",
            "Endpoints that came back, by why",
            self.restorations.clone(),
        );
        registry.register(
            "tulle_endpoints_ejected",
            "Endpoints that are left out now",
            self.ejected.clone(),
        );
        registry.register(
            "tulle_destroy_seconds",
            "How long it takes to find and reset the connections to dead addresses",
            self.destroy_seconds.clone(),
        );
        registry.register(
            "tulle_cluster_probes",
            "Probes of the endpoints of silent and suspected clusters, by outcome",
            self.probes.clone(),
        );
        registry.register(
            "tulle_dead_clusters",
            "Silent clusters of which no endpoint can be reached",
            self.dead_clusters.clone(),
        );
        registry.register(
            "tulle_clusters_suspected",
            "Clusters that are avoided until one of their endpoints answers",
            self.suspected.clone(),
        );
    }

    /// How many failures of a kind somebody saw.
    pub fn failures(&self, failure: Failure, witness: Witness) -> u64 {
        self.failures.get_or_create(&labels(failure, witness)).get()
    }

    pub(super) fn failure(&self, failure: Failure, witness: Witness) {
        self.failures.get_or_create(&labels(failure, witness)).inc();
    }

    pub(super) fn restored(&self, why: &'static str) {
        self.restorations.get_or_create(&[("reason", why)]).inc();
    }

    pub(super) fn set_ejected(&self, count: usize) {
        self.ejected.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn set_suspected(&self, count: usize) {
        self.suspected.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn probed(&self, outcome: &'static str) {
        self.probes.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(super) fn set_dead_clusters(&self, count: usize) {
        self.dead_clusters
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

fn labels(failure: Failure, witness: Witness) -> [(&'static str, &'static str); 2] {
    let kind = match failure {
        Failure::Refused => "refused",
        Failure::Unreachable => "unreachable",
        Failure::Silent => "silent",
    };
    let witness = match witness {
        Witness::Kernel => "kernel",
        Witness::Proxy => "proxy",
    };
    [("kind", kind), ("witness", witness)]
}
