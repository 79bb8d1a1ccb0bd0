//! What the policy tables of the kernel side should hold: numbers for who talks, and what they may.
//!
//! The tables have no opinion. Whoever compiles policy numbers the identities of workloads, nodes and address blocks as he likes; a
//! connection is then judged by looking up, in this order: the identity of the far address (its own entry, else its longest block,
//! else 0), the port set of (subject, direction, that identity), else of (subject, direction, 0), and in that port set the rule with
//! the longest port prefix, where one for the very protocol goes before one for any. Nothing found means denied.
//!
//! **Invariant:** while a change is written, each connection is judged as before the change or as after it, never otherwise. So
//! a number that was given up may get a new meaning only in a later change. Held by the test
//! `while_tables_change_every_verdict_is_the_old_one_or_the_new_one`.

mod change;
mod tables;

use std::net::IpAddr;

use tulle_model::AddressRange;

pub(crate) use tables::{PolicyMaps, PolicyTables};

/// Everything that the policy tables should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyTable {
    /// Who is at an address: workloads and nodes.
    pub identities: Vec<(IpAddr, u32)>,
    /// Who is at all other addresses of a block; the longest block counts.
    pub blocks: Vec<(AddressRange, u32)>,
    /// The port set for a subject and a peer.
    pub peers: Vec<(PolicyPeer, u32)>,
    /// The port sets beside [`PORT_SET_ALLOW`] and [`PORT_SET_DENY`], which need no mention.
    pub port_sets: Vec<(u32, Vec<PortRule>)>,
    /// The captured pods. A pod that is not among them is pending: it may not talk but through the proxy.
    pub subjects: Vec<PolicySubject>,
}

/// What differs from the table that was written last. Entries replace those of the same key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyChanges {
    /// Addresses that are new or have another identity.
    pub identities: Vec<(IpAddr, u32)>,
    /// Addresses of which nobody speaks any more.
    pub identities_gone: Vec<IpAddr>,
    /// Blocks that are new or have another identity.
    pub blocks: Vec<(AddressRange, u32)>,
    /// Blocks of which nobody speaks any more.
    pub blocks_gone: Vec<AddressRange>,
    /// Subjects and peers that are new or have another port set.
    pub peers: Vec<(PolicyPeer, u32)>,
    /// Subjects and peers that are gone.
    pub peers_gone: Vec<PolicyPeer>,
    /// Port sets that are new or different, each with all that it has now.
    pub port_sets: Vec<(u32, Vec<PortRule>)>,
    /// Port sets that are gone.
    pub port_sets_gone: Vec<u32>,
    /// Pods that are new or whose identity or flags changed.
    pub subjects: Vec<PolicySubject>,
    /// Uids of pods that are gone, or pending again.
    pub subjects_gone: Vec<String>,
}

/// Whose rules, for which direction, about whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyPeer {
    /// The identity whose rules these are.
    pub subject: u32,
    /// Whether the connection begins or ends there.
    pub direction: PolicyDirection,
    /// The identity of the other end; 0 = everybody who has no entry of his own.
    pub peer: u32,
}

/// On which side of the connection the subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyDirection {
    /// The connection ends there.
    Ingress,
    /// It begins there.
    Egress,
}

/// What holds for a block of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRule {
    /// The protocol's number; 0 = every protocol. For ICMP the message's type stands in for the port.
    pub protocol: u8,
    /// Any port of the block.
    pub port: u16,
    /// How many bits of the port count: 16 = one port, 0 = all.
    pub prefix_len: u8,
    /// What becomes of the connection.
    pub verdict: PolicyVerdict,
    /// The rule that says so, for the events; 0 = none.
    pub rule: u32,
    /// The rule that would deny it were it enforced, for the events; 0 = none.
    pub audit: u32,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyVerdict {
    /// It may be.
    Allow,
    /// It may not.
    Deny,
    /// The node proxy decides, by what is said inside.
    Proxy,
}

/// A captured pod, as the policy tables know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PolicySubject {
    /// The uid by which it was or will be captured.
    pub uid: String,
    /// Its identity; 0 = pending.
    pub identity: u32,
    /// What holds for it as a whole.
    pub flags: SubjectFlags,
}

/// What holds for a captured pod as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubjectFlags {
    /// What leaves the pod is looked up; otherwise it is allowed.
    pub egress_enforced: bool,
    /// What reaches the pod is looked up; otherwise it is allowed.
    pub ingress_enforced: bool,
    /// What leaves the pod by TCP goes through the proxy even where the tables allow it.
    pub egress_proxied: bool,
    /// What reaches the pod by TCP goes through the proxy even where the tables allow it.
    pub ingress_proxied: bool,
}

/// What a change of the policy tables did, in entries of all maps together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyReport {
    /// Entries that are new.
    pub added: usize,
    /// Entries whose value changed.
    pub changed: usize,
    /// Entries that are gone.
    pub removed: usize,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapFill {
    /// The map's name.
    pub map: &'static str,
    /// How many entries it has.
    pub entries: usize,
    /// How many it can have.
    pub entries_max: usize,
}

/// The port set that allows everything.
pub const PORT_SET_ALLOW: u32 = tulle_abi::PORT_SET_ALLOW;
/// The port set that denies everything.
pub const PORT_SET_DENY: u32 = tulle_abi::PORT_SET_DENY;

impl PolicyChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == PolicyChanges::default()
    }
}

impl PolicyDirection {
    /// The number that the kernel side knows the direction by.
    pub(crate) fn number(self) -> u32 {
        match self {
            PolicyDirection::Ingress => tulle_abi::DIRECTION_INGRESS,
            PolicyDirection::Egress => tulle_abi::DIRECTION_EGRESS,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        match number {
            tulle_abi::DIRECTION_INGRESS => Some(PolicyDirection::Ingress),
            tulle_abi::DIRECTION_EGRESS => Some(PolicyDirection::Egress),
            _ => None,
        }
    }
}

impl PolicyVerdict {
    pub(crate) fn number(self) -> u8 {
        match self {
            PolicyVerdict::Allow => tulle_abi::VERDICT_ALLOW,
            PolicyVerdict::Deny => tulle_abi::VERDICT_DENY,
            PolicyVerdict::Proxy => tulle_abi::VERDICT_PROXY,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            tulle_abi::VERDICT_ALLOW => Some(PolicyVerdict::Allow),
            tulle_abi::VERDICT_DENY => Some(PolicyVerdict::Deny),
            tulle_abi::VERDICT_PROXY => Some(PolicyVerdict::Proxy),
            _ => None,
        }
    }
}

impl SubjectFlags {
    pub(crate) fn bits(self) -> u32 {
        [
            (self.egress_enforced, tulle_abi::POD_EGRESS_ENFORCED),
            (self.ingress_enforced, tulle_abi::POD_INGRESS_ENFORCED),
            (self.egress_proxied, tulle_abi::POD_EGRESS_PROXIED),
            (self.ingress_proxied, tulle_abi::POD_INGRESS_PROXIED),
        ]
        .into_iter()
        .map(|(is_set, bit)| if is_set { bit } else { 0 })
        .sum()
    }
}
