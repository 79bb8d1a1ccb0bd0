//! Workloads: who runs where.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    ClusterName, Locality, NamespacedName, Protocol, ServicePort, SpiffeId, Text, TrustDomain,
};

/// The name of a workload in the whole mesh: `<cluster>//Pod/<namespace>/<name>` for pods (the form of istiod).
///
/// Every index of the mesh's views has it as a key, so its copies share one text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkloadUid(pub Arc<str>);

/// A map of a few entries, sorted, in one allocation: a mesh has hundreds of thousands of them, and a B-tree's smallest node has
/// room for eleven entries.
pub type SmallMap<K, V> = litemap::LiteMap<K, V>;

impl WorkloadUid {
    /// The uid of a node: a workload of its own, since policies speak of nodes too.
    pub fn of_node(cluster: &ClusterName, name: &str) -> Self {
        WorkloadUid(format!("{cluster}{NODE}{name}").into())
    }

    /// Whether it names a node.
    pub fn is_node(&self) -> bool {
        self.0.contains(NODE)
    }

    /// The uid of a pod.
    pub fn of_pod(cluster: &ClusterName, namespace: &str, name: &str) -> Self {
        WorkloadUid(format!("{cluster}//Pod/{namespace}/{name}").into())
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod: addresses, names, identity and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Unique in the mesh.
    pub uid: WorkloadUid,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: Text,
    /// The service account that the pod runs as.
    pub service_account: Text,
    /// The authority of the pod's identity.
    pub trust_domain: TrustDomain,
    /// The cluster where the pod runs.
    pub cluster: ClusterName,
    /// The node where the pod runs.
    pub node: Text,
    /// The pod's addresses, at most one of each family is usual.
    pub addresses: Vec<IpAddr>,
    /// `hostname` of a pod under a headless service; empty when unset.
    #[serde(default)]
    pub hostname: Text,
    /// The pod's labels.
    #[serde(default)]
    pub labels: SmallMap<Text, Text>,
    /// The labels of the pod's namespace, in its own cluster. One copy for all of its pods.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub namespace_labels: Arc<SmallMap<Text, Text>>,
    /// The ports that the pod's containers give a name.
    #[serde(default, skip_serializing_if = "SmallMap::is_empty")]
    pub named_ports: SmallMap<Text, NamedPort>,
    /// Where the node is.
    #[serde(default)]
    pub locality: Locality,
    /// `app` of telemetry (istio: canonical service).
    #[serde(default)]
    pub canonical_name: Text,
    /// `version` of telemetry.
    #[serde(default)]
    pub canonical_revision: Text,
    /// What owns the pod.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// The name of the owner (the Deployment's name).
    #[serde(default)]
    pub owner_name: Text,
    /// How to reach it.
    #[serde(default)]
    pub tunnel_protocol: TunnelProtocol,
    /// Whether it may get new connections.
    #[serde(default)]
    pub health: Health,
    /// The pod shares its node's network namespace: its addresses name the node, not the pod.
    #[serde(default)]
    pub host_network: bool,
    /// The services that it serves, by `namespace/hostname`, with the ports at which it serves them.
    #[serde(default)]
    pub services: SmallMap<NamespacedName, Vec<PortMapping>>,
    /// The `WORKLOAD_SELECTOR` policies that select it, as `namespace/name`.
    #[serde(default)]
    pub authorization_policies: Vec<String>,
    /// Weight in load balancing, 1 when unset.
    #[serde(default = "one")]
    pub capacity: u32,
    /// Its cluster is silent: use it only when nothing else is left. Set by the merge, never by the cluster itself.
    #[serde(default)]
    pub demoted: bool,
}

impl Workload {
    /// What the workload can prove.
    pub fn identity(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }

    /// The addresses at which the workload serves `port` of `service`, one for each of its IPs.
    ///
    /// The service's own numeric target port counts where the workload names none.
    pub fn serving_addresses(
        &self,
        service: &NamespacedName,
        port: &ServicePort,
    ) -> impl Iterator<Item = SocketAddr> + use<'_> {
        let mappings = self.services.get(service);
        let of_port = |m: &&PortMapping| m.service_port == port.port;
        let mapping = mappings.and_then(|mappings| {
            let mut of_protocol = mappings.iter().filter(|m| m.protocol == port.protocol);
            // Foreign servers name no protocol.
            of_protocol
                .find(of_port)
                .or_else(|| mappings.iter().find(of_port))
        });
        let target = mapping
            .map(|m| m.target_port)
            .filter(|target| *target != 0)
            .unwrap_or(port.target_port);
        let usable = target != 0 && mappings.is_some();
        self.addresses
            .iter()
            .filter(move |_| usable)
            .map(move |ip| SocketAddr::new(*ip, target))
    }
}

/// At which port of the workload a service's port is served.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct PortMapping {
    /// The port that clients ask for.
    pub service_port: u16,
    /// The port at which the workload listens; 0 = the service's own target port.
    pub target_port: u16,
    /// Of which protocol both are: one number may serve two protocols at two targets.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A port that a container gives a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its number.
    pub port: u16,
    /// Of which protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What owns a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WorkloadKind {
    /// A Deployment (through its ReplicaSet).
    Deployment,
    /// A CronJob (through its Job).
    CronJob,
    /// The pod itself, or any other owner.
    #[default]
    Pod,
    /// A Job.
    Job,
}

/// How to reach a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TunnelProtocol {
    /// Plain TCP: not in the mesh.
    #[default]
    None,
    /// HTTP/2 CONNECT over mTLS at port 15008.
    Hbone,
}

/// Whether a workload may get new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Health {
    /// Ready and not terminating.
    #[default]
    Healthy,
    /// Shutting down, but still serving: for those who find nobody else.
    Terminating,
    /// Not ready.
    Unhealthy,
}

/// The roots that a trust domain signs with, published by its cluster so that other clusters can verify its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// Whose roots they are.
    pub trust_domain: TrustDomain,
    /// PEM, one or several certificates.
    pub roots_pem: String,
}

fn one() -> u32 {
    1
}

fn is_empty(labels: &SmallMap<Text, Text>) -> bool {
    labels.is_empty()
}

/// What tells a node's uid from those of others.
const NODE: &str = "//Node//";

#[cfg(test)]
mod tests;
