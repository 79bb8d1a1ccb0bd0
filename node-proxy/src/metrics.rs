//! What the control side counts, and how all numbers of the process are written down.
//!
//! Names and label values are closed sets of static texts: no peer can make a series.

mod held;
mod process;
mod turns;

use std::sync::Arc;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

pub use held::HeldCollector;
pub use process::ProcessCollector;
pub use turns::TurnsCollector;

/// Everything that the control side counts.
#[derive(Debug, Default)]
pub struct ControlMetrics {
    /// Questions to the pods' resolvers.
    pub dns: Arc<DnsMetrics>,
    /// The stream from the xds-server.
    pub xds: Arc<XdsMetrics>,
    /// The kernel's tables.
    pub kernel: Arc<KernelSyncMetrics>,
    /// The pods of this node.
    pub pods: Arc<PodMetrics>,
}

impl ControlMetrics {
    /// Adds everything to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.dns.register(registry);
        self.xds.register(registry);
        self.kernel.register(registry);
        self.pods.register(registry);
    }
}

/// Writes a gauge that is looked up when metrics are asked for; nothing where there is no value.
fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: Option<i64>,
) -> std::fmt::Result {
    let Some(value) = value else { return Ok(()) };
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

/// A counter for each value of one label.
type ByLabel = Family<[(&'static str, &'static str); 1], Counter>;

/// Questions to the pods' resolvers.
#[derive(Debug)]
pub struct DnsMetrics {
    queries: ByLabel,
    upstream: ByLabel,
    /// How long other resolvers took, answered or not.
    pub upstream_seconds: Histogram,
    /// Names that rules speak of and pods resolved.
    pub names: Gauge,
    /// Answers that went out before the kernel knew their addresses.
    pub names_late: Counter,
    /// Answers from which nothing was learned, because there are too many names.
    pub names_full: Counter,
}

impl Default for DnsMetrics {
    fn default() -> Self {
        DnsMetrics {
            queries: Family::default(),
            upstream: Family::default(),
            upstream_seconds: Histogram::new(SECONDS_BUCKETS),
            names: Gauge::default(),
            names_late: Counter::default(),
            names_full: Counter::default(),
        }
    }
}

impl DnsMetrics {
    /// Counts a question by how it ended.
    pub fn query(&self, outcome: QueryOutcome) {
        self.queries
            .get_or_create(&[("outcome", outcome.label())])
            .inc();
    }

    /// How many questions ended so.
    pub fn queries(&self, outcome: QueryOutcome) -> u64 {
        self.queries
            .get_or_create(&[("outcome", outcome.label())])
            .get()
    }

    /// Counts a try at another resolver.
    pub fn upstream(&self, outcome: UpstreamOutcome) {
        self.upstream
            .get_or_create(&[("outcome", outcome.label())])
            .inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "tulle_dns_queries",
            "Questions of pods by how they ended",
            self.queries.clone(),
        );
        registry.register(
            "tulle_dns_upstream_queries",
            "Tries at the pods' own resolvers by how they ended",
            self.upstream.clone(),
        );
        registry.register(
            "tulle_dns_upstream_seconds",
            "How long the pods' own resolvers took",
            self.upstream_seconds.clone(),
        );
        registry.register(
            "tulle_dns_names",
            "Names that rules speak of and pods resolved",
            self.names.clone(),
        );
        registry.register(
            "tulle_dns_names_late",
            "Answers that went out before the kernel knew their addresses",
            self.names_late.clone(),
        );
        registry.register(
            "tulle_dns_names_full",
            "Answers from which nothing was learned, because there are too many names",
            self.names_full.clone(),
        );
    }
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryOutcome {
    /// With records from the view.
    Answered,
    /// The name exists without such records.
    NoData,
    /// The name does not exist.
    NoSuchName,
    /// Passed on to the pod's own resolvers.
    Forwarded,
    /// Too many questions wait already.
    Busy,
    /// The bytes are no question.
    Malformed,
    /// The kind of message is not for us.
    NotImplemented,
    /// The class or version is not for us.
    Refused,
    /// A policy does not allow the name.
    Forbidden,
    /// A policy does not allow the pod's resolvers: no reply, as if they were not there.
    Denied,
    /// No reply was possible.
    Dropped,
}

impl QueryOutcome {
    fn label(self) -> &'static str {
        match self {
            QueryOutcome::Answered => "answered",
            QueryOutcome::NoData => "nodata",
            QueryOutcome::NoSuchName => "nxdomain",
            QueryOutcome::Forwarded => "forwarded",
            QueryOutcome::Busy => "busy",
            QueryOutcome::Malformed => "malformed",
            QueryOutcome::NotImplemented => "not_implemented",
            QueryOutcome::Refused => "refused",
            QueryOutcome::Forbidden => "forbidden",
            QueryOutcome::Denied => "denied",
            QueryOutcome::Dropped => "dropped",
        }
    }
}

/// How a try at another resolver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamOutcome {
    /// With an answer.
    Answered,
    /// Nothing came in time.
    TimedOut,
    /// The network or the host said no.
    Unreachable,
    /// A datagram came that answers something else; it was ignored.
    Mismatched,
}

impl UpstreamOutcome {
    fn label(self) -> &'static str {
        match self {
            UpstreamOutcome::Answered => "answered",
            UpstreamOutcome::TimedOut => "timed_out",
            UpstreamOutcome::Unreachable => "unreachable",
            UpstreamOutcome::Mismatched => "mismatched",
        }
    }
}

