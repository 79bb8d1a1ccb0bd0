//! Changes of the policy tables in the form of the maps, and whether there is room for them.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
};

use tulle_abi::{
    Address, BLOCK_KEY_BITS, BLOCK_KEY_V4_BITS, BLOCK_KEY_V6_BITS, BLOCKS_MAX, BlockKey, FAMILY_V4,
    FAMILY_V6, IDENTITIES_MAX, PODS_MAX, POLICY_MAX, PORT_KEY_BITS, PORT_KEY_FIXED_BITS,
    PORT_SET_DENY, PORTS_MAX, PolicyKey, PortKey, PortValue,
};
use tulle_model::AddressRange;

use super::{PolicyChanges, PolicyPeer, PolicyTable, PortRule};
use crate::ReconcileError;

/// What the maps hold.
#[derive(Default)]
pub(super) struct Held {
    pub(super) identities: HashMap<Address, u32>,
    pub(super) blocks: HashMap<Prefix<BlockKey>, u32>,
    pub(super) peers: HashMap<PolicyKey, u32>,
    /// By port set.
    pub(super) ports: HashMap<u32, HashMap<Prefix<PortKey>, PortValue>>,
    pub(super) ports_len: usize,
}

/// A change in the form of the maps.
#[derive(Default)]
pub(super) struct Change {
    pub(super) identities: HashMap<Address, u32>,
    pub(super) identities_gone: HashSet<Address>,
    pub(super) blocks: HashMap<Prefix<BlockKey>, u32>,
    pub(super) blocks_gone: HashSet<Prefix<BlockKey>>,
    pub(super) peers: HashMap<PolicyKey, u32>,
    pub(super) peers_gone: HashSet<PolicyKey>,
    pub(super) port_sets: HashMap<u32, HashMap<Prefix<PortKey>, PortValue>>,
    pub(super) port_sets_gone: HashSet<u32>,
}

/// The key of a trie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Prefix<K> {
    pub(super) len: u32,
    pub(super) data: K,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.identities.is_empty()
            && self.blocks.is_empty()
            && self.peers.is_empty()
            && self.ports.is_empty()
    }
}

impl Change {
    pub(super) fn of_table(table: &PolicyTable) -> Result<Self, ReconcileError> {
        require("PODS", table.subjects.len(), PODS_MAX)?;
        Ok(Change {
            identities: addresses(&table.identities),
            blocks: blocks(&table.blocks),
            peers: peers(&table.peers),
            port_sets: port_sets(&table.port_sets)?,
            ..Change::default()
        })
    }

    /// What is also wanted is not gone.
    pub(super) fn of_changes(changes: &PolicyChanges) -> Result<Self, ReconcileError> {
        let mut change = Change {
            identities: addresses(&changes.identities),
            identities_gone: changes
                .identities_gone
                .iter()
                .map(|ip| (*ip).into())
                .collect(),
            blocks: blocks(&changes.blocks),
            blocks_gone: changes.blocks_gone.iter().map(block_key).collect(),
            peers: peers(&changes.peers),
            peers_gone: changes.peers_gone.iter().map(peer_key).collect(),
            port_sets: port_sets(&changes.port_sets)?,
            port_sets_gone: changes.port_sets_gone.iter().copied().collect(),
        };
        change
            .identities_gone
            .retain(|key| !change.identities.contains_key(key));
        change
            .blocks_gone
            .retain(|key| !change.blocks.contains_key(key));
        change
            .peers_gone
            .retain(|key| !change.peers.contains_key(key));
        change
            .port_sets_gone
            .retain(|key| !change.port_sets.contains_key(key));
        Ok(change)
    }

    /// Forgets what the maps hold already.
    pub(super) fn drop_known(&mut self, held: &Held) {
        self.identities
            .retain(|key, value| held.identities.get(key) != Some(value));
        self.blocks
            .retain(|key, value| held.blocks.get(key) != Some(value));
        self.peers
            .retain(|key, value| held.peers.get(key) != Some(value));
        self.port_sets
            .retain(|key, value| held.ports.get(key) != Some(value));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.identities.is_empty()
            && self.identities_gone.is_empty()
            && self.blocks.is_empty()
            && self.blocks_gone.is_empty()
            && self.peers.is_empty()
            && self.peers_gone.is_empty()
            && self.port_sets.is_empty()
            && self.port_sets_gone.is_empty()
    }

