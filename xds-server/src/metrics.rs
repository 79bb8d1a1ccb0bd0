//! What the server counts. Labels come from closed sets, except cluster names, which the operator gives.

use std::{fmt::Write as _, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tonic::Status;
use tulle_model::ClusterName;

use crate::snapshot::ResourceType;

/// Label sets of fixed names and values.
type Labels = Vec<(&'static str, &'static str)>;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open ADS streams.
    pub xds_streams: Gauge,
    /// Clients that wait until it is their turn to be sent everything.
    pub xds_views_awaited: Gauge,
    /// Requests for types that are not served.
    pub xds_unknown_types: Counter,
    xds_requests: Family<Labels, Counter>,
    xds_responses: Family<Labels, Counter>,
    xds_resources: Family<Labels, Counter>,
    xds_removals: Family<Labels, Counter>,
    xds_acks: Family<Labels, Counter>,
    xds_stale_acks: Family<Labels, Counter>,
    xds_nacks: Family<Labels, Counter>,
    xds_refused: Family<Labels, Counter>,
    xds_stream_errors: Family<Labels, Counter>,
    /// Certificates issued.
    pub ca_issued: Counter,
    ca_refused: Family<Labels, Counter>,
    /// Open connections on the gRPC port.
    pub connections: Gauge,
    connections_refused: Family<Labels, Counter>,
    /// Requests that reached the gRPC port for a method that does not exist.
    pub unknown_methods: Counter,
    management_requests: Family<Labels, Counter>,
    /// Snapshots that the streams were given.
    pub snapshots: Counter,
    /// Keys written to or deleted from the own etcd.
    pub store_writes: Counter,
    /// Failures of the own etcd.
    pub store_errors: Counter,
    store_bytes: Counter,
    store_change_bytes: Histogram,
    remote_bytes: Family<Vec<(&'static str, String)>, Counter>,
    /// Failures of other clusters' etcd.
    pub remote_errors: Counter<u64, AtomicU64>,
    /// Things that other clusters published and that are not believed.
    pub remote_refusals: Counter,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("tulle"),
            xds_streams: Gauge::default(),
            xds_views_awaited: Gauge::default(),
            xds_unknown_types: Counter::default(),
            xds_requests: Family::default(),
            xds_responses: Family::default(),
            xds_resources: Family::default(),
            xds_removals: Family::default(),
            xds_acks: Family::default(),
            xds_stale_acks: Family::default(),
            xds_nacks: Family::default(),
            xds_refused: Family::default(),
            xds_stream_errors: Family::default(),
            ca_issued: Counter::default(),
            ca_refused: Family::default(),
            connections: Gauge::default(),
            connections_refused: Family::default(),
            unknown_methods: Counter::default(),
            management_requests: Family::default(),
            snapshots: Counter::default(),
            store_writes: Counter::default(),
            store_errors: Counter::default(),
            store_bytes: Counter::default(),
            store_change_bytes: Histogram::new(exponential_buckets(64.0, 4.0, 10)),
            remote_bytes: Family::default(),
            remote_errors: Counter::default(),
            remote_refusals: Counter::default(),
        };
        metrics.register_xds();
        metrics.register_rest();
        metrics
    }

    fn register_xds(&mut self) {
        let r = &mut self.registry;
        r.register("xds_streams", "Open ADS streams", self.xds_streams.clone());
        r.register(
            "xds_views_awaited",
            "Clients that wait for their turn to be sent everything",
            self.xds_views_awaited.clone(),
        );
        r.register(
            "xds_unknown_types",
            "Requests for types that are not served",
            self.xds_unknown_types.clone(),
        );
        r.register(
            "xds_requests",
            "ADS requests by type",
            self.xds_requests.clone(),
        );
        r.register(
            "xds_responses",
            "ADS responses by type",
            self.xds_responses.clone(),
        );
        r.register(
            "xds_resources_sent",
            "Resources sent by type",
            self.xds_resources.clone(),
        );
        r.register(
            "xds_removals_sent",
            "Removals sent by type",
            self.xds_removals.clone(),
        );
        r.register(
            "xds_acks",
            "Responses that clients accepted",
            self.xds_acks.clone(),
        );
        r.register(
            "xds_stale_acks",
            "Acknowledgements of responses that were not the last",
            self.xds_stale_acks.clone(),
        );
        r.register(
            "xds_nacks",
            "Responses that clients refused",
            self.xds_nacks.clone(),
        );
        r.register(
            "xds_refused_streams",
            "Streams refused by reason",
            self.xds_refused.clone(),
        );
        r.register(
            "xds_stream_errors",
            "Streams that ended in an error, by gRPC code",
            self.xds_stream_errors.clone(),
        );
        r.register(
            "snapshots",
            "Snapshots given to the streams",
            self.snapshots.clone(),
        );
    }

    fn register_rest(&mut self) {
        let r = &mut self.registry;
        r.register(
            "ca_certificates_issued",
            "Certificates issued",
            self.ca_issued.clone(),
        );
        r.register(
            "ca_requests_refused",
            "Certificate requests refused by reason",
            self.ca_refused.clone(),
        );
        r.register(
            "grpc_connections",
            "Open connections on the gRPC port",
            self.connections.clone(),
        );
        r.register(
            "grpc_connections_refused",
            "Connections refused or broken by reason",
            self.connections_refused.clone(),
        );
        r.register(
            "grpc_unknown_methods",
            "Requests for methods that do not exist",
            self.unknown_methods.clone(),
        );
        r.register(
            "management_requests",
            "Requests to the management API by outcome",
            self.management_requests.clone(),
        );
        r.register(
            "store_writes",
            "Keys written to or deleted from the own etcd",
            self.store_writes.clone(),
        );
        r.register(
            "store_errors",
            "Failures of the own etcd",
            self.store_errors.clone(),
        );
        r.register(
            "store_written_bytes",
            "Bytes of keys and values written to the own etcd",
            self.store_bytes.clone(),
        );
        r.register(
            "store_change_bytes",
            "Bytes written to the own etcd by one change of the state",
            self.store_change_bytes.clone(),
        );
        r.register(
            "remote_read_bytes",
            "Bytes of keys and values read from other clusters' etcd",
            self.remote_bytes.clone(),
        );
        r.register(
            "remote_errors",
            "Failures of other clusters' etcd",
            self.remote_errors.clone(),
        );
        r.register(
            "remote_refusals",
            "Facts of other clusters that are not believed",
            self.remote_refusals.clone(),
        );
    }

    /// One request of a type.
    pub fn count_request(&self, kind: ResourceType) {
        self.xds_requests.get_or_create(&of_type(kind)).inc();
    }

    /// One response of a type with what it holds.
    pub fn count_response(&self, kind: ResourceType, puts: usize, removed: usize) {
        let labels = of_type(kind);
        self.xds_responses.get_or_create(&labels).inc();
        self.xds_resources
            .get_or_create(&labels)
            .inc_by(count(puts));
        self.xds_removals
            .get_or_create(&labels)
            .inc_by(count(removed));
    }

    /// A client accepted a response.
    pub fn count_ack(&self, kind: ResourceType) {
        self.xds_acks.get_or_create(&of_type(kind)).inc();
    }

    /// A client acknowledged an older response than the last.
    pub fn count_stale_ack(&self, kind: ResourceType) {
        self.xds_stale_acks.get_or_create(&of_type(kind)).inc();
    }

    /// A client refused a response.
    pub fn count_nack(&self, kind: ResourceType) {
        self.xds_nacks.get_or_create(&of_type(kind)).inc();
    }

    /// A stream was not opened.
    pub fn count_refused_stream(&self, reason: &'static str) {
        self.xds_refused
            .get_or_create(&vec![("reason", reason)])
            .inc();
    }

    /// A stream broke.
    pub fn count_stream_error(&self, status: &Status) {
        self.xds_stream_errors
            .get_or_create(&vec![("code", code_name(status.code()))])
            .inc();
    }

    /// A certificate was not issued.
    pub fn count_refused_certificate(&self, reason: &'static str) {
        self.ca_refused
            .get_or_create(&vec![("reason", reason)])
            .inc();
    }

    /// A connection was not taken, or broke.
    pub fn count_refused_connection(&self, reason: &'static str) {
        self.connections_refused
            .get_or_create(&vec![("reason", reason)])
            .inc();
    }

    /// A request to the management API, and what became of it.
    pub fn count_management(&self, outcome: &'static str) {
        self.management_requests
            .get_or_create(&vec![("outcome", outcome)])
            .inc();
    }

    /// A change of the state was written to the own etcd.
    pub fn count_written(&self, bytes: usize) {
        self.store_bytes.inc_by(count(bytes));
        self.store_change_bytes
            .observe(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    /// Something was read from another cluster's etcd.
    pub fn count_read(&self, cluster: &ClusterName, bytes: u64) {
        self.remote_bytes
            .get_or_create(&vec![("target_cluster", cluster.to_string())])
            .inc_by(bytes);
    }

    /// Everything in the text format of Prometheus; `extra` are gauges computed at the moment.
    pub fn render(&self, extra: &[(String, f64)]) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail; an empty page would show it if it did.
        if encode(&mut text, &self.registry).is_err() {
            return String::new();
        }
        let end = text
            .trim_end()
            .strip_suffix("# EOF")
            .map(str::len)
            .unwrap_or(text.len());
        text.truncate(end);
        for (name, value) in extra {
            if writeln!(text, "{name} {value}").is_err() {
                return String::new();
            }
        }
        text.push_str("# EOF\n");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn of_type(kind: ResourceType) -> Labels {
    vec![("type", kind.label())]
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn code_name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Cancelled => "cancelled",
        tonic::Code::InvalidArgument => "invalid_argument",
        tonic::Code::ResourceExhausted => "resource_exhausted",
        tonic::Code::Internal => "internal",
        tonic::Code::Unavailable => "unavailable",
        tonic::Code::OutOfRange => "out_of_range",
        _ => "other",
    }
}
