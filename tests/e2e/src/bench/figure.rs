//! Which loads there are, and which figures each gives.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// One load of the load program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Round trips of small messages on one connection.
    RoundTrips,
    /// One stream of bytes from client to server.
    Upload,
    /// New connections by this many clients at once.
    Connect(u8),
}

/// The loads of a round, in their order.
pub(super) const LOADS: [Load; 4] = [
    Load::RoundTrips,
    Load::Upload,
    Load::Connect(1),
    Load::Connect(16),
];

/// Something that is measured, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    /// The round trip that half of all stay below.
    RoundTripP50,
    /// The round trip that 99 of 100 stay below.
    RoundTripP99,
    /// Bytes per second of one stream.
    Upload,
    /// New connections per second of one client.
    ConnectOne,
    /// New connections per second of many clients.
    ConnectMany,
    /// Processor seconds of the client's node proxy per gigabyte of upload.
    ProcessorOfClient,
    /// Processor seconds of the server's node proxy per gigabyte of upload, where that is another one.
    ProcessorOfServer,
    /// Processor time of the client's node proxy while only direct loads run, in cores.
    IdleProcessorOfClient,
    /// The same of the server's node proxy, where that is another one.
    IdleProcessorOfServer,
}

impl Load {
    /// The load program's arguments; the server's address follows the first.
    pub(super) fn arguments(self) -> (&'static str, Vec<String>) {
        match self {
            Load::RoundTrips => ("latency", vec!["--size".to_owned(), "64".to_owned()]),
            Load::Upload => ("upload", vec!["--streams".to_owned(), "1".to_owned()]),
            Load::Connect(clients) => {
                ("connect", vec!["--clients".to_owned(), clients.to_string()])
            }
        }
    }

    /// The figures in what the load program has printed.
    pub(super) fn figures(self, answer: &Value) -> Result<Vec<(Figure, f64)>> {
        let fields: &[(Figure, &str)] = match self {
            Load::RoundTrips => &[
                (Figure::RoundTripP50, "p50_us"),
                (Figure::RoundTripP99, "p99_us"),
            ],
            Load::Upload => &[(Figure::Upload, "bytes_per_second")],
            Load::Connect(1) => &[(Figure::ConnectOne, "per_second")],
            Load::Connect(_) => &[(Figure::ConnectMany, "per_second")],
        };
        fields
            .iter()
            .map(|(figure, field)| {
                let value = answer.get(field).and_then(Value::as_f64);
                let value = value.with_context(|| format!("no `{field}` in {answer}"))?;
                // A load that did nothing is no figure of zero.
                ensure!(
                    value.is_finite() && value > 0.0,
                    "{figure}: {value} in {answer}"
                );
                Ok((*figure, value))
            })
            .collect()
    }

    /// How many bytes the server counted, if the load is one that moves bytes.
    pub(super) fn bytes(self, answer: &Value) -> Option<f64> {
        answer.get("bytes")?.as_f64()
    }
}

impl Figure {
    /// The unit of the values.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Figure::RoundTripP50 | Figure::RoundTripP99 => "µs",
            Figure::Upload => "B/s",
            Figure::ConnectOne | Figure::ConnectMany => "1/s",
            Figure::ProcessorOfClient | Figure::ProcessorOfServer => "s/GB",
            Figure::IdleProcessorOfClient | Figure::IdleProcessorOfServer => "cores",
        }
    }

    /// A value as the table shows it, without the unit.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Figure::RoundTripP50 | Figure::RoundTripP99 => format!("{value:.1}"),
            Figure::Upload => format!("{:.0}", value / 1e6),
            Figure::ConnectOne | Figure::ConnectMany => format!("{value:.0}"),
            Figure::ProcessorOfClient
            | Figure::ProcessorOfServer
            | Figure::IdleProcessorOfClient
            | Figure::IdleProcessorOfServer => format!("{value:.2}"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Figure::RoundTripP50 => "round trip of 64 B, p50, µs",
            Figure::RoundTripP99 => "round trip of 64 B, p99, µs",
            Figure::Upload => "upload, one stream, MB/s",
            Figure::ConnectOne => "new connections/s, 1 client",
            Figure::ConnectMany => "new connections/s, 16 clients",
            Figure::ProcessorOfClient => "CPU of the client's node proxy, s/GB",
            Figure::ProcessorOfServer => "CPU of the server's node proxy, s/GB",
            Figure::IdleProcessorOfClient => "CPU of the client's node proxy, idle, cores",
            Figure::IdleProcessorOfServer => "CPU of the server's node proxy, idle, cores",
        })
    }
}
