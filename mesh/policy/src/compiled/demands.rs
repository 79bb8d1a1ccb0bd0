//! What the rules in use demand to be told apart: blocks of addresses, patterns of names, picks of services.
//!
//! Decides which of them come and go with an update, so that only the addresses that they speak of get other identities.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tulle_model::{
    Directory, LabelSource, NamePattern, NamespacedName, Peer, Service, ServicePick, Text,
};

use super::{
    IdentityId, LimitKind, LimitReached,
    peers::{NameId, PeerKind, PickId},
    prefix::{Prefix, PrefixTable},
};
use crate::names::matches_name;

/// The blocks, names and services that rules in use speak of.
#[derive(Debug, Default)]
pub(super) struct Demands {
    /// Every block and every exception, with its identity and how many sets name it.
    pub(super) blocks: PrefixTable<BlockUse>,
    /// Those that mean workloads too.
    pub(super) workload_blocks: PrefixTable<usize>,
    names: HashMap<NamePattern, NameId>,
    picks: HashMap<Pick, PickId>,
    last: u32,
    /// What came or went since the last look.
    pub(super) changed: Changed,
}

/// How a block is used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BlockUse {
    pub(super) uses: usize,
    /// None until the update's end.
    pub(super) identity: Option<IdentityId>,
}

/// Services that a rule picks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pick {
    namespace: Option<String>,
    by_name: Option<String>,
    by_labels: tulle_model::Selector,
}

/// What came or went.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) blocks: BTreeSet<Prefix>,
    pub(super) workload_blocks: BTreeSet<Prefix>,
    pub(super) new_names: Vec<(NamePattern, NameId)>,
    pub(super) gone_names: Vec<NameId>,
    pub(super) picks: Vec<Pick>,
}

impl Demands {
    /// What a rule's far end is, in the terms of the tables.
    pub(super) fn kind_of(&mut self, peer: &Peer) -> PeerKind {
        match peer {
            Peer::Endpoints(selector) => PeerKind::Endpoints(selector.clone()),
            Peer::Entity(entity) => PeerKind::Entity(*entity),
            Peer::Block {
                block,
                except,
                includes_workloads,
            } => PeerKind::Block {
                block: Prefix::of(block),
                except: except.iter().map(Prefix::of).collect(),
                includes_workloads: *includes_workloads,
            },
            Peer::Name(pattern) => PeerKind::Name(self.name_id(pattern)),
            Peer::Services {
                namespace,
                services,
            } => PeerKind::Services(self.pick_id(namespace.as_ref(), services)),
        }
    }

