//! The vocabulary of the mesh.
//!
//! Everything here is data and pure decisions about names: no sockets, no files, no clock, no random source. The same
//! types travel from an xds-server's sources through etcd and xDS to the node proxies, so a fact has one shape everywhere.

mod address;
mod cluster;
mod directory;
mod identity;
mod locality;
mod name;
mod policy;
mod rules;
mod service;
mod text;
mod workload;

pub use address::{Protocol, ServiceAddress};
pub use cluster::{ClusterId, ClusterName, ParseClusterError};
pub use directory::{Change, Directory};
pub use identity::{ParseSpiffeIdError, SpiffeId, TrustDomain};
pub use locality::Locality;
pub use name::{NamespacedName, ParseNamespacedNameError};
pub use policy::{
    AddressRange, Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch,
    AuthorizationRule, AuthorizationScope, HeaderCondition, PathMatch, RequestMatch,
    ServiceAccountMatch, StringMatch,
};
pub use rules::{
    Entity, HeaderMismatch, HeaderRule, HttpRule, L7Rules, LabelKey, LabelSource, Language,
    NamePattern, NetworkRule, NetworkRules, Operator, ParseRulesKeyError, Peer, Peers, PortMatch,
    Ports, Requirement, RuleAction, RuleSection, RuleSpec, Rules, RulesKey, Selector, ServicePick,
    Transport,
};
pub use service::{
    Affinity, Algorithm, AppProtocol, Failover, FailoverTarget, Service, ServicePort, Sharing,
    TrafficDistribution, TrafficPolicy,
};
pub use text::Text;
pub use workload::{
    Health, NamedPort, PortMapping, SmallMap, TrustBundle, TunnelProtocol, Workload, WorkloadKind,
    WorkloadUid,
};
