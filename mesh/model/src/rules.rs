//! Network rules: what CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and Kubernetes' NetworkPolicy say, in one form.
//!
//! A reader of one of the languages has completed everything that its language leaves out (the policy's own namespace in a
//! selector, the default deny that a section implies), so that whoever compiles or interprets the form needs to know no
//! language. What a reader cannot express here it must refuse, never leave out.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{AddressRange, Authorization, NamespacedName};

mod selector;

pub use selector::{LabelKey, LabelSource, Operator, Requirement, Selector};

/// A policy object as it travels from an xds-server to its node proxies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rules {
    /// Of a language that speaks of both ends and of both directions.
    Network(NetworkRules),
    /// An Istio AuthorizationPolicy that speaks of HTTP; it stands in for the `Authorization` of the same name, which has no room
    /// for that.
    Authorization(Authorization),
}

impl Rules {
    /// The object's name in the mesh.
    pub fn key(&self) -> RulesKey {
        match self {
            Rules::Network(rules) => rules.key.clone(),
            Rules::Authorization(policy) => RulesKey {
                language: Language::Istio,
                object: policy.key(),
            },
        }
    }
}

/// The name of a policy object: `<language>/<namespace>/<name>`, with an empty namespace for objects of the whole cluster.
///
/// It travels as that text: a `NamespacedName` without a namespace could not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RulesKey {
    /// In which language it is written.
    pub language: Language,
    /// Namespace and name.
    pub object: NamespacedName,
}

impl fmt::Display for RulesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NamespacedName { namespace, name } = &self.object;
        write!(f, "{}/{namespace}/{name}", self.language.name())
    }
}

impl From<RulesKey> for String {
    fn from(key: RulesKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for RulesKey {
    type Error = ParseRulesKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for RulesKey {
    type Err = ParseRulesKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseRulesKeyError {
            text: text.chars().take(200).collect(),
        };
        let mut parts = text.splitn(3, '/');
        let (Some(language), Some(namespace), Some(name)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        let language = Language::ALL
            .into_iter()
            .find(|known| known.name() == language)
            .ok_or_else(error)?;
        if name.is_empty() {
            return Err(error());
        }
        Ok(RulesKey {
            language,
            object: NamespacedName::new(namespace, name),
        })
    }
}

/// A text is not the name of a policy object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no policy: expected <language>/<namespace>/<name>")]
pub struct ParseRulesKeyError {
    /// The text, cut short.
    pub text: String,
}

/// The languages that policies are written in. Each decides by itself; a connection passes if all of them that have something to say
/// about it agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Language {
    /// `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`: one language, since their rules are one set.
    Cilium,
    /// `networking.k8s.io/v1` `NetworkPolicy`.
    Kubernetes,
    /// `security.istio.io` `AuthorizationPolicy`.
    Istio,
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 3] = [Language::Cilium, Language::Kubernetes, Language::Istio];

    /// Its name in keys and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Language::Cilium => "cilium",
            Language::Kubernetes => "kubernetes",
            Language::Istio => "istio",
        }
    }
}

/// One policy object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRules {
    /// Its name.
    pub key: RulesKey,
    /// It only reports what it would do (`mesh.tulle.io/enforcement: audit`).
    #[serde(default)]
    pub audit: bool,
    /// What it says; several where the object has `specs`.
    pub specs: Vec<RuleSpec>,
}

/// What a policy says about the workloads that one selector picks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    /// Whom it speaks of.
    pub subject: Selector,
    /// About connections to them; `None` = nothing.
    #[serde(default)]
    pub ingress: Option<RuleSection>,
    /// About connections from them; `None` = nothing.
    #[serde(default)]
    pub egress: Option<RuleSection>,
}

/// What a policy says about one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSection {
    /// What no rule of the language allows is denied to the workloads picked.
    pub default_deny: bool,
    /// A matching `Deny` wins over every `Allow`, also those of other objects of the language.
    pub rules: Vec<NetworkRule>,
}

/// Peers, ports, and what a match means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRule {
    /// Where it stands in its object, as a field path: `spec.ingress[0].toPorts[1]`.
    pub path: String,
    /// What a match means.
    pub action: RuleAction,
    /// The far ends.
    pub peers: Peers,
    /// Alternatives; empty = every protocol and port.
    #[serde(default)]
    pub ports: Vec<PortMatch>,
    /// What requests on a matching connection may be; `None` = any bytes.
    #[serde(default)]
    pub l7: Option<L7Rules>,
    /// The TLS server names that a matching connection may ask for, lower case, `*` and `**` as in the language; empty = any, also none.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// The far end must have proven its identity (`authentication.mode: required`).
    #[serde(default)]
    pub authenticated: bool,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleAction {
    /// The connection may pass, as far as the language is concerned.
    Allow,
    /// It may not.
    Deny,
}

