//! What the data plane counts. Labels are closed sets: nothing that a peer sends ever becomes a label.

use std::{hash::Hash, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::http::HttpMetrics;

/// Seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Direction {
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// How the bytes travel between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Security {
    /// Inside a tunnel.
    MutualTls,
    /// As the application wrote them.
    Plaintext,
}

/// Which end of a tunnel this proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum TunnelSide {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

/// What goes between two proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Transport {
    /// HTTP/2 with a stream for each connection.
    Hbone,
    /// One connection at a time.
    Lane,
}

/// Seen from the pod's application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ByteFlow {
    /// Written by the application.
    Sent,
    /// Read by the application.
    Received,
}

/// Labels of connections that bytes flowed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabels {
    /// Seen from the pod.
    pub direction: Direction,
    /// How the bytes travel.
    pub security: Security,
}

/// Labels of connections that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabels {
    /// Seen from the pod.
    pub direction: Direction,
    /// How it ended, or why it never began.
    pub reason: &'static str,
}

/// Labels of handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandshakeLabels {
    /// Which end.
    pub side: TunnelSide,
    /// `ok`, or why not.
    pub reason: &'static str,
}

/// Labels of how lanes send, on a system whose default paces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PacingLabels {
    /// Which end.
    pub side: TunnelSide,
    /// What was decided.
    pub decision: PacingDecision,
}

/// How a lane sends, on a system whose default paces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PacingDecision {
    /// Without pacing, when it began.
    Unpaced,
    /// Paced from the start: the peer is far, or the kernel does not say how far.
    Far,
    /// Paced from now on: a queue stands on the way.
    Queue,
}

/// Labels of what exists per end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SideLabels {
    /// Which end.
    pub side: TunnelSide,
}

/// Labels of the ways to other proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TunnelLabels {
    /// Which end.
    pub side: TunnelSide,
    /// What goes over it.
    pub transport: Transport,
}

/// Labels of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByteLabels {
    /// Seen from the pod.
    pub direction: Direction,
    /// Seen from the application.
    pub flow: ByteFlow,
}

/// Labels of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabels {
    /// Seen from the pod.
    pub direction: Direction,
}

/// The data plane's metrics.
#[derive(Debug)]
pub struct PlaneMetrics {
    /// Connections on which bytes could flow.
    pub connections_opened: Family<ConnectionLabels, Counter>,
    /// Connections that ended, by how.
    pub connections_closed: Family<EndLabels, Counter>,
    /// Connections that never began, by why.
    pub connections_failed: Family<EndLabels, Counter>,
    /// Connections that were sent to another endpoint because the first could not be reached.
    pub connect_retries: Counter,
    /// Bytes of applications.
    pub bytes: Family<ByteLabels, Counter>,
    /// Tunnel handshakes by outcome.
    pub tunnel_handshakes: Family<HandshakeLabels, Counter>,
    /// Decisions to pace lanes or not; none where the system does not pace.
    pub lane_pacing: Family<PacingLabels, Counter>,
    /// Open tunnels and lanes.
    pub tunnels: Family<TunnelLabels, Gauge>,
    /// Open streams in tunnels.
    pub tunnel_streams: Family<SideLabels, Gauge>,
    /// From the TCP connection to a tunnel that can be used.
    pub tunnel_handshake_seconds: Family<SideLabels, Histogram>,
    /// From accept until bytes can flow.
    pub connect_seconds: Family<DirectionLabels, Histogram>,
    /// Requests, where policy speaks of them.
    pub http: HttpMetrics,
}