    /// New entries are written before old ones go, so there must be room for both.
    pub(super) fn require_room(&self, held: &Held) -> Result<(), ReconcileError> {
        require(
            "IDENTITIES",
            count_with(&held.identities, &self.identities),
            IDENTITIES_MAX,
        )?;
        require("BLOCKS", count_with(&held.blocks, &self.blocks), BLOCKS_MAX)?;
        require("POLICY", count_with(&held.peers, &self.peers), POLICY_MAX)?;
        let none = HashMap::new();
        let new_ports = self.port_sets.iter().map(|(set, rules)| {
            let known = held.ports.get(set).unwrap_or(&none);
            rules.keys().filter(|key| !known.contains_key(key)).count()
        });
        let ports = held.ports_len + new_ports.sum::<usize>();
        require("PORTS", ports, PORTS_MAX)
    }
}

fn addresses(identities: &[(IpAddr, u32)]) -> HashMap<Address, u32> {
    let entries = identities
        .iter()
        .map(|(ip, identity)| ((*ip).into(), *identity));
    entries.collect()
}

fn blocks(blocks: &[(AddressRange, u32)]) -> HashMap<Prefix<BlockKey>, u32> {
    let entries = blocks
        .iter()
        .map(|(block, identity)| (block_key(block), *identity));
    entries.collect()
}

/// Both families share a trie; the bits beyond the prefix are cleared, so that each block has one name.
fn block_key(block: &AddressRange) -> Prefix<BlockKey> {
    let len = u32::from(block.prefix_len);
    let (octets, len) = match block.address {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), BLOCK_KEY_V4_BITS + len),
        IpAddr::V6(v6) => (v6.octets(), BLOCK_KEY_V6_BITS + len),
    };
    let len = len.min(BLOCK_KEY_BITS);
    let mask = u128::MAX.checked_shl(BLOCK_KEY_BITS - len).unwrap_or(0);
    let masked = (u128::from_be_bytes(octets) & mask).to_be_bytes();
    Prefix {
        len,
        data: BlockKey {
            family: if block.address.is_ipv4() {
                FAMILY_V4
            } else {
                FAMILY_V6
            },
            address: zerocopy::transmute!(masked),
        },
    }
}

fn peers(peers: &[(PolicyPeer, u32)]) -> HashMap<PolicyKey, u32> {
    let entries = peers.iter().map(|(peer, set)| (peer_key(peer), *set));
    entries.collect()
}

fn peer_key(peer: &PolicyPeer) -> PolicyKey {
    PolicyKey {
        subject: peer.subject,
        direction: peer.direction.number(),
        peer: peer.peer,
    }
}

fn port_sets(
    sets: &[(u32, Vec<PortRule>)],
) -> Result<HashMap<u32, HashMap<Prefix<PortKey>, PortValue>>, ReconcileError> {
    let entries = sets.iter().map(|(set, rules)| {
        if *set <= PORT_SET_DENY {
            return Err(ReconcileError::PortSet { set: *set });
        }
        Ok((
            *set,
            rules.iter().map(|rule| port_entry(*set, rule)).collect(),
        ))
    });
    entries.collect()
}

fn port_entry(set: u32, rule: &PortRule) -> (Prefix<PortKey>, PortValue) {
    let prefix_len = u32::from(rule.prefix_len).min(PORT_KEY_BITS - PORT_KEY_FIXED_BITS);
    let mask = u16::MAX.checked_shl(PORT_KEY_BITS - PORT_KEY_FIXED_BITS - prefix_len);
    let key = Prefix {
        len: PORT_KEY_FIXED_BITS + prefix_len,
        data: PortKey {
            set,
            protocol: rule.protocol,
            reserved: 0,
            port: (rule.port & mask.unwrap_or(0)).to_be_bytes(),
        },
    };
    let value = PortValue {
        verdict: rule.verdict.number(),
        prefix_len: rule.prefix_len.min(PORT_BITS),
        reserved: 0,
        rule: rule.rule,
        audit: rule.audit,
    };
    (key, value)
}

/// The rank of an entry among those that match one port: the longest counts, and of two equal ones that for the very protocol.
pub(super) fn port_rank(key: &Prefix<PortKey>) -> (u32, bool) {
    (key.len, key.data.protocol != 0)
}

fn require(map: &'static str, wanted: usize, limit: usize) -> Result<(), ReconcileError> {
    if wanted > limit {
        return Err(ReconcileError::TooLarge { map, wanted, limit });
    }
    Ok(())
}

fn count_with<K: Eq + Hash, V>(held: &HashMap<K, V>, new: &HashMap<K, V>) -> usize {
    held.len() + new.keys().filter(|key| !held.contains_key(key)).count()
}

pub(super) fn keys_without<K: Copy + Eq + Hash, A, B>(
    held: &HashMap<K, A>,
    wanted: &HashMap<K, B>,
) -> HashSet<K> {
    let gone = held.keys().filter(|key| !wanted.contains_key(*key));
    gone.copied().collect()
}

/// Bits of a port.
const PORT_BITS: u8 = 16;
