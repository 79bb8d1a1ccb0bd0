//! Keeps the compiled form up to date, at the cost of what changed.
//!
//! An update goes through fixed phases: what the objects say, who the workloads are, whose rules are others now, what those rules
//! have to tell apart, who is at the addresses that this concerns, which far ends entered or left which sets, and the port sets of
//! those. Each phase leaves a list of work for the next, and none looks at what is not on its list.
//!
//! **Invariant:** the tables depend on the directory, the subjects and the learned names alone, not on the updates that led there
//! (`a_history_ends_where_a_compilation_from_nothing_ends`).

mod members;
mod subjects;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use tulle_model::{Directory, RulesKey, WorkloadUid};

use super::{
    CompilerSettings, Direction, IdentityId, LearnedNames, LimitKind, LimitReached, PeerKey,
    PolicyTouched, PolicyUpdate, Usage,
    addresses::{Addresses, Surroundings},
    demands::{Demands, Learned},
    identity::{Identities, Identity},
    peers::{PeerSets, TableKey},
    policy::CompiledPolicy,
    port_sets::PortSets,
    prefix::Prefix,
    rules::{RuleStore, Spec},
    tables::{TableRules, TableView},
};

use subjects::{Subject, SubjectPod};

/// Compiles the rules of a mesh for the captured pods of one node.
#[derive(Debug)]
pub struct Compiler {
    settings: CompilerSettings,
    own_node: WorkloadUid,
    is_begun: bool,
    directory: Directory,
    rules: RuleStore,
    identities: Identities,
    sets: PeerSets,
    demands: Demands,
    learned: Learned,
    addresses: Addresses,
    pods: BTreeMap<WorkloadUid, SubjectPod>,
    subjects: HashMap<IdentityId, Subject>,
    tables: HashMap<TableKey, Table>,
    port_sets: PortSets,
    peers_len: usize,
    /// Tables that did not fit the last time.
    closed: BTreeSet<TableKey>,
    /// Namespaces, and perhaps all, that policies of Istio about requests reach.
    authorized: subjects::Authorized,
    policy: Arc<CompiledPolicy>,
    work: Work,
}

/// How much was done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Comparisons of a policy's subject selector with a subject.
    pub specs_compared: u64,
    /// Comparisons of a rule's far end with an identity.
    pub peers_compared: u64,
    /// Addresses whose identity was looked at.
    pub addresses_settled: u64,
    /// Tables of a subject and a direction that were made anew.
    pub tables_compiled: u64,
    /// Far ends for which one entry of a table was made anew.
    pub pairs_compiled: u64,
    /// Port sets that were made from rules.
    pub port_sets_compiled: u64,
}

/// One subject's table for one direction.
#[derive(Debug)]
struct Table {
    rules: TableRules,
    /// None until it was filled for the first time.
    view: Option<TableView>,
}

/// What one update still has to do, and what it has found.
#[derive(Debug, Default)]
struct Round {
    /// Tables whose rules may be others.
    dirty: BTreeSet<TableKey>,
    /// Tables that have to be made anew.
    rebuilt: BTreeSet<TableKey>,
    /// Tables that do not fit.
    closing: BTreeSet<TableKey>,
    /// Entries that have to be made anew.
    pairs: BTreeSet<(TableKey, IdentityId)>,
    addresses: BTreeSet<IpAddr>,
    /// Specs that are gone.
    specs: Vec<Arc<Spec>>,
    published: BTreeSet<TableKey>,
    update: PolicyUpdate,
}

impl Compiler {
    /// Knows nobody yet.
    pub fn new(settings: CompilerSettings) -> Self {
        let mut demands = Demands::default();
        for world in Prefix::WORLD {
            demands.add_block(world);
        }
        Compiler {
            own_node: WorkloadUid::of_node(&settings.cluster, &settings.node),
            policy: Arc::new(CompiledPolicy::empty()),
            settings,
            is_begun: false,
            directory: Directory::default(),
            rules: RuleStore::default(),
            identities: Identities::default(),
            sets: PeerSets::default(),
            demands,
            learned: Learned::default(),
            addresses: Addresses::default(),
            pods: BTreeMap::new(),
            subjects: HashMap::new(),
            tables: HashMap::new(),
            port_sets: PortSets::default(),
            peers_len: 0,
            closed: BTreeSet::new(),
            authorized: subjects::Authorized::default(),
            work: Work::default(),
        }
    }

