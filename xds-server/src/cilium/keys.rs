//! The keys of a clustermesh-apiserver's etcd.

use tulle_model::ClusterName;

/// What others may read of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readable {
    /// All keys that begin so.
    pub prefixes: Vec<String>,
    /// Single keys.
    pub keys: Vec<String>,
}

/// What the role of other clusters is granted.
pub fn readable(cluster: &ClusterName) -> Readable {
    Readable {
        prefixes: vec![STATE.to_owned(), format!("{SYNCED}{cluster}/")],
        keys: vec![HEARTBEAT.to_owned(), config(cluster)],
    }
}

/// Who the cluster is.
pub fn config(cluster: &ClusterName) -> String {
    format!("cilium/cluster-config/{cluster}")
}

/// The key of a service.
pub fn service(cluster: &ClusterName, namespace: &str, name: &str) -> String {
    format!("{SERVICES}/{cluster}/{namespace}/{name}")
}

/// The key of a node.
pub fn node(cluster: &ClusterName, name: &str) -> String {
    format!("{NODES}/{cluster}/{name}")
}

/// The key of a set of labels.
pub fn identity(id: u32) -> String {
    format!("{IDENTITIES}/id/{id}")
}

/// The key of an address.
pub fn address(ip: &str) -> String {
    format!("{ADDRESSES}/{ADDRESS_SPACE}/{ip}")
}

/// The key that says that all of a kind was written.
pub fn mark(cluster: &ClusterName, kind: &str) -> String {
    format!("{SYNCED}{cluster}/{kind}")
}

/// What belongs to the cluster in its own etcd.
pub(crate) fn published_prefixes(cluster: &ClusterName) -> Vec<String> {
    vec![
        format!("{SERVICES}/{cluster}/"),
        format!("{NODES}/{cluster}/"),
        format!("{IDENTITIES}/id/"),
        format!("{ADDRESSES}/{ADDRESS_SPACE}/"),
    ]
}

/// The marks of all kinds that are published.
pub(crate) fn published_marks(cluster: &ClusterName) -> Vec<String> {
    KINDS.iter().map(|kind| mark(cluster, kind)).collect()
}

/// All keys.
pub const BASE: &str = "cilium/";
/// The facts of a cluster.
pub const STATE: &str = "cilium/state/";
/// Marks, by cluster.
pub const SYNCED: &str = "cilium/synced/";
/// Written every minute.
pub const HEARTBEAT: &str = "cilium/.heartbeat";
/// Global services.
pub const SERVICES: &str = "cilium/state/services/v1";
/// Nodes.
pub const NODES: &str = "cilium/state/nodes/v1";
/// Sets of labels by number.
pub const IDENTITIES: &str = "cilium/state/identities/v1";
/// Addresses of pods.
pub const ADDRESSES: &str = "cilium/state/ip/v1";
/// The only address space there is.
pub const ADDRESS_SPACE: &str = "default";
/// As they are named in marks.
pub const KINDS: [&str; 4] = [NODES, SERVICES, IDENTITIES, ADDRESSES];
