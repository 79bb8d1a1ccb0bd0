//! The part of `istio.workload` that speaks of services.

use super::{Extension, GatewayAddress, NetworkAddress};

/// A service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Service {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Fully qualified name in DNS.
    #[prost(string, tag = "3")]
    pub hostname: String,
    /// Virtual addresses; none = headless.
    #[prost(message, repeated, tag = "4")]
    pub addresses: Vec<NetworkAddress>,
    /// Ports.
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<Port>,
    /// Identities accepted beside the workloads' own.
    #[prost(string, repeated, tag = "6")]
    pub subject_alt_names: Vec<String>,
    /// Through what traffic to it shall pass.
    #[prost(message, optional, tag = "7")]
    pub waypoint: Option<GatewayAddress>,
    /// Which endpoints to prefer; absent = all alike.
    #[prost(message, optional, tag = "8")]
    pub load_balancing: Option<LoadBalancing>,
    /// Families of the addresses.
    #[prost(enumeration = "IpFamilies", tag = "9")]
    pub ip_families: i32,
    /// Further typed content.
    #[prost(message, repeated, tag = "10")]
    pub extensions: Vec<Extension>,
    /// Wins when several claim one address or hostname.
    #[prost(bool, tag = "11")]
    pub canonical: bool,
    /// Ingress gateways use the waypoint too.
    #[prost(bool, tag = "12")]
    pub ingress_use_waypoint: bool,
    /// Several waypoints with shares of traffic.
    #[prost(message, repeated, tag = "13")]
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// Who may see it.
    #[prost(enumeration = "Visibility", tag = "14")]
    pub visibility: i32,
}

/// A port of a service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Port {
    /// The port that clients ask for.
    #[prost(uint32, tag = "1")]
    pub service_port: u32,
    /// The workloads' port; 0 = named, each workload says its own.
    #[prost(uint32, tag = "2")]
    pub target_port: u32,
    /// What is spoken.
    #[prost(enumeration = "AppProtocol", tag = "3")]
    pub app_protocol: i32,
}

/// A waypoint with its share of traffic.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WeightedWaypoint {
    /// Where it is.
    #[prost(message, optional, tag = "1")]
    pub destination: Option<GatewayAddress>,
    /// Its share.
    #[prost(uint32, tag = "2")]
    pub weight: u32,
}

/// Which endpoints to prefer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LoadBalancing {
    /// What must be alike, most important first.
    #[prost(enumeration = "RoutingScope", repeated, tag = "1")]
    pub routing_preference: Vec<i32>,
    /// How binding that is.
    #[prost(enumeration = "Mode", tag = "2")]
    pub mode: i32,
    /// Whether unhealthy ones count.
    #[prost(enumeration = "HealthPolicy", tag = "3")]
    pub health_policy: i32,
}

/// What two places can have in common (`LoadBalancing.Scope`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RoutingScope {
    /// Not told; refused, as ztunnel does.
    Unspecified = 0,
    /// The region.
    Region = 1,
    /// The zone.
    Zone = 2,
    /// The subzone.
    Subzone = 3,
    /// The node.
    Node = 4,
    /// The cluster.
    Cluster = 5,
    /// The network.
    Network = 6,
}

/// How binding a preference is (`LoadBalancing.Mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Mode {
    /// No preference.
    Unspecified = 0,
    /// Only endpoints that match all of it.
    Strict = 1,
    /// The best there are.
    Failover = 2,
    /// Straight to the original destination.
    Passthrough = 3,
}

/// Whether unhealthy endpoints count (`LoadBalancing.HealthPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum HealthPolicy {
    /// No.
    OnlyHealthy = 0,
    /// Yes.
    AllowAll = 1,
}

/// Families of a service's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum IpFamilies {
    /// Not told.
    Automatic = 0,
    /// IPv4.
    Ipv4Only = 1,
    /// IPv6.
    Ipv6Only = 2,
    /// Both.
    Dual = 3,
}

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AppProtocol {
    /// Not told.
    Unknown = 0,
    /// HTTP/1.1.
    Http11 = 1,
    /// HTTP/2.
    Http2 = 2,
    /// gRPC.
    Grpc = 3,
    /// Plain bytes.
    Tcp = 4,
    /// TLS of the application.
    Tls = 5,
}

/// Who may see a service (`Service.Visibility`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Visibility {
    /// All.
    Public = 0,
    /// Its own namespace.
    Namespace = 1,
}
