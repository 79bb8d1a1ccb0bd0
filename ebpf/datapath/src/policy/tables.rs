//! Brings the policy maps to a wanted table: whole, or only what changed.
//!
//! As with the service maps, a copy of what the maps hold is kept, read once from the maps themselves.
//!
//! # The order of writes
//!
//! Whatever is led to is written before what leads to it, and removed after it: port sets, then peers, then addresses, then
//! pods; removals the other way round. Among entries that stand in for each other (a peer and the entry for everybody else, a
//! block of addresses or ports and a larger one) the special ones are written first and the general ones removed first, so that no
//! look-up ever falls through to an entry that was not its own before the change and is not after it.
//!
//! A process that finds tables of an earlier one does not know the meaning of their numbers. While it replaces them all pods are
//! pending: the proxy judges their connections.

use std::{cmp::Reverse, collections::HashMap, hash::Hash};

use aya::maps::{Array, MapData, MapError, lpm_trie::Key};
use tulle_abi::{
    Address, BLOCKS_MAX, BlockKey, IDENTITIES_MAX, POLICY_MAX, PORTS_MAX, PolicyKey, PolicyState,
    PortKey, PortValue,
};

use super::{
    MapFill, PolicyChanges, PolicyReport, PolicyTable,
    change::{Change, Held, Prefix, keys_without, port_rank},
};
use crate::{
    ReconcileError,
    capture::Pods,
    raw::{Raw, Table, Trie},
    reconcile::{Plain, delete, failed, is_absent, read_all, write},
};

/// The policy maps.
pub(crate) struct PolicyMaps {
    pub(crate) identities: Table<Address, u32>,
    pub(crate) blocks: Trie<BlockKey, u32>,
    pub(crate) peers: Table<PolicyKey, u32>,
    pub(crate) ports: Trie<PortKey, PortValue>,
    pub(crate) state: Array<MapData, Raw<PolicyState>>,
}

/// The policy maps, with a copy of what they hold.
pub(crate) struct PolicyTables {
    maps: PolicyMaps,
    /// `None` until it is read, and after a write that failed.
    held: Option<Held>,
    /// Whether this process gave the numbers in the maps.
    is_ours: bool,
}

impl PolicyTables {
    pub(crate) fn new(maps: PolicyMaps) -> Self {
        PolicyTables {
            maps,
            held: None,
            is_ours: false,
        }
    }

    /// Makes the maps hold the table, and nothing else.
    pub(crate) fn reconcile(
        &mut self,
        table: &PolicyTable,
        pods: &mut Pods,
    ) -> Result<PolicyReport, ReconcileError> {
        let mut change = Change::of_table(table)?;
        let held = match self.held.take() {
            Some(held) => held,
            None => self.read()?,
        };
        change.identities_gone = keys_without(&held.identities, &change.identities);
        change.blocks_gone = keys_without(&held.blocks, &change.blocks);
        change.peers_gone = keys_without(&held.peers, &change.peers);
        change.port_sets_gone = keys_without(&held.ports, &change.port_sets);
        change.drop_known(&held);
        if let Err(err) = change.require_room(&held) {
            self.held = Some(held);
            return Err(err);
        }
        let is_foreign = !self.is_ours && !held.is_empty() && !change.is_empty();
        if is_foreign {
            pods.set_all_pending()?;
        }
        let report = self.change(held, &change, || pods.replace_subjects(&table.subjects))?;
        self.is_ours = true;
        Ok(report)
    }

    /// Writes what changed since the last table.
    pub(crate) fn apply(
        &mut self,
        changes: &PolicyChanges,
        pods: &mut Pods,
    ) -> Result<PolicyReport, ReconcileError> {
        let mut change = Change::of_changes(changes)?;
        let held = self.held.take().ok_or(ReconcileError::Unknown)?;
        if !self.is_ours {
            self.held = Some(held);
            return Err(ReconcileError::Unknown);
        }
        change.drop_known(&held);
        if let Err(err) = change.require_room(&held) {
            self.held = Some(held);
            return Err(err);
        }
        self.change(held, &change, || {
            pods.set_subjects(&changes.subjects, &changes.subjects_gone)
        })
    }