/// The stream from the xds-server.
#[derive(Debug, Default)]
pub struct XdsMetrics {
    /// 1 while a stream is open.
    pub connected: Gauge,
    /// Ends of streams and failed attempts, by reason.
    pub terminations: ByLabel,
    /// Responses by type.
    pub responses: ByLabel,
    /// Resources that were accepted, by type.
    pub accepted: ByLabel,
    /// Resources that were refused, by type.
    pub rejected: ByLabel,
    /// Resources that the server removed, by type.
    pub removed: ByLabel,
    /// Times that the view was written to disk, by result.
    pub saves: ByLabel,
}

impl XdsMetrics {
    /// Counts `count` events of a family for one type.
    pub(crate) fn add(family: &ByLabel, kind: &'static str, count: usize) {
        family
            .get_or_create(&[("type", kind)])
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Counts one event by reason.
    pub(crate) fn because(family: &ByLabel, reason: &'static str) {
        family.get_or_create(&[("reason", reason)]).inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "tulle_xds_connected",
            "1 while a stream from the xds-server is open",
            self.connected.clone(),
        );
        let families = [
            (
                "tulle_xds_terminations",
                "Ends of streams and failed attempts",
                &self.terminations,
            ),
            (
                "tulle_xds_responses",
                "Responses of the xds-server",
                &self.responses,
            ),
            (
                "tulle_xds_resources_accepted",
                "Resources that were applied",
                &self.accepted,
            ),
            (
                "tulle_xds_resources_rejected",
                "Resources that were refused",
                &self.rejected,
            ),
            (
                "tulle_xds_resources_removed",
                "Resources that were removed",
                &self.removed,
            ),
            (
                "tulle_xds_view_saves",
                "Times that the view was written to disk",
                &self.saves,
            ),
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
    }
}

/// The kernel's tables.
#[derive(Debug)]
pub struct KernelSyncMetrics {
    /// From the view's change to the kernel's tables.
    pub lag_seconds: Histogram,
    /// How long one reconciliation takes.
    pub reconcile_seconds: Histogram,
    /// Reconciliations by result.
    pub reconciliations: ByLabel,
    /// Cluster addresses in the table.
    pub frontends: Gauge,
    /// Backends in the table, of all cluster addresses together.
    pub backends: Gauge,
    /// Workload addresses in the table.
    pub routes: Gauge,
    /// Addresses that more than one service claims.
    pub conflicts: Gauge,
    /// Services that should choose by Maglev and choose at random.
    pub without_table: Gauge,
}

impl Default for KernelSyncMetrics {
    fn default() -> Self {
        KernelSyncMetrics {
            lag_seconds: Histogram::new(SECONDS_BUCKETS),
            reconcile_seconds: Histogram::new(SECONDS_BUCKETS),
            reconciliations: Family::default(),
            frontends: Gauge::default(),
            backends: Gauge::default(),
            routes: Gauge::default(),
            conflicts: Gauge::default(),
            without_table: Gauge::default(),
        }
    }
}

impl KernelSyncMetrics {
    /// Counts one reconciliation.
    pub(crate) fn reconciled(&self, result: &'static str) {
        self.reconciliations
            .get_or_create(&[("result", result)])
            .inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "tulle_kernel_sync_lag_seconds",
            "From a change of the view to the kernel's tables",
            self.lag_seconds.clone(),
        );
        registry.register(
            "tulle_kernel_reconcile_seconds",
            "How long one reconciliation of the kernel's tables takes",
            self.reconcile_seconds.clone(),
        );
        registry.register(
            "tulle_kernel_reconciliations",
            "Reconciliations of the kernel's tables",
            self.reconciliations.clone(),
        );
        let gauges = [
            (
                "tulle_kernel_frontends",
                "Cluster addresses in the kernel's tables",
                &self.frontends,
            ),
            (
                "tulle_kernel_backends",
                "Backends in the kernel's tables",
                &self.backends,
            ),
            (
                "tulle_kernel_routes",
                "Workload addresses in the kernel's tables",
                &self.routes,
            ),
            (
                "tulle_kernel_conflicts",
                "Addresses claimed by several services",
                &self.conflicts,
            ),
            (
                "tulle_kernel_services_without_table",
                "Services that should choose by Maglev and choose at random, since there are too many of them",
                &self.without_table,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
    }
}

/// The pods of this node.
#[derive(Debug, Default)]
pub struct PodMetrics {
    /// Pods by state.
    pub pods: Family<[(&'static str, &'static str); 1], Gauge>,
    /// Starts by result.
    pub starts: ByLabel,
    /// Files in the pod directory that do not describe a pod.
    pub invalid_files: Gauge,
}

impl PodMetrics {
    /// Sets how many pods are in `state`.
    pub(crate) fn set(&self, state: &'static str, count: usize) {
        self.pods
            .get_or_create(&[("state", state)])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts one start.
    pub(crate) fn started(&self, result: &'static str) {
        self.starts.get_or_create(&[("result", result)]).inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "tulle_pods",
            "Pods of this node by state",
            self.pods.clone(),
        );
        registry.register(
            "tulle_pod_starts",
            "Starts of pods' proxies",
            self.starts.clone(),
        );
        registry.register(
            "tulle_pod_files_invalid",
            "Files in the pod directory that do not describe a pod",
            self.invalid_files.clone(),
        );
    }
}

/// From a tenth of a millisecond (a change in a small mesh) to what a stub resolver waits.
const SECONDS_BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
