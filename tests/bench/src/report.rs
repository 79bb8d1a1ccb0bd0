//! What was seen, for programs (JSON) and for people.

use std::time::Duration;

use serde_json::{Value, json};

use crate::plan::Plan;

/// Everything that was measured. Nothing in it is estimated: what was not measured is absent.
#[derive(Debug, Clone)]
pub struct Report {
    /// The sizes.
    pub plan: Plan,
    /// Simulated nodes.
    pub nodes: usize,
    /// From the first simulated cluster's first byte to the last one's `synced`.
    pub published: Duration,
    /// From the moment when the other clusters were made known to the moment when the node's kernel had every endpoint.
    pub complete: Duration,
    /// Resident bytes with the whole view and no simulated node.
    pub xds_server: u64,
    /// Resident bytes with the whole view.
    pub node_proxy: u64,
    /// Resident bytes.
    pub etcd: u64,
    /// Resident bytes of the xds-server with all simulated nodes connected.
    pub xds_server_with_nodes: u64,
    /// How long it took until all simulated nodes had the whole view, and the bytes that they were sent.
    pub nodes_told: (Duration, u64),
    /// From a change's publication to its arrival, for every node and change.
    pub latencies: Vec<Duration>,
    /// From a change's publication to its arrival at the last node, for every change.
    pub last_latencies: Vec<Duration>,
    /// Bytes of a response that brought one changed endpoint.
    pub change_bytes: Vec<usize>,
    /// Processor time of the xds-server for each change, all nodes together.
    pub xds_server_time: Duration,
    /// Processor time of the node proxy for each change.
    pub node_proxy_time: Duration,
    /// Processor times of both while nothing changed, for as long as the changes took, divided by the number of changes.
    pub idle_times: (Duration, Duration),
}

impl Report {
    /// All figures by name; times in milliseconds, memory in megabytes.
    pub fn json(&self) -> Value {
        json!({
            "clusters": self.plan.clusters + 1,
            "services": self.plan.services,
            "endpoints": self.plan.endpoints,
            "simulatedNodes": self.nodes,
            "publishedMs": millis(self.published),
            "completeViewMs": millis(self.complete),
            "residentMb": {
                "xdsServer": megabytes(self.xds_server),
                "xdsServerWithNodes": megabytes(self.xds_server_with_nodes),
                "nodeProxy": megabytes(self.node_proxy),
                "etcd": megabytes(self.etcd),
            },
            "nodesToldMs": millis(self.nodes_told.0),
            "nodesToldMb": megabytes(self.nodes_told.1),
            "change": {
                "count": self.last_latencies.len(),
                "nodeMs": spread(&self.latencies),
                "lastNodeMs": spread(&self.last_latencies),
                "bytes": self.change_bytes.iter().max(),
                "xdsServerCpuMs": millis(self.xds_server_time),
                "nodeProxyCpuMs": millis(self.node_proxy_time),
                "idleXdsServerCpuMs": millis(self.idle_times.0),
                "idleNodeProxyCpuMs": millis(self.idle_times.1),
            },
        })
    }
}

/// Median, 99th percentile and maximum in milliseconds; null of nothing.
pub fn spread(times: &[Duration]) -> Value {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else {
        return Value::Null;
    };
    let at = |percent: usize| millis(sorted[(last * percent).div_ceil(100).min(last)]);
    json!({"p50": at(50), "p99": at(99), "max": at(100)})
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}

#[cfg(test)]
mod tests;