    /// How full the maps are.
    pub(crate) fn fill(&self) -> Vec<MapFill> {
        let Some(held) = &self.held else {
            return Vec::new();
        };
        let fill = |map, entries, entries_max| MapFill {
            map,
            entries,
            entries_max,
        };
        vec![
            fill("IDENTITIES", held.identities.len(), IDENTITIES_MAX),
            fill("BLOCKS", held.blocks.len(), BLOCKS_MAX),
            fill("POLICY", held.peers.len(), POLICY_MAX),
            fill("PORTS", held.ports_len, PORTS_MAX),
        ]
    }

    /// On the way out with an error `held` is dropped, so that the next reconciliation reads the maps anew.
    fn change(
        &mut self,
        mut held: Held,
        change: &Change,
        set_subjects: impl FnOnce() -> Result<usize, ReconcileError>,
    ) -> Result<PolicyReport, ReconcileError> {
        let mut report = PolicyReport::default();
        self.write_ports(&held, change, &mut report)?;
        self.write_peers(&mut held, change, &mut report)?;
        self.write_addresses(&mut held, change, &mut report)?;
        report.changed += set_subjects()?;
        self.remove_addresses(&mut held, change, &mut report)?;
        self.remove_peers(&mut held, change, &mut report)?;
        self.remove_ports(&mut held, change, &mut report)?;
        self.held = Some(held);
        if report != PolicyReport::default() {
            self.next_generation()?;
        }
        Ok(report)
    }

    /// Lets everything that remembers a verdict look anew.
    pub(crate) fn next_generation(&mut self) -> Result<(), ReconcileError> {
        let fail = |source| failed("write", "POLICY_STATE", source);
        let Raw(mut state) = self.maps.state.get(&0, 0).map_err(fail)?;
        state.generation = state.generation.wrapping_add(1);
        self.maps.state.set(0, Raw(state), 0).map_err(fail)
    }

    fn write_ports(
        &mut self,
        held: &Held,
        change: &Change,
        report: &mut PolicyReport,
    ) -> Result<(), ReconcileError> {
        let none = HashMap::new();
        for (set, rules) in &change.port_sets {
            let known = held.ports.get(set).unwrap_or(&none);
            let mut writes: Vec<_> = rules
                .iter()
                .filter(|(key, value)| known.get(key) != Some(value))
                .collect();
            writes.sort_unstable_by_key(|(key, _)| Reverse(port_rank(key)));
            for (key, value) in writes {
                note(report, known.contains_key(key));
                write_prefix("PORTS", &mut self.maps.ports, *key, *value)?;
            }
        }
        Ok(())
    }

    fn write_peers(
        &mut self,
        held: &mut Held,
        change: &Change,
        report: &mut PolicyReport,
    ) -> Result<(), ReconcileError> {
        let mut writes: Vec<_> = change.peers.iter().collect();
        writes.sort_unstable_by_key(|(key, _)| key.peer == 0);
        for (key, set) in writes {
            write("POLICY", &mut self.maps.peers, *key, *set)?;
            note(report, held.peers.insert(*key, *set).is_some());
        }
        Ok(())
    }

    fn write_addresses(
        &mut self,
        held: &mut Held,
        change: &Change,
        report: &mut PolicyReport,
    ) -> Result<(), ReconcileError> {
        for (address, identity) in &change.identities {
            write("IDENTITIES", &mut self.maps.identities, *address, *identity)?;
            let earlier = held.identities.insert(*address, *identity);
            note(report, earlier.is_some());
        }
        let mut writes: Vec<_> = change.blocks.iter().collect();
        writes.sort_unstable_by_key(|(block, _)| Reverse(block.len));
        for (block, identity) in writes {
            write_prefix("BLOCKS", &mut self.maps.blocks, *block, *identity)?;
            note(report, held.blocks.insert(*block, *identity).is_some());
        }
        Ok(())
    }

