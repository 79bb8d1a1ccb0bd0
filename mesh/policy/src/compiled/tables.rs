//! The table of one subject and one direction: which port set holds for which far end.
//!
//! Far ends that are in the same sets of far ends share one port set, which is made once; far ends of whom the rules say what they say
//! of everyone have no entry.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tulle_model::{NamedPort, Peers, Ports, RulesKey};

use super::{
    Direction, IdentityId, PortSetId,
    identity::{Identity, Owner},
    peers::PeerSetId,
    ports::{self, Defaults, LANGUAGES, PortSet},
    rules::{CompiledRule, Section},
};

/// What lookups need of a table. A clone shares nearly everything.
#[derive(Debug, Clone)]
pub(super) struct TableView {
    /// For everyone who has no entry.
    pub(super) any: PortSetId,
    pub(super) peers: imbl::HashMap<IdentityId, PortSetId>,
    /// For each of `LANGUAGES`: the objects that deny by default.
    pub(super) deniers: Arc<[Vec<RulesKey>; 2]>,
    /// It would exceed a bound, and denies everything.
    pub(super) is_closed: bool,
}

impl TableView {
    pub(super) fn find(&self, peer: IdentityId) -> PortSetId {
        self.peers.get(&peer).copied().unwrap_or(self.any)
    }