    /// Takes in a new state of the mesh, in which at most what `touched` names differs from the last; `subjects` are all captured
    /// pods of the node. Says what the kernel's tables lack now; at first, everything.
    pub fn update(
        &mut self,
        directory: &Directory,
        subjects: &BTreeSet<WorkloadUid>,
        learned: &LearnedNames,
        touched: &PolicyTouched,
    ) -> PolicyUpdate {
        self.directory = directory.clone();
        let everything = touched.everything || !self.is_begun;
        self.is_begun = true;
        let mut round = Round::default();
        self.take_rules(everything, touched, &mut round);
        self.take_workloads(everything, touched, &mut round);
        self.take_subjects(subjects, &mut round);
        self.retry_closed(&mut round);
        self.settle_demands(learned, touched, everything, &mut round);
        self.settle_blocks(&mut round);
        self.settle_addresses(&mut round);
        self.settle_members(&mut round);
        self.fill_tables(&mut round);
        self.rules.forget(&std::mem::take(&mut round.specs));
        self.port_sets.drain(&mut round.update);
        self.finish_subjects(everything || touched.authorizations, &mut round);
        self.publish(round)
    }

    /// What proxies look up; it never changes, each update makes another.
    pub fn policy(&self) -> Arc<CompiledPolicy> {
        Arc::clone(&self.policy)
    }

    /// How much was done since the start.
    pub fn work(&self) -> Work {
        Work {
            specs_compared: self.rules.compared,
            peers_compared: self.sets.compared,
            ..self.work
        }
    }

    fn take_rules(&mut self, everything: bool, touched: &PolicyTouched, round: &mut Round) {
        let keys: BTreeSet<RulesKey> = if everything {
            let now = self.directory.rules().map(|rules| rules.key());
            now.chain(self.rules.keys().cloned()).collect()
        } else {
            touched.rules.clone()
        };
        for key in keys {
            let now = self.directory.rules_of(&key).map(Arc::as_ref);
            let changes = self.rules.replace(&key, now, &self.sets.tokens);
            for (id, subject) in &mut self.subjects {
                let before = subject.specs.len();
                for (gone, _) in &changes.gone {
                    subject.specs.remove(gone);
                }
                let mut is_dirty = subject.specs.len() != before;
                for new in &changes.new {
                    if self.rules.speaks_of(*new, &subject.exemplar) {
                        subject.specs.insert(*new);
                        is_dirty = true;
                    }
                }
                if is_dirty {
                    round.dirty.extend(Direction::BOTH.map(|d| (*id, d)));
                }
            }
            round
                .specs
                .extend(changes.gone.into_iter().map(|(_, spec)| spec));
        }
        if everything || touched.rules.iter().any(|key| key.language == ISTIO) {
            self.authorized = subjects::Authorized::of(&self.directory);
        }
    }

    fn take_workloads(&mut self, everything: bool, touched: &PolicyTouched, round: &mut Round) {
        if !everything {
            for uid in &touched.workloads {
                let now = self.directory.workload(uid);
                let (identities, addresses) = (&mut self.identities, &mut round.addresses);
                self.addresses.replace(uid, now, identities, addresses);
            }
            return;
        }
        let known = self.addresses.uids();
        let gone = known.filter(|uid| self.directory.workload(uid).is_none());
        for uid in gone.cloned().collect::<Vec<_>>() {
            let (identities, addresses) = (&mut self.identities, &mut round.addresses);
            self.addresses.replace(&uid, None, identities, addresses);
        }
        for workload in self.directory.workloads() {
            let (identities, addresses) = (&mut self.identities, &mut round.addresses);
            self.addresses
                .replace(&workload.uid, Some(workload), identities, addresses);
        }
    }