    fn remove_addresses(
        &mut self,
        held: &mut Held,
        change: &Change,
        report: &mut PolicyReport,
    ) -> Result<(), ReconcileError> {
        let mut gone: Vec<_> = change.blocks_gone.iter().collect();
        gone.sort_unstable_by_key(|block| block.len);
        for block in gone {
            if held.blocks.remove(block).is_some() {
                delete_prefix("BLOCKS", &mut self.maps.blocks, *block)?;
                report.removed += 1;
            }
        }
        for address in &change.identities_gone {
            if held.identities.remove(address).is_some() {
                delete("IDENTITIES", &mut self.maps.identities, *address)?;
                report.removed += 1;
            }
        }
        Ok(())
    }

    fn remove_peers(
        &mut self,
        held: &mut Held,
        change: &Change,
        report: &mut PolicyReport,
    ) -> Result<(), ReconcileError> {
        let mut gone: Vec<_> = change.peers_gone.iter().collect();
        gone.sort_unstable_by_key(|key| key.peer == 0);
        for key in gone {
            if held.peers.remove(key).is_some() {
                delete("POLICY", &mut self.maps.peers, *key)?;
                report.removed += 1;
            }
        }
        Ok(())
    }

    fn remove_ports(
        &mut self,
        held: &mut Held,
        change: &Change,
        report: &mut PolicyReport,
    ) -> Result<(), ReconcileError> {
        let none = HashMap::new();
        let touched = change.port_sets.keys().chain(&change.port_sets_gone);
        for set in touched {
            let known = held.ports.remove(set).unwrap_or_default();
            let wanted = change.port_sets.get(set).unwrap_or(&none);
            let mut gone: Vec<_> = known
                .keys()
                .filter(|key| !wanted.contains_key(key))
                .collect();
            gone.sort_unstable_by_key(|key| port_rank(key));
            for key in gone {
                delete_prefix("PORTS", &mut self.maps.ports, *key)?;
                report.removed += 1;
            }
            held.ports_len = (held.ports_len + wanted.len()).saturating_sub(known.len());
            if !wanted.is_empty() {
                held.ports.insert(*set, wanted.clone());
            }
        }
        Ok(())
    }

    fn read(&self) -> Result<Held, ReconcileError> {
        let mut held = Held {
            identities: read_all("IDENTITIES", &self.maps.identities)?,
            blocks: read_prefixes("BLOCKS", &self.maps.blocks)?,
            peers: read_all("POLICY", &self.maps.peers)?,
            ..Held::default()
        };
        for (key, value) in read_prefixes("PORTS", &self.maps.ports)? {
            held.ports
                .entry(key.data.set)
                .or_default()
                .insert(key, value);
            held.ports_len += 1;
        }
        Ok(held)
    }
}

fn note(report: &mut PolicyReport, was_known: bool) {
    if was_known {
        report.changed += 1;
    } else {
        report.added += 1;
    }
}

fn write_prefix<K: Plain, V: Plain>(
    map: &'static str,
    trie: &mut Trie<K, V>,
    key: Prefix<K>,
    value: V,
) -> Result<(), ReconcileError> {
    trie.insert(&Key::new(key.len, Raw(key.data)), Raw(value), 0)
        .map_err(|source| failed("write", map, source))
}

/// Deletes an entry. One that is not there counts as deleted.
fn delete_prefix<K: Plain, V: Plain>(
    map: &'static str,
    trie: &mut Trie<K, V>,
    key: Prefix<K>,
) -> Result<(), ReconcileError> {
    match trie.remove(&Key::new(key.len, Raw(key.data))) {
        Err(err) if !is_absent(&err) => Err(failed("delete", map, err)),
        _ => Ok(()),
    }
}

fn read_prefixes<K: Plain + Eq + Hash, V: Plain>(
    map: &'static str,
    trie: &Trie<K, V>,
) -> Result<HashMap<Prefix<K>, V>, ReconcileError> {
    let entries = trie.iter().map(|entry| {
        entry.map(|(key, value)| {
            let prefix = Prefix {
                len: key.prefix_len(),
                data: key.data().0,
            };
            (prefix, value.0)
        })
    });
    entries
        .collect::<Result<_, MapError>>()
        .map_err(|source| failed("read", map, source))
}
