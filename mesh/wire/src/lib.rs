//! Protobuf messages that Tulle speaks, and their translation to the model.
//!
//! Messages are written by hand from their field tables: the numbers are the contract, the names are ours. Fields that
//! nothing here reads are left out; protobuf skips them. This crate decides what bytes mean and which are refused; it
//! holds no state, opens no connection, and never panics on bytes from outside.

pub mod citadel;
mod hash;
pub mod management;
pub mod security;
mod translate;
pub mod tulle;
pub mod workload;
pub mod xds;

/// The trait behind `encode_to_vec` and `decode` of all messages here.
pub use prost::Message;
/// The well-known types that the messages here are made of.
pub use prost_types::{Any, Duration, ListValue, Struct, Value, value::Kind as ValueKind};

pub use hash::resource_version;
pub use translate::{
    DecodeResourceError, DecodedAddress, decode_address, decode_authorization, decode_bundle,
    decode_rules, encode_authorization, encode_bundle, encode_rules, encode_service,
    encode_workload,
};

/// Type URLs of the resources that Tulle serves and reads.
pub mod type_url {
    /// Workloads and services (`workload::Address`).
    pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
    /// Workloads alone; istiod serves them, ztunnel and Tulle ask for `ADDRESS`.
    pub const WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";
    /// Authorization at L4 (`security::Authorization`).
    pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
    /// Roots of a trust domain (`tulle::TrustBundle`), ours.
    pub const TRUST_BUNDLE: &str = "type.googleapis.com/tulle.mesh.v1.TrustBundle";
    /// Rules that have no room in the one above (`tulle::Rules`), ours.
    pub const RULES: &str = "type.googleapis.com/tulle.mesh.v1.Rules";
    /// What a service carries in the extension `tulle::SERVICE_EXTENSION`, ours.
    pub const SERVICE_EXTRAS: &str = "type.googleapis.com/tulle.mesh.v1.ServiceExtras";
    /// What a workload carries in the extension `tulle::WORKLOAD_EXTENSION`, ours.
    pub const WORKLOAD_EXTRAS: &str = "type.googleapis.com/tulle.mesh.v1.WorkloadExtras";
}

/// Paths of the gRPC methods, as they stand in `:path`.
pub mod grpc_path {
    /// The delta variant of ADS: `stream DeltaDiscoveryRequest -> stream DeltaDiscoveryResponse`.
    pub const DELTA_AGGREGATED_RESOURCES: &str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    /// The state-of-the-world variant of ADS: `stream DiscoveryRequest -> stream DiscoveryResponse`.
    pub const STREAM_AGGREGATED_RESOURCES: &str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    /// The service that both of the above belong to.
    pub const AGGREGATED_DISCOVERY_SERVICE: &str =
        "envoy.service.discovery.v3.AggregatedDiscoveryService";
    /// Unary `IstioCertificateRequest -> IstioCertificateResponse`.
    pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
    /// The service that `CREATE_CERTIFICATE` belongs to.
    pub const CERTIFICATE_SERVICE: &str = "istio.v1.auth.IstioCertificateService";
}

/// Wraps a message for a field of type `google.protobuf.Any`.
pub fn pack(type_url: &str, message: &impl Message) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}
