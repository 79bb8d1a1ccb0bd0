//! What the compiler says, in the words of the kernel's side.

use std::{collections::BTreeMap, net::IpAddr};

use tulle_datapath::{
    PolicyChanges, PolicyDirection, PolicyPeer, PolicySubject, PolicyTable, PolicyVerdict,
    PortRule, SubjectFlags,
};
use tulle_model::WorkloadUid;
use tulle_policy::compiled::{
    CompiledPolicy, Direction, IdentityId, KernelVerdict, PeerKey, PolicyUpdate, PortEntry,
    SubjectEntry,
};

/// The uids by which the kernel's side knows the captured pods.
pub(super) type Uids = BTreeMap<WorkloadUid, String>;

/// An update as a change of what was written last. `gone` names pods that are no subjects any more, as they were known then.
pub(super) fn changes(update: PolicyUpdate, uids: &Uids, gone: &Uids) -> PolicyChanges {
    PolicyChanges {
        identities: update
            .identities
            .iter()
            .map(|(ip, id)| (*ip, id.0))
            .collect(),
        identities_gone: update.identities_gone,
        blocks: update
            .blocks
            .iter()
            .map(|(block, id)| (*block, id.0))
            .collect(),
        blocks_gone: update.blocks_gone,
        peers: update
            .peers
            .iter()
            .map(|(key, set)| (peer(key), set.0))
            .collect(),
        peers_gone: update.peers_gone.iter().map(peer).collect(),
        port_sets: update
            .port_sets
            .iter()
            .map(|(id, entries)| (id.0, entries.iter().map(rule).collect()))
            .collect(),
        port_sets_gone: update.port_sets_gone.iter().map(|id| id.0).collect(),
        subjects: subjects(&update.subjects, uids),
        subjects_gone: update
            .subjects_gone
            .iter()
            .filter_map(|uid| gone.get(uid).cloned())
            .collect(),
    }
}

/// Whether standing connections may be allowed no longer. Pods that come with known labels, go, or are scaled bring only addresses
/// that nobody had before, which is most of what a cluster does all day.
pub(super) fn may_narrow(update: &PolicyUpdate, before: &CompiledPolicy) -> bool {
    let is_other = |(ip, identity): &(IpAddr, IdentityId)| {
        let (own, block) = (
            before.identity_of(*ip, true),
            before.identity_of(*ip, false),
        );
        own != block && own != Some(*identity)
    };
    !(update.blocks.is_empty()
        && update.blocks_gone.is_empty()
        && update.peers.is_empty()
        && update.peers_gone.is_empty()
        && update.subjects.is_empty())
        || update.identities.iter().any(is_other)
}

/// The first update of a compiler, which says everything.
pub(super) fn whole(update: PolicyUpdate, uids: &Uids) -> PolicyTable {
    let changes = changes(update, uids, &Uids::new());
    PolicyTable {
        identities: changes.identities,
        blocks: changes.blocks,
        peers: changes.peers,
        port_sets: changes.port_sets,
        subjects: changes.subjects,
    }
}

fn subjects(entries: &[SubjectEntry], uids: &Uids) -> Vec<PolicySubject> {
    let subject = |entry: &SubjectEntry| {
        let flags = SubjectFlags {
            egress_enforced: entry.egress_enforced,
            ingress_enforced: entry.ingress_enforced,
            egress_proxied: false,
            ingress_proxied: entry.needs_proxy,
        };
        Some(PolicySubject {
            uid: uids.get(&entry.uid)?.clone(),
            identity: entry.identity.0,
            flags,
        })
    };
    entries.iter().filter_map(subject).collect()
}

fn peer(key: &PeerKey) -> PolicyPeer {
    PolicyPeer {
        subject: key.subject.0,
        direction: match key.direction {
            Direction::Ingress => PolicyDirection::Ingress,
            Direction::Egress => PolicyDirection::Egress,
        },
        peer: key.peer.0,
    }
}

fn rule(entry: &PortEntry) -> PortRule {
    PortRule {
        protocol: entry.protocol,
        port: entry.port,
        prefix_len: entry.prefix_len,
        verdict: match entry.verdict {
            KernelVerdict::Allow => PolicyVerdict::Allow,
            KernelVerdict::Deny => PolicyVerdict::Deny,
            KernelVerdict::L7 => PolicyVerdict::Proxy,
        },
        rule: entry.rule.0,
        audit: entry.audit.0,
    }
}

#[cfg(test)]
mod tests;
