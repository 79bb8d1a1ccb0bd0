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
    /// What the service is another name for; empty = it is a service of its own.
    #[prost(string, tag = "6")]
    pub external_name: String,
    /// For how many seconds a client stays with its endpoint.
    #[prost(uint32, optional, tag = "7")]
    pub session_affinity_secs: Option<u32>,
    /// `Cluster` or `Local`; empty = `Cluster`.
    #[prost(string, tag = "8")]
    pub internal_traffic_policy: String,
    /// `PreferSameZone` or `PreferSameNode`; empty = all alike.
    #[prost(string, tag = "9")]
    pub traffic_distribution: String,
    /// `random` or `maglev`; empty = `random`.
    #[prost(string, tag = "10")]
    pub algorithm: String,
    /// In which order clusters and regions serve.
    #[prost(message, optional, tag = "11")]
    pub failover: Option<FailoverExtras>,
    /// The service's labels.
    #[prost(btree_map = "string, string", tag = "12")]
    pub labels: BTreeMap<String, String>,
}

/// In which order clusters and regions serve.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FailoverExtras {
    /// The first serves first.
    #[prost(message, repeated, tag = "1")]
    pub order: Vec<FailoverTarget>,
    /// Below so many percent of healthy endpoints, the next takes a share.
    #[prost(uint32, tag = "2")]
    pub spill_at: u32,
}

/// One place in the order of failover; one of the two is set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FailoverTarget {
    /// The name of a cluster.
    #[prost(string, optional, tag = "1")]
    pub cluster: Option<String>,
    /// The name of a region.
    #[prost(string, optional, tag = "2")]
    pub region: Option<String>,
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
    /// It is shutting down and still serves. The workload's `status` says unhealthy then, for those who know no third state.
    #[prost(bool, tag = "4")]
    pub terminating: bool,
    /// All ports of the services of which one is not TCP; they stand in for the workload's own list of that service, which
    /// has no protocol and so holds TCP only.
    #[prost(btree_map = "string, message", tag = "5")]
    pub service_ports: BTreeMap<String, PortMappings>,
    /// The labels of the pod's namespace.
    #[prost(btree_map = "string, string", tag = "6")]
    pub namespace_labels: BTreeMap<String, String>,
    /// The ports that the pod's containers give a name.
    #[prost(btree_map = "string, message", tag = "7")]
    pub named_ports: BTreeMap<String, NamedPort>,
}

/// A port that a container gives a name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamedPort {
    /// Its number.
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// `TCP` or `UDP`; empty = `TCP`.
    #[prost(string, tag = "2")]
    pub protocol: String,
}

/// Rules that `istio.security.Authorization` has no room for; the resource is named `<language>/<namespace>/<name>`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rules {
    /// `tulle_model::Rules` as JSON.
    #[prost(bytes = "vec", tag = "1")]
    pub json: Vec<u8>,
}

/// At which ports a workload serves a service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PortMappings {
    /// The mappings.
    #[prost(message, repeated, tag = "1")]
    pub ports: Vec<PortMapping>,
}

/// At which port of a workload a service's port is served.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PortMapping {
    /// The port that clients ask for.
    #[prost(uint32, tag = "1")]
    pub service_port: u32,
    /// The workload's port.
    #[prost(uint32, tag = "2")]
    pub target_port: u32,
    /// `TCP` or `UDP`; empty = `TCP`.
    #[prost(string, tag = "3")]
    pub protocol: String,
}