impl PlaneMetrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = PlaneMetrics::default();
        let registry = registry.sub_registry_with_prefix("tulle");
        let m = &metrics;
        registry.register(
            "connections_opened",
            "Connections on which bytes could flow",
            m.connections_opened.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections that ended, by how",
            m.connections_closed.clone(),
        );
        registry.register(
            "connections_failed",
            "Connections that never began, by why",
            m.connections_failed.clone(),
        );
        registry.register(
            "connect_retries",
            "Connections sent to another endpoint before any byte of the application was sent",
            m.connect_retries.clone(),
        );
        registry.register("bytes", "Bytes of applications", m.bytes.clone());
        registry.register(
            "tunnel_handshakes",
            "Tunnel handshakes, by outcome",
            m.tunnel_handshakes.clone(),
        );
        registry.register(
            "lane_pacing",
            "Decisions to pace lanes or not, where the system's default paces",
            m.lane_pacing.clone(),
        );
        registry.register("tunnels", "Open tunnels and lanes", m.tunnels.clone());
        registry.register(
            "tunnel_streams",
            "Open streams in tunnels",
            m.tunnel_streams.clone(),
        );
        registry.register(
            "tunnel_handshake_seconds",
            "From the TCP connection to a usable tunnel",
            m.tunnel_handshake_seconds.clone(),
        );
        registry.register(
            "connect_seconds",
            "From accept until bytes can flow",
            m.connect_seconds.clone(),
        );
        m.http.register(registry);
        metrics
    }

    pub(crate) fn count_failed(&self, direction: Direction, reason: &'static str) {
        self.connections_failed
            .get_or_create(&EndLabels { direction, reason })
            .inc();
    }

    /// Counts a connection on which bytes can flow from now on, and its end.
    pub(crate) fn open_connection(
        self: &Arc<Self>,
        direction: Direction,
        security: Security,
    ) -> OpenConnection {
        self.connections_opened
            .get_or_create(&ConnectionLabels {
                direction,
                security,
            })
            .inc();
        OpenConnection {
            metrics: Arc::clone(self),
            labels: EndLabels {
                direction,
                reason: CUT,
            },
        }
    }

    pub(crate) fn count_handshake(&self, side: TunnelSide, reason: &'static str) {
        self.tunnel_handshakes
            .get_or_create(&HandshakeLabels { side, reason })
            .inc();
    }

    /// What counts decisions of one kind.
    pub(crate) fn pacing_counter(&self, side: TunnelSide, decision: PacingDecision) -> Counter {
        self.lane_pacing
            .get_or_create(&PacingLabels { side, decision })
            .clone()
    }

    pub(crate) fn observe_connect(&self, direction: Direction, seconds: f64) {
        self.connect_seconds
            .get_or_create(&DirectionLabels { direction })
            .observe(seconds);
    }

    pub(crate) fn observe_handshake(&self, side: TunnelSide, seconds: f64) {
        self.tunnel_handshake_seconds
            .get_or_create(&SideLabels { side })
            .observe(seconds);
    }

    /// The counter of one direction's bytes, to be kept for the life of a connection.
    pub(crate) fn byte_counter(&self, direction: Direction, flow: ByteFlow) -> Counter {
        self.bytes
            .get_or_create(&ByteLabels { direction, flow })
            .clone()
    }

    /// Counts a tunnel or lane while the guard lives.
    pub(crate) fn tunnel_guard(&self, side: TunnelSide, transport: Transport) -> GaugeGuard {
        GaugeGuard::new(&self.tunnels, &TunnelLabels { side, transport })
    }

    /// Counts a stream while the guard lives.
    pub(crate) fn stream_guard(&self, side: TunnelSide) -> GaugeGuard {
        GaugeGuard::new(&self.tunnel_streams, &SideLabels { side })
    }
}

impl Default for PlaneMetrics {
    fn default() -> Self {
        PlaneMetrics {
            connections_opened: Family::default(),
            connections_closed: Family::default(),
            connections_failed: Family::default(),
            connect_retries: Counter::default(),
            bytes: Family::default(),
            tunnel_handshakes: Family::default(),
            lane_pacing: Family::default(),
            tunnels: Family::default(),
            tunnel_streams: Family::default(),
            tunnel_handshake_seconds: Family::new_with_constructor(latency_histogram),
            connect_seconds: Family::new_with_constructor(latency_histogram),
            http: HttpMetrics::default(),
        }
    }
}

/// An open connection; its end is counted on drop.
#[must_use]
#[derive(Debug)]
pub(crate) struct OpenConnection {
    metrics: Arc<PlaneMetrics>,
    labels: EndLabels,
}

impl OpenConnection {
    /// Says how the connection ended. Without a word it was cut.
    pub(crate) fn end(mut self, reason: &'static str) {
        self.labels.reason = reason;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics
            .connections_closed
            .get_or_create(&self.labels)
            .inc();
    }
}

/// One unit of a gauge, given back on drop.
#[must_use]
#[derive(Debug)]
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new<L: Clone + Eq + Hash>(family: &Family<L, Gauge>, labels: &L) -> Self {
        let gauge = family.get_or_create(labels).clone();
        gauge.inc();
        GaugeGuard(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// 50 µs to 13 s.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.5, 14))
}

/// The drain's time was over, or the pod went.
const CUT: &str = "cut";
