//! The messages of the xds-server's management API: JSON over HTTP/2.
//!
//! The command line and the server share these types. A reader takes messages of an older or newer server: unknown fields
//! are skipped, missing ones have their default. Nothing here knows how the messages travel.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

mod policies;

pub use policies::{ExplainQuestion, ExplainRequest, ExplainedEnd, Explanation, PolicySummary};

/// The paths of the API.
pub mod path {
    /// `GET`: [`super::ClusterStatus`].
    pub const STATUS: &str = "/v1/status";
    /// `GET`: a list of [`super::ServiceSummary`]; with `/<namespace>/<name>` behind it a [`super::ServiceDetail`].
    pub const SERVICES: &str = "/v1/services";
    /// `GET`: a list of [`super::NodeStatus`].
    pub const NODES: &str = "/v1/nodes";
    /// `GET`: [`super::Access`].
    pub const ACCESS: &str = "/v1/access";
    /// `POST` to `/<cluster>` behind it: [`super::PeerAccess`]. `DELETE`: the peer's credentials end.
    pub const PEERS: &str = "/v1/peers";
    /// `PUT` a [`super::RemoteCluster`] to `/<cluster>` behind it, or `DELETE` it: [`super::Changed`].
    pub const REMOTES: &str = "/v1/remotes";
    /// `PUT` [`super::Publishing`]: [`super::Changed`].
    pub const PUBLISHING: &str = "/v1/publishing";
    /// `GET`: a list of [`super::PolicySummary`].
    pub const POLICIES: &str = "/v1/policies";
    /// `POST` an [`super::ExplainQuestion`]: an [`super::Explanation`].
    pub const EXPLAIN: &str = "/v1/policies/explain";
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One sentence.
    pub error: String,
}

/// Whether a request changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Something is different from before.
    pub changed: bool,
}

/// A cluster as its xds-server sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// Its id.
    pub cluster_id: u16,
    /// The trust domain of its identities.
    pub trust_domain: String,
    /// The server's version.
    pub version: String,
    /// Nodes are answered.
    pub ready: bool,
    /// Seconds since the server's start.
    pub uptime_seconds: u64,
    /// Whether other clusters can read this one.
    pub publishing: PublishingStatus,
    /// The cluster's own objects.
    pub source: SourceStatus,
    /// The nodes, those that are not connected included.
    pub nodes: Vec<NodeStatus>,
    /// The other clusters.
    pub remotes: Vec<RemoteStatus>,
    /// Configured clusters that cannot be used at all, one sentence each.
    pub remotes_problems: Vec<String>,
    /// How many global services with endpoints elsewhere each connected node has.
    pub global_services: Spread,
    /// Services and workloads that the nodes are given.
    pub view: ViewStatus,
}

/// Whether other clusters can read this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PublishingStatus {
    /// `etcd`, or `memory` when the server has none.
    pub store: String,
    /// The operator wants it.
    pub enabled: bool,
    /// The own etcd is reached.
    pub connected: bool,
    /// The whole present state can be read.
    pub published: bool,
    /// Keys of the state.
    pub keys: usize,
    /// Where others read it.
    pub endpoints: Vec<String>,
    /// `per-peer`, `shared` or `none`: which credentials the server can give to others.
    pub credentials: String,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// The cluster's own objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceStatus {
    /// Everything that existed at the start was read.
    pub synced: bool,
    /// Objects that could not be read, one sentence each.
    pub problems: Vec<String>,
    /// Objects that were read but not as their author may think.
    pub warnings: Vec<String>,
}

/// A node of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Its name, as its proxy says it.
    pub name: String,
    /// Its proxy has a stream.
    pub connected: bool,
    /// Where the stream comes from.
    pub address: Option<String>,
    /// Seconds since the stream began.
    pub connected_seconds: u64,
    /// Everything that was sent is acknowledged.
    pub current: bool,
    /// The revision of the last snapshot of which a part was acknowledged.
    pub acknowledged_revision: u64,
    /// Responses that the proxy refused.
    pub refusals: u64,
    /// Why it refused the last one.
    pub last_refusal: Option<String>,
}

/// How far the connection to another cluster is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteState {
    /// Not reached yet, or lost.
    #[default]
    Connecting,
    /// Reached; its state is not complete yet.
    Syncing,
    /// Its complete state is followed, and it lives.
    Ready,
    /// Its heartbeat stands still; its endpoints are used last.
    Silent,
    /// It is not taken in.
    Refused,
}

/// Another cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteStatus {
    /// Its name.
    pub name: String,
    /// `tulle` or `cilium`.
    pub kind: String,
    /// How far the connection is.
    pub state: RemoteState,
    /// Its id, once read.
    pub cluster_id: Option<u16>,
    /// Its trust domain, once read.
    pub trust_domain: Option<String>,
    /// Where it is read.
    pub endpoints: Vec<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// How long ago its heartbeat moved.
    pub heartbeat_age_ms: Option<u64>,
    /// How often the connection was lost and made again.
    pub reconnections: u64,
    /// Which kinds of facts are complete.
    pub synced: BTreeMap<String, bool>,
    /// How many facts of each kind are known.
    pub counts: BTreeMap<String, u64>,
}

