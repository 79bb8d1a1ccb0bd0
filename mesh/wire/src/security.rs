//! Messages of authorization: package `istio.security`.
//!
//! Names of the nested messages are ztunnel's; istiod has others with the same numbers.

use crate::workload::Extension;

/// One policy; the resource's name is `namespace/name`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Authorization {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Which workloads it speaks of.
    #[prost(enumeration = "Scope", tag = "3")]
    pub scope: i32,
    /// What a match means.
    #[prost(enumeration = "Action", tag = "4")]
    pub action: i32,
    /// Alternatives.
    #[prost(message, repeated, tag = "5")]
    pub rules: Vec<Rule>,
    /// Only report.
    #[prost(bool, tag = "6")]
    pub dry_run: bool,
    /// Further typed content.
    #[prost(message, repeated, tag = "7")]
    pub extensions: Vec<Extension>,
}

/// All clauses must hold (istiod: `Group`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rule {
    /// Conditions.
    #[prost(message, repeated, tag = "1")]
    pub clauses: Vec<Clause>,
}

/// One match must hold (istiod: `Rules`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Clause {
    /// Alternatives.
    #[prost(message, repeated, tag = "2")]
    pub matches: Vec<Match>,
}

/// All fields that are set must hold.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Match {
    /// Namespace of the peer's identity.
    #[prost(message, repeated, tag = "1")]
    pub namespaces: Vec<StringMatch>,
    /// None of these.
    #[prost(message, repeated, tag = "2")]
    pub not_namespaces: Vec<StringMatch>,
    /// The peer's identity without `spiffe://`.
    #[prost(message, repeated, tag = "3")]
    pub principals: Vec<StringMatch>,
    /// None of these.
    #[prost(message, repeated, tag = "4")]
    pub not_principals: Vec<StringMatch>,
    /// Address of the client.
    #[prost(message, repeated, tag = "5")]
    pub source_ips: Vec<Address>,
    /// None of these.
    #[prost(message, repeated, tag = "6")]
    pub not_source_ips: Vec<Address>,
    /// Address of the workload.
    #[prost(message, repeated, tag = "7")]
    pub destination_ips: Vec<Address>,
    /// None of these.
    #[prost(message, repeated, tag = "8")]
    pub not_destination_ips: Vec<Address>,
    /// Port of the workload.
    #[prost(uint32, repeated, tag = "9")]
    pub destination_ports: Vec<u32>,
    /// None of these.
    #[prost(uint32, repeated, tag = "10")]
    pub not_destination_ports: Vec<u32>,
    /// Namespace and service account of the peer's identity.
    #[prost(message, repeated, tag = "11")]
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// None of these.
    #[prost(message, repeated, tag = "12")]
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Further typed content.
    #[prost(message, repeated, tag = "13")]
    pub extensions: Vec<Extension>,
}

/// A CIDR block.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// 4 or 16 bytes, network order.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// Length of the prefix.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// A service account.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceAccountMatch {
    /// Namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Name (`serviceAccount` in the table: the number is what counts).
    #[prost(string, tag = "2")]
    pub service_account: String,
}

/// How a text is compared.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringMatch {
    /// The comparison; absent = one that this build does not know.
    #[prost(oneof = "MatchType", tags = "1, 2, 3, 4")]
    pub match_type: Option<MatchType>,
}

/// The comparisons.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum MatchType {
    /// Equal.
    #[prost(string, tag = "1")]
    Exact(String),
    /// Begins with.
    #[prost(string, tag = "2")]
    Prefix(String),
    /// Ends with.
    #[prost(string, tag = "3")]
    Suffix(String),
    /// Any, but there is one (`google.protobuf.Empty`).
    #[prost(message, tag = "4")]
    Presence(()),
}

/// Which workloads a policy speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Scope {
    /// All.
    Global = 0,
    /// Those of its namespace.
    Namespace = 1,
    /// Those that name it.
    WorkloadSelector = 2,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Action {
    /// May pass.
    Allow = 0,
    /// Is refused.
    Deny = 1,
}