    /// Notes that a set of this kind is in use from now on.
    ///
    /// # Errors
    /// There would be too many blocks; nothing is noted then.
    pub(super) fn acquire(&mut self, kind: &PeerKind, max: usize) -> Result<(), LimitReached> {
        let PeerKind::Block {
            block,
            except,
            includes_workloads,
        } = kind
        else {
            return Ok(());
        };
        let all = || std::iter::once(block).chain(except);
        let new: BTreeSet<&Prefix> = all().filter(|p| self.blocks.get(**p).is_none()).collect();
        let needed = self.blocks.len() + new.len();
        if !new.is_empty() && needed > max {
            return Err(LimitReached {
                kind: LimitKind::Prefixes,
                needed,
                max,
            });
        }
        for prefix in all() {
            self.add_block(*prefix);
            if *includes_workloads {
                match self.workload_blocks.get_mut(*prefix) {
                    Some(uses) => *uses += 1,
                    None => {
                        self.workload_blocks.insert(*prefix, 1);
                        self.changed.workload_blocks.insert(*prefix);
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes one more use of a block.
    pub(super) fn add_block(&mut self, prefix: Prefix) {
        match self.blocks.get_mut(prefix) {
            Some(block) => block.uses += 1,
            None => {
                let block = BlockUse {
                    uses: 1,
                    identity: None,
                };
                self.blocks.insert(prefix, block);
                self.changed.blocks.insert(prefix);
            }
        }
    }

    /// Notes that the last set of this kind is gone.
    pub(super) fn release(&mut self, kind: &PeerKind) {
        match kind {
            PeerKind::Block {
                block,
                except,
                includes_workloads,
            } => {
                for prefix in std::iter::once(block).chain(except) {
                    self.release_block(*prefix, *includes_workloads);
                }
            }
            PeerKind::Name(id) => {
                self.names.retain(|_, held| held != id);
                self.changed.gone_names.push(*id);
            }
            PeerKind::Services(id) => {
                let gone = self.picks.iter().find(|(_, held)| *held == id);
                if let Some(pick) = gone.map(|(pick, _)| pick.clone()) {
                    self.picks.remove(&pick);
                    self.changed.picks.push(pick);
                }
            }
            PeerKind::Endpoints(_) | PeerKind::Entity(_) | PeerKind::HasPort(_) => {}
        }
    }

    fn release_block(&mut self, prefix: Prefix, includes_workloads: bool) {
        if let Some(block) = self.blocks.get_mut(prefix) {
            block.uses = block.uses.saturating_sub(1);
            if block.uses == 0 {
                // The table forgets it at the update's end, with its identity.
                self.changed.blocks.insert(prefix);
            }
        }
        if includes_workloads && let Some(uses) = self.workload_blocks.get_mut(prefix) {
            *uses = uses.saturating_sub(1);
            if *uses == 0 {
                self.workload_blocks.remove(prefix);
                self.changed.workload_blocks.insert(prefix);
            }
        }
    }

    /// Every pattern in use that means a name.
    pub(super) fn names_meaning(&self, name: &str) -> Vec<NameId> {
        let fitting = self
            .names
            .iter()
            .filter(|(pattern, _)| matches_name(pattern, name));
        let mut ids: Vec<NameId> = fitting.map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Every pick in use of these services.
    pub(super) fn picks_of<'a>(
        &self,
        services: impl Iterator<Item = &'a NamespacedName>,
        directory: &Directory,
    ) -> BTreeSet<PickId> {
        if self.picks.is_empty() {
            return BTreeSet::new();
        }
        let services = services.filter_map(|key| directory.service(key));
        let picked = services.flat_map(|service| {
            let fitting = self.picks.iter().filter(|(pick, _)| pick.takes(service));
            fitting.map(|(_, id)| *id).collect::<Vec<_>>()
        });
        picked.collect()
    }

    fn name_id(&mut self, pattern: &NamePattern) -> NameId {
        if let Some(id) = self.names.get(pattern) {
            return *id;
        }
        self.last = self.last.wrapping_add(1);
        let id = NameId(self.last);
        self.names.insert(pattern.clone(), id);
        self.changed.new_names.push((pattern.clone(), id));
        id
    }

    fn pick_id(&mut self, namespace: Option<&String>, services: &ServicePick) -> PickId {
        let (by_name, by_labels) = match services {
            ServicePick::Name(name) => (Some(name.clone()), tulle_model::Selector::default()),
            ServicePick::Labels(selector) => (None, selector.clone()),
        };
        let pick = Pick {
            namespace: namespace.cloned(),
            by_name,
            by_labels,
        };
        if let Some(id) = self.picks.get(&pick) {
            return *id;
        }
        self.last = self.last.wrapping_add(1);
        let id = PickId(self.last);
        self.changed.picks.push(pick.clone());
        self.picks.insert(pick, id);
        id
    }
}

impl Pick {
    /// Whether a service is one of those meant.
    pub(super) fn takes(&self, service: &Service) -> bool {
        let is_in = |namespace: &String| *namespace == service.namespace;
        self.namespace.as_ref().is_none_or(is_in)
            && self
                .by_name
                .as_ref()
                .is_none_or(|name| *name == service.name)
            && self.by_labels.matches(|key| match key.source {
                LabelSource::Reserved => None,
                LabelSource::Any | LabelSource::K8s => {
                    service.labels.get(key.name.as_str()).map(Text::as_str)
                }
            })
    }
}

/// Learned names by address, with the patterns that mean them.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// What was learned at the last look.
    pub(super) names: super::LearnedNames,
    meaning: HashMap<std::sync::Arc<str>, Vec<NameId>>,
    pub(super) by_address: BTreeMap<std::net::IpAddr, BTreeSet<std::sync::Arc<str>>>,
}

impl Learned {
    /// The patterns in use that mean a name of an address.
    pub(super) fn meaning(&self, address: std::net::IpAddr) -> BTreeSet<NameId> {
        let names = self.by_address.get(&address).into_iter().flatten();
        let ids = names.filter_map(|name| self.meaning.get(name));
        ids.flatten().copied().collect()
    }

    /// Takes in what is known now; yields the addresses of which other names are known than before.
    pub(super) fn replace(
        &mut self,
        new: &super::LearnedNames,
        demands: &Demands,
    ) -> BTreeSet<std::net::IpAddr> {
        let mut touched = BTreeSet::new();
        let old = std::mem::replace(&mut self.names, new.clone());
        for item in old.names.diff(&new.names) {
            let (name, before, now) = match item {
                imbl::ordmap::DiffItem::Add(name, now) => (name, None, Some(now)),
                imbl::ordmap::DiffItem::Remove(name, before) => (name, Some(before), None),
                imbl::ordmap::DiffItem::Update { old, new } => (new.0, Some(old.1), Some(new.1)),
            };
            for address in before.into_iter().flat_map(|list| list.iter()) {
                let address = address.to_canonical();
                touched.insert(address);
                if let Some(names) = self.by_address.get_mut(&address) {
                    names.remove(name);
                    if names.is_empty() {
                        self.by_address.remove(&address);
                    }
                }
            }
            match now {
                Some(list) => {
                    let meaning = demands.names_meaning(name);
                    self.meaning.insert(name.clone(), meaning);
                    for address in list.iter().map(std::net::IpAddr::to_canonical) {
                        touched.insert(address);
                        let names = self.by_address.entry(address).or_default();
                        names.insert(name.clone());
                    }
                }
                None => {
                    self.meaning.remove(name);
                }
            }
        }
        touched
    }

    /// Takes in other patterns; yields the addresses whose names they mean.
    pub(super) fn note_patterns(&mut self, changed: &Changed) -> BTreeSet<std::net::IpAddr> {
        let mut touched = BTreeSet::new();
        if changed.new_names.is_empty() && changed.gone_names.is_empty() {
            return touched;
        }
        for (name, meaning) in &mut self.meaning {
            let before = meaning.len();
            meaning.retain(|id| !changed.gone_names.contains(id));
            let mut is_touched = meaning.len() != before;
            for (pattern, id) in &changed.new_names {
                if !changed.gone_names.contains(id)
                    && !meaning.contains(id)
                    && matches_name(pattern, name)
                {
                    meaning.push(*id);
                    is_touched = true;
                }
            }
            if is_touched && let Some(list) = self.names.names.get(name) {
                touched.extend(list.iter().map(std::net::IpAddr::to_canonical));
            }
        }
        touched
    }
}
