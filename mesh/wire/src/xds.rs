//! Messages of the discovery service: package `envoy.service.discovery.v3` and what it uses of `envoy.config.core.v3`
//! and `google.rpc`.

use std::collections::BTreeMap;

use prost_types::{Any, Duration, Struct};

/// Who asks; guaranteed only in the first request of a stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// The client's name, of ztunnel `ztunnel~<ip>~<pod>.<ns>~<ns>.svc.<domain>`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The client's cluster (in Envoy's sense: a group of alike clients).
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// Free facts; ztunnel sends `NAME`, `NAMESPACE`, `INSTANCE_IPS`, `NODE_NAME`.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
    /// Where the client runs.
    #[prost(message, optional, tag = "4")]
    pub locality: Option<Locality>,
    /// The client's program.
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    /// The program's version.
    #[prost(oneof = "UserAgentVersion", tags = "7, 8")]
    pub user_agent_version: Option<UserAgentVersion>,
    /// Features of the client.
    #[prost(string, repeated, tag = "10")]
    pub client_features: Vec<String>,
    /// Parameters of resource names.
    #[prost(btree_map = "string, string", tag = "12")]
    pub dynamic_parameters: BTreeMap<String, String>,
}

/// The version of a client's program.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum UserAgentVersion {
    /// As text.
    #[prost(string, tag = "7")]
    Text(String),
    /// In parts.
    #[prost(message, tag = "8")]
    Build(BuildVersion),
}

/// A version in parts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildVersion {
    /// The numbers.
    #[prost(message, optional, tag = "1")]
    pub version: Option<SemanticVersion>,
    /// Free facts about the build.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<Struct>,
}

/// `major.minor.patch` (package `envoy.type.v3`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct SemanticVersion {
    /// Incompatible changes.
    #[prost(uint32, tag = "1")]
    pub major_number: u32,
    /// Additions.
    #[prost(uint32, tag = "2")]
    pub minor_number: u32,
    /// Corrections.
    #[prost(uint32, tag = "3")]
    pub patch: u32,
}

/// Where a client runs.
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
    pub sub_zone: String,
}

/// A result of an operation (package `google.rpc`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// gRPC code. A NACK may carry 0: only the presence of the message counts.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What went wrong.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Machine-readable parts.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// A request of the state-of-the-world variant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    /// The version that the client holds.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Who asks.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// All names that the client wants from now on.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// Of which type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The response that this answers; empty in a first request.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Present = the response was refused.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// A response of the state-of-the-world variant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// The version of the whole set.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// For tests of a configuration; unused.
    #[prost(bool, tag = "3")]
    pub canary: bool,
    /// Of which type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the acknowledgement must repeat.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Who answers.
    #[prost(message, optional, tag = "6")]
    pub control_plane: Option<ControlPlane>,
}

/// A request of the delta variant: first subscription, change of subscription, acknowledgement, or several of these.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// Of which type.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names wanted from now on; none in a first request, or `*`, means all.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names no longer wanted.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the client still holds from an earlier stream: version by name.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    /// The response that this answers; empty when it answers none.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Present = the response was refused, at least in part.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// A response of the delta variant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// The version of the server's state, for people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// What is new or different.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// Of which type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the acknowledgement must repeat.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names of what is gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who answers.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
    /// More of the same answer follows: until it has come, the client does not hold what it has asked for.
    ///
    /// Our own addition: the protocol lets a server cut an answer into parts, and has nothing to mark the last one. Clients that do not
    /// know the field pass over it, and servers that do not leave it out, which means that nothing is known.
    #[prost(bool, tag = "1000")]
    pub is_continued: bool,
}

/// One resource with its name and version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Opaque to clients; here a hash of the content.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The content.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// The name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Other names by which it may be asked for.
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
    /// How long it is valid without a repetition.
    #[prost(message, optional, tag = "6")]
    pub ttl: Option<Duration>,
    /// What intermediaries may do with it.
    #[prost(message, optional, tag = "7")]
    pub cache_control: Option<CacheControl>,
}

/// What intermediaries may do with a resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CacheControl {
    /// Keep no copy.
    #[prost(bool, tag = "1")]
    pub do_not_cache: bool,
}

/// Who answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// The server's name and version, for people.
    #[prost(string, tag = "1")]
    pub identifier: String,
}