    /// What did not fit may fit now.
    fn retry_closed(&mut self, round: &mut Round) {
        for key in &self.closed {
            round.dirty.insert(*key);
            // Other sections than it has, so that it is made anew.
            if let Some(table) = self.tables.get_mut(key) {
                table.rules.sections.clear();
            }
        }
        if self.identities.len() < self.settings.limits.identities_max {
            round.addresses.extend(self.addresses.overflowing());
        }
    }

    /// Blocks that came get an identity, those that went lose it.
    fn settle_blocks(&mut self, round: &mut Round) {
        for prefix in std::mem::take(&mut self.demands.changed.blocks) {
            let Some(block) = self.demands.blocks.get_mut(prefix) else {
                continue;
            };
            match (block.uses, block.identity) {
                (0, identity) => {
                    self.demands.blocks.remove(prefix);
                    if let Some(identity) = identity {
                        self.identities.release(identity);
                        round.update.blocks_gone.push(prefix.range());
                    }
                }
                (_, None) => {
                    // Blocks have a bound of their own.
                    let id = self
                        .identities
                        .acquire(&Identity::of_block(prefix), usize::MAX);
                    block.identity = Some(id);
                    round.update.blocks.push((prefix.range(), id));
                }
                (_, Some(_)) => continue,
            }
            round.addresses.extend(self.addresses.claimed_in(prefix));
            let (first, last) = prefix.ends();
            let learned = self.learned.by_address.range(first..=last);
            round.addresses.extend(learned.map(|(address, _)| *address));
        }
        for prefix in std::mem::take(&mut self.demands.changed.workload_blocks) {
            round.addresses.extend(self.addresses.claimed_in(prefix));
        }
    }

    fn settle_addresses(&mut self, round: &mut Round) {
        self.identities.refused = 0;
        let around = Surroundings {
            local: &self.settings.cluster,
            own_node: &self.own_node,
            directory: &self.directory,
            demands: &self.demands,
            learned: &self.learned,
            identities_max: self.settings.limits.identities_max,
        };
        for address in std::mem::take(&mut round.addresses) {
            self.work.addresses_settled += 1;
            self.addresses
                .settle(address, &around, &mut self.identities, &mut round.update);
        }
        if self.identities.refused > 0 {
            round.update.limits_reached.push(LimitReached {
                kind: LimitKind::Identities,
                needed: self.identities.len() + self.identities.refused,
                max: self.settings.limits.identities_max,
            });
        }
    }

    fn publish(&mut self, mut round: Round) -> PolicyUpdate {
        let mut policy = CompiledPolicy::clone(&self.policy);
        for key in &round.published {
            match self.tables.get(key).and_then(|table| table.view.clone()) {
                Some(view) => policy.tables.insert(*key, Arc::new(view)),
                None => policy.tables.remove(key),
            };
        }
        policy.addresses = self.addresses.states.clone();
        policy.blocks = self.demands.blocks.clone();
        policy.port_sets = self.port_sets.sets.clone();
        policy.numbered = self.rules.numbered.clone();
        policy.directory = self.directory.clone();
        self.policy = Arc::new(policy);
        round.update.usage = Usage {
            identities: self.identities.len(),
            prefixes: self.demands.blocks.len(),
            port_sets: self.port_sets.len(),
            port_entries: self.port_sets.entries_max,
            peers: self.peers_len,
        };
        round.update.limits_reached.sort_unstable();
        round.update.limits_reached.dedup();
        round.update
    }
}

fn peer_key((subject, direction): TableKey, peer: IdentityId) -> PeerKey {
    PeerKey {
        subject,
        direction,
        peer,
    }
}

const ISTIO: tulle_model::Language = tulle_model::Language::Istio;

#[cfg(test)]
mod tests;