/// The far ends of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peers {
    /// Everyone, also outside the mesh.
    Any,
    /// Any of these; none = nobody.
    OneOf(Vec<Peer>),
}

/// One kind of far end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// Workloads by their labels.
    Endpoints(Selector),
    /// A set that has a name.
    Entity(Entity),
    /// Addresses.
    Block {
        /// Any of these.
        block: AddressRange,
        /// But none of these.
        #[serde(default)]
        except: Vec<AddressRange>,
        /// Workloads and nodes with such an address as well. Kubernetes' blocks mean them, Cilium's do not.
        #[serde(default)]
        includes_workloads: bool,
    },
    /// The addresses that a DNS name was answered with.
    Name(NamePattern),
    /// The endpoints of services, of the policy's cluster or global.
    Services {
        /// In this namespace; `None` = in all.
        namespace: Option<String>,
        /// Which.
        services: ServicePick,
    },
}

/// Which services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServicePick {
    /// The one of this name.
    Name(String),
    /// Those with such labels.
    Labels(Selector),
}

/// Sets of far ends with a name (Cilium's `toEntities`, `fromEntities`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    /// Everyone.
    All,
    /// What is neither a workload nor a node of the mesh.
    World,
    /// The same, by IPv4.
    WorldIpv4,
    /// The same, by IPv6.
    WorldIpv6,
    /// The local cluster's workloads, all nodes, and the other reserved sets but the world.
    Cluster,
    /// The same with the workloads of all clusters.
    ClusterMesh,
    /// The node of the workload that the policy picks.
    Host,
    /// Every other node.
    RemoteNode,
    /// The API servers of the local cluster.
    KubeApiserver,
    /// Gateways of the mesh.
    Ingress,
    /// Workloads that have no labels yet.
    Init,
    /// Health probes between nodes.
    Health,
    /// Pods that are not in the mesh.
    Unmanaged,
    /// Nobody.
    None,
}

/// A DNS name, or a pattern of names; lower case, with the final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NamePattern {
    /// This name.
    Exact(String),
    /// `*` stands for letters within one label, a leading `**.` for one or more labels, and `*.` (the lone star) for every name.
    Pattern(String),
}

/// A protocol with ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMatch {
    /// Which protocol.
    pub transport: Transport,
    /// Which ports: those of the workload that is asked, not those of a service.
    pub ports: Ports,
}

/// Protocols that rules tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// TCP, UDP and SCTP.
    AnyWithPorts,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP; the ports are types.
    IcmpV4,
    /// ICMPv6; the ports are types.
    IcmpV6,
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ports {
    /// All of them.
    All,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The ports that the containers of the workload that is asked give this name.
    Named(String),
}

/// What requests may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum L7Rules {
    /// HTTP requests that match any of these.
    Http(Vec<HttpRule>),
    /// DNS questions for any of these names.
    Dns(Vec<NamePattern>),
}

/// One kind of HTTP request: all fields that are set must match. Expressions must match the whole value (Go's RE2 syntax, as Envoy's
/// `safe_regex` takes it).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    /// An expression for the path with its query, as the server will see it.
    pub path: Option<String>,
    /// An expression for the method.
    pub method: Option<String>,
    /// An expression for the host as the client wrote it, with the port if it wrote one.
    pub host: Option<String>,
    /// Headers that the request must have.
    pub headers: Vec<HeaderRule>,
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRule {
    /// The header's name, lower case.
    pub name: String,
    /// Its value; `None` = any.
    #[serde(default)]
    pub value: Option<String>,
    /// What becomes of a request without it.
    #[serde(default)]
    pub mismatch: HeaderMismatch,
}

/// What becomes of a request that lacks a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderMismatch {
    /// The rule does not match.
    #[default]
    Fail,
    /// The rule matches, and the absence is logged.
    Log,
    /// The rule matches, and the header is added.
    Add,
    /// The rule matches, and the header's other values are taken away.
    Delete,
    /// The rule matches, and the value replaces the others.
    Replace,
}

#[cfg(test)]
mod tests;