/// The least, the mean and the most of some counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: u64,
    /// The mean.
    pub avg: f64,
    /// The most.
    pub max: u64,
}

impl Spread {
    /// Of these counts; all zero when there are none.
    pub fn of(counts: impl IntoIterator<Item = u32>) -> Spread {
        let counts: Vec<u32> = counts.into_iter().collect();
        let sum: f64 = counts.iter().copied().map(f64::from).sum();
        let len = u32::try_from(counts.len()).map_or(f64::INFINITY, f64::from);
        Spread {
            min: counts.iter().copied().min().unwrap_or_default().into(),
            avg: if counts.is_empty() { 0.0 } else { sum / len },
            max: counts.iter().copied().max().unwrap_or_default().into(),
        }
    }
}

/// What the nodes are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ViewStatus {
    /// Counts the snapshots.
    pub revision: u64,
    /// Services.
    pub services: usize,
    /// Workloads of all clusters.
    pub workloads: usize,
    /// Policies.
    pub policies: usize,
    /// Trust domains.
    pub trust_domains: usize,
}

/// What another cluster must know to read this one; no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Access {
    /// The cluster's name.
    pub cluster: String,
    /// Its id.
    pub cluster_id: u16,
    /// The trust domain of its identities.
    pub trust_domain: String,
    /// Its state can be read.
    pub publishing: bool,
    /// Where: `https://host:port`.
    pub endpoints: Vec<String>,
    /// The roots that the endpoints are verified with, as PEM.
    pub ca: String,
    /// The roots of its trust domain, as PEM.
    pub bundle: String,
}

/// Credentials that can read this cluster's published state, and nothing else.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAccess {
    /// What is no secret.
    pub access: Access,
    /// The etcd user that the certificate stands for.
    pub user: String,
    /// The certificate, as PEM.
    pub cert: String,
    /// Its key, as PEM.
    pub key: String,
}

/// How a cluster shall read another one.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteCluster {
    /// The other cluster's name.
    pub name: String,
    /// `tulle` (also when it is missing) or `cilium`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where it is read: `https://host:port`.
    pub endpoints: Vec<String>,
    /// The roots that the endpoints are verified with, as PEM.
    pub ca: String,
    /// The client's certificate, as PEM.
    pub cert: String,
    /// Its key, as PEM.
    pub key: String,
    /// The name that the endpoints' certificates must have, if not that of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Whether other clusters shall be able to read this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Publishing {
    /// They shall.
    pub enabled: bool,
    /// Where they reach the etcd; what is in force stays when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
}

/// One line about a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSummary {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses; none when it is headless.
    pub addresses: Vec<IpAddr>,
    /// Its ports, such as `80/TCP`.
    pub ports: Vec<String>,
    /// Merged with those of other clusters.
    pub global: bool,
    /// Other clusters may use its endpoints.
    pub shared: bool,
    /// `none`, `local`, `remote` or `local-node`.
    pub affinity: String,
    /// Endpoints in use, by cluster.
    pub included: BTreeMap<String, usize>,
    /// Endpoints that are known but not in use.
    pub excluded: usize,
}

/// Everything about a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceDetail {
    /// The line about it.
    #[serde(flatten)]
    pub summary: ServiceSummary,
    /// From where the choice of endpoints is seen: a node's name, or nothing for any node.
    pub seen_from_node: Option<String>,
    /// The addresses that clients ask for.
    pub frontends: Vec<Frontend>,
    /// The service in each cluster.
    pub clusters: Vec<ServiceInCluster>,
    /// Every endpoint that is known.
    pub backends: Vec<Backend>,
    /// What its author may not have meant.
    pub warnings: Vec<String>,
}

/// An address that clients ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Frontend {
    /// `address:port`.
    pub address: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The port's name, if it has one.
    pub name: String,
}

/// What a service is in one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceInCluster {
    /// The cluster.
    pub cluster: String,
    /// The cluster says that it has such a service; of another cluster only global ones are known.
    pub known: bool,
    /// It is global there.
    pub global: bool,
    /// It is shared there.
    pub shared: bool,
    /// The cluster's heartbeat stands still.
    pub silent: bool,
    /// Endpoints that it has there.
    pub endpoints: usize,
}

/// An endpoint, and whether it is in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Backend {
    /// The cluster where it runs.
    pub cluster: String,
    /// The node where it runs.
    pub node: String,
    /// The region of the node.
    pub region: String,
    /// The zone of the node.
    pub zone: String,
    /// The pod.
    pub name: String,
    /// `address:port`.
    pub address: String,
    /// The frontend's port that it serves.
    pub service_port: u16,
    /// `healthy`, `terminating` or `unhealthy`.
    pub health: String,
    /// New connections may go there.
    pub included: bool,
    /// Why, or why not.
    pub reason: String,
}

#[cfg(test)]
mod tests;
