//! Messages of workloads and services: package `istio.workload`.

mod service;

use std::collections::BTreeMap;

pub use service::{
    AppProtocol, HealthPolicy, IpFamilies, LoadBalancing, Mode, Port, RoutingScope, Service,
    Visibility, WeightedWaypoint,
};

/// A workload or a service: the resource of the type `istio.workload.Address`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// Which of both; absent = a kind that this build does not know.
    #[prost(oneof = "AddressType", tags = "1, 2")]
    pub r#type: Option<AddressType>,
}

/// A workload or a service.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AddressType {
    /// A workload; the resource's name is its uid.
    #[prost(message, boxed, tag = "1")]
    Workload(Box<Workload>),
    /// A service; the resource's name is `namespace/hostname`.
    #[prost(message, boxed, tag = "2")]
    Service(Box<Service>),
}

/// A pod, or what stands for one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Workload {
    /// Unique in the mesh: `cluster/group/kind/namespace/name[/section]`.
    #[prost(string, tag = "20")]
    pub uid: String,
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Addresses, 4 or 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub addresses: Vec<Vec<u8>>,
    /// A name to resolve when there is no address.
    #[prost(string, tag = "21")]
    pub hostname: String,
    /// The network of the addresses; empty = the default one.
    #[prost(string, tag = "4")]
    pub network: String,
    /// How to reach it.
    #[prost(enumeration = "TunnelProtocol", tag = "5")]
    pub tunnel_protocol: i32,
    /// Empty = `cluster.local`.
    #[prost(string, tag = "6")]
    pub trust_domain: String,
    /// Empty = `default`.
    #[prost(string, tag = "7")]
    pub service_account: String,
    /// Through what traffic to it shall pass.
    #[prost(message, optional, tag = "8")]
    pub waypoint: Option<GatewayAddress>,
    /// The node where it runs.
    #[prost(string, tag = "9")]
    pub node: String,
    /// For telemetry.
    #[prost(string, tag = "10")]
    pub canonical_name: String,
    /// For telemetry.
    #[prost(string, tag = "11")]
    pub canonical_revision: String,
    /// For telemetry.
    #[prost(enumeration = "WorkloadType", tag = "12")]
    pub workload_type: i32,
    /// For telemetry: the owner's name.
    #[prost(string, tag = "13")]
    pub workload_name: String,
    /// It speaks HBONE itself.
    #[prost(bool, tag = "14")]
    pub native_tunnel: bool,
    /// The `WORKLOAD_SELECTOR` policies that select it, `namespace/name`.
    #[prost(string, repeated, tag = "16")]
    pub authorization_policies: Vec<String>,
    /// Whether it may get new connections.
    #[prost(enumeration = "WorkloadStatus", tag = "17")]
    pub status: i32,
    /// Empty = `Kubernetes`.
    #[prost(string, tag = "18")]
    pub cluster_id: String,
    /// Through what another network reaches it.
    #[prost(message, optional, tag = "19")]
    pub network_gateway: Option<GatewayAddress>,
    /// The services that it serves, by `namespace/hostname`.
    #[prost(btree_map = "string, message", tag = "22")]
    pub services: BTreeMap<String, PortList>,
    /// How it wants traffic that came through the mesh.
    #[prost(message, optional, tag = "23")]
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Where its node is.
    #[prost(message, optional, tag = "24")]
    pub locality: Option<Locality>,
    /// Whose addresses it has.
    #[prost(enumeration = "NetworkMode", tag = "25")]
    pub network_mode: i32,
    /// Further typed content.
    #[prost(message, repeated, tag = "26")]
    pub extensions: Vec<Extension>,
    /// Weight in load balancing (`google.protobuf.UInt32Value`); absent = 1.
    #[prost(message, optional, tag = "27")]
    pub capacity: Option<u32>,
}

/// Ports of one service at one workload.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PortList {
    /// The ports.
    #[prost(message, repeated, tag = "1")]
    pub ports: Vec<Port>,
}

/// Where something runs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Locality {
    /// Region.
    #[prost(string, tag = "1")]
    pub region: String,
    /// Zone.
    #[prost(string, tag = "2")]
    pub zone: String,
    /// Part of a zone.
    #[prost(string, tag = "3")]
    pub subzone: String,
}

/// An address in a network.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NetworkAddress {
    /// The network; empty = the default one.
    #[prost(string, tag = "1")]
    pub network: String,
    /// 4 or 16 bytes, network order.
    #[prost(bytes = "vec", tag = "2")]
    pub address: Vec<u8>,
    /// Length of a prefix; absent = one address.
    #[prost(uint32, optional, tag = "3")]
    pub length: Option<u32>,
}

/// A service's name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamespacedHostname {
    /// Namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Hostname.
    #[prost(string, tag = "2")]
    pub hostname: String,
}

/// A gateway or waypoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GatewayAddress {
    /// Where it is.
    #[prost(oneof = "GatewayDestination", tags = "1, 2")]
    pub destination: Option<GatewayDestination>,
    /// Its port for HBONE.
    #[prost(uint32, tag = "3")]
    pub hbone_mtls_port: u32,
}

/// Where a gateway is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum GatewayDestination {
    /// Behind a service.
    #[prost(message, tag = "1")]
    Hostname(NamespacedHostname),
    /// At an address.
    #[prost(message, tag = "2")]
    Address(NetworkAddress),
}

/// How a workload wants traffic that came through the mesh.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ApplicationTunnel {
    /// In which protocol.
    #[prost(enumeration = "ApplicationTunnelProtocol", tag = "1")]
    pub protocol: i32,
    /// At which port; 0 = unchanged.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// Further typed content; a client ignores names that it does not know.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Extension {
    /// What it is.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The content.
    #[prost(message, optional, tag = "2")]
    pub config: Option<prost_types::Any>,
}

/// How to reach a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum TunnelProtocol {
    /// Plain TCP.
    None = 0,
    /// HTTP/2 CONNECT over mTLS.
    Hbone = 1,
    /// Istio's sidecar protocol; refused, as ztunnel does.
    LegacyIstioMtls = 2,
}

/// What owns a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum WorkloadType {
    /// A Deployment.
    Deployment = 0,
    /// A CronJob.
    Cronjob = 1,
    /// The pod itself.
    Pod = 2,
    /// A Job.
    Job = 3,
}

/// Whether a workload may get new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum WorkloadStatus {
    /// Yes.
    Healthy = 0,
    /// No.
    Unhealthy = 1,
}

/// Whose addresses a workload has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NetworkMode {
    /// Its own.
    Standard = 0,
    /// Its node's: not to be looked up by address.
    HostNetwork = 1,
}

/// In which protocol a workload wants traffic that came through the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ApplicationTunnelProtocol {
    /// As it was.
    None = 0,
    /// Behind a PROXY protocol header.
    Proxy = 1,
}
