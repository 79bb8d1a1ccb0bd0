//! What a compilation changes in the tables of the kernel.

use std::net::IpAddr;

use tulle_model::{AddressRange, WorkloadUid};

use super::{Direction, IdentityId, PortSetId, RuleId};

/// What the tables lack, in no order that matters: whoever applies it writes `port_sets`, then `peers`, `subjects`, `identities` and
/// `blocks`, and takes away what is gone last, so that nothing ever points to what is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyUpdate {
    /// Exact addresses that are new or have another identity: workloads, nodes, learned names, endpoints of services.
    ///
    /// They count where an address cannot be forged: for what a pod connects to, and for a source on the same node that the kernel
    /// has verified. Everyone else is looked up in `blocks` alone.
    pub identities: Vec<(IpAddr, IdentityId)>,
    /// Exact addresses that have no identity of their own any more.
    pub identities_gone: Vec<IpAddr>,
    /// Blocks of addresses that are new; the longest that holds an address counts. `0.0.0.0/0` and `::/0` are always there.
    pub blocks: Vec<(AddressRange, IdentityId)>,
    /// Blocks that no rule tells apart any more.
    pub blocks_gone: Vec<AddressRange>,
    /// Captured pods that are new or different.
    pub subjects: Vec<SubjectEntry>,
    /// Captured pods that are gone.
    pub subjects_gone: Vec<WorkloadUid>,
    /// Port sets of `(subject, direction, far end)` that are new or different.
    pub peers: Vec<(PeerKey, PortSetId)>,
    /// Those that are gone: the far end falls back to the entry for everyone, or the subject has no such table any more.
    pub peers_gone: Vec<PeerKey>,
    /// Port sets that are new. A port set never changes: other content is another number.
    pub port_sets: Vec<(PortSetId, Vec<PortEntry>)>,
    /// Port sets that nothing points to any more.
    pub port_sets_gone: Vec<PortSetId>,
    /// What did not fit; who it concerns is refused until it does.
    pub limits_reached: Vec<LimitReached>,
    /// What is used now.
    pub usage: Usage,
}

impl PolicyUpdate {
    /// Whether the tables already are as they should be.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
            && self.identities_gone.is_empty()
            && self.blocks.is_empty()
            && self.blocks_gone.is_empty()
            && self.subjects.is_empty()
            && self.subjects_gone.is_empty()
            && self.peers.is_empty()
            && self.peers_gone.is_empty()
            && self.port_sets.is_empty()
            && self.port_sets_gone.is_empty()
    }
}

/// A captured pod as the kernel has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectEntry {
    /// Which pod.
    pub uid: WorkloadUid,
    /// The identity that its tables are under.
    pub identity: IdentityId,
    /// Whether connections to it have to be looked up; otherwise all may pass.
    pub ingress_enforced: bool,
    /// Whether its own connections have to be looked up.
    pub egress_enforced: bool,
    /// Policies of Istio reach it, which only a proxy judges: no connection to it may take the direct path.
    pub needs_proxy: bool,
}

/// Whose port set: first the entry of the far end's identity counts, then that of `IdentityId::ANY`.
///
/// A subject that is enforced in a direction always has the latter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The captured pod's identity.
    pub subject: IdentityId,
    /// Which of its connections.
    pub direction: Direction,
    /// The far end's identity.
    pub peer: IdentityId,
}

/// One entry of a port set. The longest prefix counts; entries of the protocol count before those of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortEntry {
    /// The number of the protocol in an IP header; 0 = any that has no entry for the port. Every port set has one for 0.
    pub protocol: u8,
    /// The port of the end that is asked, or the type of an ICMP message.
    pub port: u16,
    /// How many of the port's leading bits count: 0 = none, 16 = all.
    pub prefix_len: u8,
    /// What may happen.
    pub verdict: KernelVerdict,
    /// The rule that decided.
    pub rule: RuleId,
    /// A rule of an audited policy that would deny what the verdict allows.
    pub audit: RuleId,
}

/// What the kernel does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelVerdict {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// A proxy has to see it: what it asks for decides, the name in its TLS hello, or what its far end proves. It may not take the
    /// direct path.
    L7,
}

impl KernelVerdict {
    /// Its name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            KernelVerdict::Allow => "allow",
            KernelVerdict::Deny => "deny",
            KernelVerdict::L7 => "l7",
        }
    }
}

/// How much of each bound is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of `Limits::identities_max`.
    pub identities: usize,
    /// Of `Limits::prefixes_max`.
    pub prefixes: usize,
    /// Of `Limits::port_sets_max`.
    pub port_sets: usize,
    /// The entries of the largest port set, of `Limits::port_entries_max`.
    pub port_entries: usize,
    /// Of `Limits::peers_max`.
    pub peers: usize,
}

/// A bound that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("policies need {needed} {}, {max} are allowed: what does not fit is refused", kind.name())]
pub struct LimitReached {
    /// Which.
    pub kind: LimitKind,
    /// How many there would be.
    pub needed: usize,
    /// How many there may be.
    pub max: usize,
}

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitKind {
    /// `Limits::identities_max`.
    Identities,
    /// `Limits::prefixes_max`.
    Prefixes,
    /// `Limits::port_sets_max`.
    PortSets,
    /// `Limits::port_entries_max`.
    PortEntries,
    /// `Limits::peers_max`.
    Peers,
}

impl LimitKind {
    /// Its name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            LimitKind::Identities => "identities",
            LimitKind::Prefixes => "address blocks",
            LimitKind::PortSets => "port sets",
            LimitKind::PortEntries => "entries in one port set",
            LimitKind::Peers => "far ends",
        }
    }
}
