//! Services and how clusters share them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ClusterName, NamespacedName, Protocol, SmallMap, Text};

/// A Kubernetes service, or what several clusters' services of the same namespace and name merged to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// The service's namespace.
    pub namespace: String,
    /// `<name>.<namespace>.svc.<cluster domain>`.
    pub hostname: String,
    /// The service's labels.
    #[serde(default, skip_serializing_if = "SmallMap::is_empty")]
    pub labels: SmallMap<Text, Text>,
    /// Cluster IPs; empty = headless.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The ports that clients ask for.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Identities accepted beside the workloads' own, as SPIFFE URIs.
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
    /// How it is shared with other clusters.
    #[serde(default)]
    pub sharing: Sharing,
    /// Endpoints that are not ready are used as well (`publishNotReadyAddresses`).
    #[serde(default)]
    pub publish_not_ready: bool,
    /// The service is another name for this one (`type: ExternalName`); it has no addresses and no endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// A client stays with its endpoint while it comes back within so many seconds (`sessionAffinity: ClientIP`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<u32>,
    /// How far away an endpoint may be.
    #[serde(default, skip_serializing_if = "is_default")]
    pub internal_traffic_policy: TrafficPolicy,
    /// Which of the endpoints that may serve are near enough to be preferred.
    #[serde(default, skip_serializing_if = "is_default")]
    pub traffic_distribution: TrafficDistribution,
    /// How one endpoint is picked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub algorithm: Algorithm,
    /// In which order clusters and regions are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
}

impl Service {
    /// The key of the service in the directory: `namespace/hostname`.
    pub fn key(&self) -> NamespacedName {
        NamespacedName::new(self.namespace.clone(), self.hostname.clone())
    }

    /// No cluster IP: DNS answers the pods' own addresses.
    pub fn is_headless(&self) -> bool {
        self.addresses.is_empty() && self.external_name.is_none()
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port's name, empty when it has none.
    #[serde(default)]
    pub name: String,
    /// The port that clients ask for.
    pub port: u16,
    /// The workloads' port; 0 = named, each workload says its own.
    pub target_port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// What is spoken above.
    #[serde(default)]
    pub app_protocol: AppProtocol,
}

/// What is spoken above the transport (`appProtocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AppProtocol {
    /// Not told.
    #[default]
    Unknown,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Plain bytes.
    Tcp,
    /// TLS of the application.
    Tls,
}

/// How a service is shared between clusters, from its annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sharing {
    /// Merge with the services of the same namespace and name of other clusters.
    pub global: bool,
    /// Let other clusters use this cluster's endpoints. Meaningful only when `global`.
    pub shared: bool,
    /// Which endpoints to prefer.
    pub affinity: Affinity,
}

/// Which endpoints of a global service are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// All alike.
    #[default]
    None,
    /// Those of the own cluster while one of them is healthy.
    Local,
    /// Those of other clusters while one of them is healthy.
    Remote,
    /// Those of the own node, then of the own cluster, then the others.
    LocalNode,
}

/// How far away an endpoint may be (`spec.internalTrafficPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Anywhere.
    #[default]
    Cluster,
    /// On the client's node, or nowhere.
    Local,
}

/// Which endpoints are near enough to be preferred (`spec.trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// All alike.
    #[default]
    Any,
    /// Those of the client's zone; `PreferClose` is its older name.
    PreferSameZone,
    /// Those of the client's node.
    PreferSameNode,
}

/// How one of the endpoints that serve is picked for a connection (`service.cilium.io/lb-algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Algorithm {
    /// By chance, by weight.
    #[default]
    Random,
    /// By a hash of the client, so that the choice outlives changes among the others.
    Maglev,
}

/// The order in which clusters and regions serve (`mesh.tulle.io/failover`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// Who comes first; whoever is not named comes last.
    pub order: Vec<FailoverTarget>,
    /// Below so many percent of healthy endpoints, the next in the order takes a share; 0 = only when none is left.
    #[serde(default)]
    pub spill_at: u8,
}

impl Failover {
    /// More places than this are nobody's intention, and every endpoint is compared with each.
    pub const ORDER_LEN_MAX: usize = 64;
}

/// A place in the order of failover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailoverTarget {
    /// The endpoints of a cluster.
    Cluster(ClusterName),
    /// The endpoints of a region, in whichever cluster.
    Region(String),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
