//! Our own messages: package `tulle.mesh.v1`.
//!
//! They travel inside `istio.workload.Extension`, which clients that do not know them ignore, or under a type URL of
//! their own.

use std::collections::BTreeMap;

/// The name of the extension that carries `ServiceExtras`.
pub const SERVICE_EXTENSION: &str = "mesh.tulle.io/service";
/// The name of the extension that carries `WorkloadExtras`.
pub const WORKLOAD_EXTENSION: &str = "mesh.tulle.io/workload";

/// The roots of a trust domain; the name of the resource is the trust domain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrustBundle {
    /// Whose roots they are.
    #[prost(string, tag = "1")]
    pub trust_domain: String,
    /// PEM, one or several certificates.
    #[prost(string, tag = "2")]
    pub roots_pem: String,
}

/// What a service has that `istio.workload.Service` has no field for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceExtras {
    /// Merged with services of the same namespace and name of other clusters.
    #[prost(bool, tag = "1")]
    pub global: bool,
    /// Other clusters may use this cluster's endpoints.
    #[prost(bool, tag = "2")]
    pub shared: bool,
    /// `none`, `local`, `remote` or `local-node`; empty = `none`.
    #[prost(string, tag = "3")]
    pub affinity: String,
    /// Names and protocols of the ports, in the order of `Service::ports`.
    #[prost(message, repeated, tag = "4")]
    pub ports: Vec<PortExtras>,
    /// Endpoints that are not ready are used as well.
    #[prost(bool, tag = "5")]
    pub publish_not_ready: bool,
}

/// What a port of a service has that `istio.workload.Port` has no field for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PortExtras {
    /// The service's port that is meant.
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// The port's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// `TCP` or `UDP`; empty = `TCP`.
    #[prost(string, tag = "3")]
    pub protocol: String,
}

/// What a workload has that `istio.workload.Workload` has no field for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadExtras {
    /// Use it only when nothing else is left.
    #[prost(bool, tag = "1")]
    pub demoted: bool,
    /// The pod's labels.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// The pod's `hostname`. Not `Workload::hostname`, which asks the client to resolve a name.
    #[prost(string, tag = "3")]
    pub pod_hostname: String,
}
