//! The one compiled form of all network rules, as one node needs it: numbers for far ends, and what a pair of numbers may do.
//!
//! Decides which *identity* every address has (a number that stands for everything that rules can tell apart about it), and for
//! every captured pod's identity, direction and far end's identity which *port set* holds: protocols and port prefixes, each with a
//! verdict that is final, because the rules of all languages are folded into it. Kernel and proxy look up the same tables, so they
//! cannot disagree; a proxy adds what only it can see (requests, server names, proven identities).
//!
//! Numbers never leave the node, so no cluster has to agree with another on them, and there is no scheme of bits that limits how
//! many clusters or identities there are. Cilium's numbers travel in packets, which ties clusters to one allocation and a policy
//! to the moment when its numbers have arrived everywhere.
//!
//! Must not do: look at the clock, remember names by itself ([`LearnedNames`] comes from the resolver), judge requests
//! ([`crate::l7`] does).

mod addresses;
mod compiler;
mod demands;
mod flow;
mod identity;
pub(crate) mod labels;
mod peers;
mod policy;
mod port_sets;
mod ports;
mod prefix;
mod rules;
mod tables;
mod update;

pub use compiler::{Compiler, Work};
pub use flow::{
    Because, Flow, FlowPeer, HttpFacts, Needs, Outcome, RequestFacts, ServerName, Verdict,
};
pub use labels::speaks_of;
pub use policy::CompiledPolicy;
pub use update::{
    KernelVerdict, LimitKind, LimitReached, PeerKey, PolicyUpdate, PortEntry, SubjectEntry, Usage,
};

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use imbl::OrdMap;
use tulle_model::{ClusterName, NamespacedName, RulesKey, WorkloadUid};

/// A number for everything that rules can tell apart about a far end. It means nothing on another node or after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IdentityId(pub u32);

impl IdentityId {
    /// As a subject: not compiled yet. As a far end: whoever has no entry of its own.
    pub const ANY: IdentityId = IdentityId(0);
    /// The own node.
    pub const HOST: IdentityId = IdentityId(1);
    /// Every IPv4 address that no rule tells apart (`0.0.0.0/0`).
    pub const WORLD_IPV4: IdentityId = IdentityId(2);
    /// Every IPv6 address that no rule tells apart (`::/0`).
    pub const WORLD_IPV6: IdentityId = IdentityId(3);
    /// Whoever has no number because there are too many; refused by every subject that has rules.
    pub const OVERFLOW: IdentityId = IdentityId(4);
    /// The first number that is given away.
    pub const FIRST: IdentityId = IdentityId(16);
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A number for a port set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSetId(pub u32);

impl PortSetId {
    /// Everything is allowed; it has no entries.
    pub const ALLOW_ALL: PortSetId = PortSetId(1);
    /// Everything is denied, by default; it has no entries.
    pub const DENY_ALL: PortSetId = PortSetId(2);
    /// The first number that is given away.
    pub const FIRST: PortSetId = PortSetId(16);
}

/// A number for one rule of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule: there is none that speaks of it, or what no rule allows is denied.
    pub const NONE: RuleId = RuleId(0);
}

/// Where a rule stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// Its object.
    pub key: RulesKey,
    /// The field path in the object: `spec.ingress[0].toPorts[1]`.
    pub path: Arc<str>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.key, self.path)
    }
}

/// Which of its connections a subject's rules speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Those that others open to it.
    Ingress,
    /// Those that it opens.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// Its name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// Where the compiler works, and how much it may use.
#[derive(Debug, Clone)]
pub struct CompilerSettings {
    /// The node's cluster: the local one of all rules.
    pub cluster: ClusterName,
    /// The node's name.
    pub node: String,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of the compiled form. What lies beyond one is refused, never let through, and reported as [`LimitReached`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Numbers for workloads, nodes and learned addresses at one time.
    pub identities_max: usize,
    /// Address blocks that rules tell apart at one time.
    pub prefixes_max: usize,
    /// Distinct port sets at one time.
    pub port_sets_max: usize,
    /// Entries of one port set.
    pub port_entries_max: usize,
    /// Entries of `(subject, direction, far end)` at one time.
    pub peers_max: usize,
}

impl Default for Limits {
    /// Four times what a mesh of full size (100,000 workloads, 10,000 identities, 10,000 policies) was seen to need.
    fn default() -> Self {
        Limits {
            identities_max: 1 << 18,
            prefixes_max: 1 << 16,
            port_sets_max: 1 << 16,
            port_entries_max: 1 << 12,
            peers_max: 1 << 20,
        }
    }
}

/// What may differ since the last update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTouched {
    /// Everything may differ; the sets say nothing then.
    pub everything: bool,
    /// Workloads and nodes that are new, different or gone.
    pub workloads: BTreeSet<WorkloadUid>,
    /// Services that are new, different or gone.
    pub services: BTreeSet<NamespacedName>,
    /// Policies that are new, different or gone.
    pub rules: BTreeSet<RulesKey>,
    /// Something of Istio's policies (`Change::Policy`) is new, different or gone.
    pub authorizations: bool,
}

/// Which addresses the names were answered with that pods asked for. A clone shares everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LearnedNames {
    /// By name: lower case, with the final dot.
    pub names: OrdMap<Arc<str>, Arc<[IpAddr]>>,
}
