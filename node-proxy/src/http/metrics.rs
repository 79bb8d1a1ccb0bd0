//! What the HTTP layer counts. Labels are closed sets.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::error::{BadRequest, BadResponse};
use crate::plane::Direction;

/// Labels of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    /// Seen from the pod.
    direction: Direction,
    /// `allowed`, `denied`, or what was wrong.
    outcome: &'static str,
}

/// What a client turned out to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS.
    Tls,
    /// Nothing that can be judged.
    Other,
}

/// Labels of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProtocolLabels {
    /// Seen from the pod.
    direction: Direction,
    /// What the client speaks.
    protocol: Spoken,
}

/// Labels of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DirectionLabels {
    /// Seen from the pod.
    direction: Direction,
}

/// The metrics of the HTTP layer.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    connections: Family<ProtocolLabels, Counter>,
    seconds: Family<DirectionLabels, Histogram>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        HttpMetrics {
            requests: Family::default(),
            connections: Family::default(),
            seconds: Family::new_with_constructor(duration_histogram),
        }
    }
}

impl HttpMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests that policy was asked about, and those that could not be judged, by outcome",
            self.requests.clone(),
        );
        registry.register(
            "http_connections",
            "Connections whose requests are judged, by what the client speaks",
            self.connections.clone(),
        );
        registry.register(
            "http_request_seconds",
            "From the first byte of a request that may pass to the last of its answer",
            self.seconds.clone(),
        );
    }

    /// The counters of one direction, for the life of a connection.
    pub fn of(&self, direction: Direction) -> HttpCounters {
        // One statement each: a family is locked until the end of the statement.
        let counter = |outcome: Outcome| {
            let outcome = outcome.name();
            let labels = RequestLabels { direction, outcome };
            let counter = self.requests.get_or_create(&labels);
            counter.clone()
        };
        let allowed = counter(Outcome::Allowed);
        let denied = counter(Outcome::Denied);
        let labels = DirectionLabels { direction };
        let seconds = self.seconds.get_or_create(&labels).clone();
        HttpCounters {
            direction,
            allowed,
            denied,
            seconds,
            all: self.clone(),
        }
    }
}

/// The counters of one direction.
#[derive(Debug)]
pub struct HttpCounters {
    direction: Direction,
    allowed: Counter,
    denied: Counter,
    seconds: Histogram,
    all: HttpMetrics,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Allowed,
    Denied,
    Bad(BadRequest),
    BadResponse(BadResponse),
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Denied => "denied",
            Outcome::Bad(bad) => bad.reason(),
            Outcome::BadResponse(bad) => bad.reason(),
        }
    }
}

impl HttpCounters {
    pub(super) fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Allowed => self.allowed.inc(),
            Outcome::Denied => self.denied.inc(),
            Outcome::Bad(_) | Outcome::BadResponse(_) => {
                let labels = RequestLabels {
                    direction: self.direction,
                    outcome: outcome.name(),
                };
                self.all.requests.get_or_create(&labels).inc()
            }
        };
    }

    pub(super) fn count_connection(&self, protocol: Spoken) {
        let labels = ProtocolLabels {
            direction: self.direction,
            protocol,
        };
        self.all.connections.get_or_create(&labels).inc();
    }

    pub(super) fn observe(&self, duration: Duration) {
        self.seconds.observe(duration.as_secs_f64());
    }
}

/// 100 µs to 25 s.
fn duration_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.5, 14))
}