    /// The entry of exactly this far end.
    pub(super) fn entry(&self, peer: IdentityId) -> Option<PortSetId> {
        match peer {
            IdentityId::ANY => Some(self.any),
            peer => self.peers.get(&peer).copied(),
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (IdentityId, PortSetId)> {
        let peers = self.peers.iter().map(|(peer, set)| (*peer, *set));
        peers.chain([(IdentityId::ANY, self.any)])
    }

    /// How many entries the kernel needs for it.
    pub(super) fn len(&self) -> usize {
        self.peers.len() + 1
    }
}

/// The rules of a table, by the far ends that they mean.
#[derive(Debug, Default)]
pub(super) struct TableRules {
    pub(super) sections: Vec<Arc<Section>>,
    rules: Vec<Arc<CompiledRule>>,
    /// Those that mean everyone.
    for_all: Vec<usize>,
    /// Those that mean a set; none for sets that only change what other rules mean.
    pub(super) by_set: BTreeMap<PeerSetId, Vec<usize>>,
    defaults: Defaults,
    pub(super) deniers: Arc<[Vec<RulesKey>; 2]>,
    /// Names of ports that are the far end's to explain.
    names: BTreeSet<String>,
}

impl TableRules {
    /// Puts the rules of all sections together.
    pub(super) fn new(sections: Vec<Arc<Section>>) -> Self {
        let mut rules = Vec::new();
        let mut defaults = Defaults::default();
        let mut deniers: [Vec<RulesKey>; 2] = Default::default();
        let mut names = BTreeSet::new();
        for section in &sections {
            rules.extend(section.rules.iter().cloned());
            let places = LANGUAGES.iter().zip(&mut defaults.denies);
            let places = places.zip(&mut defaults.audits).zip(&mut deniers);
            for (((language, denies), audits), deniers) in places {
                if *language != section.key.language || !section.default_deny {
                    continue;
                }
                if section.audit {
                    audits.push(section.id);
                } else {
                    *denies = true;
                    deniers.push(RulesKey::clone(&section.key));
                }
            }
        }
        for list in &mut deniers {
            list.dedup();
        }
        for rule in &rules {
            names.extend(rule.rule.ports.iter().filter_map(|port| match &port.ports {
                Ports::Named(name) => Some(name.clone()),
                Ports::All | Ports::Range(..) => None,
            }));
        }
        let all = rules.iter().enumerate();
        let for_all = all.filter(|(_, rule)| is_for_all(rule));
        TableRules {
            for_all: for_all.map(|(index, _)| index).collect(),
            rules,
            sections,
            by_set: BTreeMap::new(),
            defaults,
            deniers: Arc::new(deniers),
            names,
        }
    }

    /// Whether connections have to be looked up at all.
    pub(super) fn is_needed(&self) -> bool {
        !self.rules.is_empty() || self.sections.iter().any(|section| section.default_deny)
    }

    /// The rules that mean somebody in particular.
    pub(super) fn particular(&self) -> impl Iterator<Item = (usize, &Arc<CompiledRule>)> {
        let all = self.rules.iter().enumerate();
        all.filter(|(_, rule)| !is_for_all(rule))
    }

    /// Names of ports in rules that mean everyone: who explains them has another port set than everyone else.
    pub(super) fn names_for_all(&self) -> BTreeSet<String> {
        let rules = self
            .for_all
            .iter()
            .filter_map(|index| self.rules.get(*index));
        let ports = rules.flat_map(|rule| &rule.rule.ports);
        let names = ports.filter_map(|port| match &port.ports {
            Ports::Named(name) => Some(name.clone()),
            Ports::All | Ports::Range(..) => None,
        });
        names.collect()
    }

    /// What a workload's named ports say of the names that count here.
    pub(super) fn named(&self, owner: Option<&Owner>) -> Named {
        let Some(Owner::Workload(workload)) = owner else {
            return Named::default();
        };
        let found = self.names.iter().filter_map(|name| {
            let port = workload.named_ports.get(name.as_str())?;
            Some((name.clone(), *port))
        });
        Named(found.collect())
    }

    /// The port set of whoever is in exactly these of the table's sets.
    pub(super) fn compile(&self, sets: &[PeerSetId], named: &Named) -> PortSet {
        let particular = sets.iter().filter_map(|set| self.by_set.get(set)).flatten();
        let indexes: BTreeSet<usize> = self.for_all.iter().chain(particular).copied().collect();
        let rules: Vec<&CompiledRule> = indexes
            .iter()
            .filter_map(|index| self.rules.get(*index))
            .map(Arc::as_ref)
            .collect();
        ports::compile(&rules, &self.defaults, |name| named.0.get(name).copied())
    }

    /// Which numbers stand for what this table says of everything: a fixed one instead of a set with one entry.
    pub(super) fn fixed(&self, set: &PortSet) -> Option<PortSetId> {
        if set.allows_all() {
            return Some(PortSetId::ALLOW_ALL);
        }
        let denies = LANGUAGES.into_iter().zip(self.defaults.denies);
        let mut denying = denies.filter(|(_, denies)| *denies);
        let first = denying.next().map(|(language, _)| language);
        (first.is_some() && set.denies_all() == first).then_some(PortSetId::DENY_ALL)
    }
}

/// Ports that have a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Named(BTreeMap<String, NamedPort>);

/// Far ends of whom the rules say the same.
pub(super) type Group = (Vec<PeerSetId>, Named);

/// Who is in which of the table's sets; `named` says what the far end's names of ports mean.
pub(super) fn groups<'a>(
    rules: &TableRules,
    members: impl Iterator<Item = (PeerSetId, &'a IdentityId)>,
    named: impl Fn(IdentityId) -> Named,
) -> BTreeMap<Group, Vec<IdentityId>> {
    let mut sets: HashMap<IdentityId, Vec<PeerSetId>> = HashMap::new();
    for (set, member) in members {
        sets.entry(*member).or_default().push(set);
    }
    let mut groups: BTreeMap<Group, Vec<IdentityId>> = BTreeMap::new();
    for (member, sets) in sets {
        let named = if rules.names.is_empty() {
            Named::default()
        } else {
            named(member)
        };
        groups.entry((sets, named)).or_default().push(member);
    }
    groups
}

/// The far ends that a subject cannot refuse.
pub(super) fn is_always_allowed(direction: Direction, identity: &Identity) -> bool {
    direction == Direction::Ingress && identity.is_host()
}

fn is_for_all(rule: &CompiledRule) -> bool {
    match &rule.rule.peers {
        Peers::Any => true,
        Peers::OneOf(peers) => peers.contains(&tulle_model::Peer::Entity(tulle_model::Entity::All)),
    }
}
