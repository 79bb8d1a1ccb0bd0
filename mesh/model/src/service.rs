//! Services and how clusters share them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{NamespacedName, Protocol};

/// A Kubernetes service, or what several clusters' services of the same namespace and name merged to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// The service's namespace.
    pub namespace: String,
    /// `<name>.<namespace>.svc.<cluster domain>`.
    pub hostname: String,
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
}

impl Service {
    /// The key of the service in the directory: `namespace/hostname`.
    pub fn key(&self) -> NamespacedName {
        NamespacedName::new(self.namespace.clone(), self.hostname.clone())
    }

    /// No cluster IP: DNS answers the pods' own addresses.
    pub fn is_headless(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests;
