//! The captured pods, and which rules speak of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tulle_model::{
    Authorization, AuthorizationScope, Directory, Peers, Rules, Workload, WorkloadUid,
};

use super::{Compiler, Round, Table};
use crate::compiled::{
    Direction, IdentityId, LearnedNames, LimitReached, PolicyTouched, SubjectEntry,
    demands::Changed,
    identity::Identity,
    peers::{PeerKind, PeerSetId, TableKey},
    rules::{Section, SpecId},
    tables::TableRules,
};

/// Captured pods that no rule can tell apart.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) exemplar: Arc<Workload>,
    pub(super) specs: BTreeSet<SpecId>,
    pods_len: usize,
}

/// A captured pod.
#[derive(Debug)]
pub(super) struct SubjectPod {
    workload: Arc<Workload>,
    identity: IdentityId,
    /// What was said of it last.
    entry: Option<SubjectEntry>,
}

/// What policies of Istio that speak of requests reach.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Authorized {
    all: bool,
    namespaces: BTreeSet<String>,
}

impl Authorized {
    pub(super) fn of(directory: &Directory) -> Self {
        let mut authorized = Authorized::default();
        for rules in directory.rules() {
            let Rules::Authorization(policy) = rules.as_ref() else {
                continue;
            };
            match policy.scope {
                AuthorizationScope::Global => authorized.all |= !policy.dry_run,
                AuthorizationScope::Namespace if !policy.dry_run => {
                    authorized.namespaces.insert(policy.namespace.clone());
                }
                // Those that it selects name it.
                AuthorizationScope::Namespace | AuthorizationScope::WorkloadSelector => {}
            }
        }
        authorized
    }

    fn reaches(&self, workload: &Workload, directory: &Directory) -> bool {
        let is_enforced = |policy: &Arc<Authorization>| !policy.dry_run;
        self.all
            || self.namespaces.contains(workload.namespace.as_str())
            || !workload.authorization_policies.is_empty()
            || directory
                .policies_reaching(&workload.namespace)
                .any(is_enforced)
    }
}

impl Compiler {
    /// Captured pods that came, went, or are told apart by something else now.
    pub(super) fn take_subjects(&mut self, now: &BTreeSet<WorkloadUid>, round: &mut Round) {
        let directory = self.directory.clone();
        let known = |uid: &WorkloadUid| now.contains(uid) && directory.workload(uid).is_some();
        let gone: Vec<WorkloadUid> = self
            .pods
            .keys()
            .filter(|uid| !known(uid))
            .cloned()
            .collect();
        for uid in gone {
            if let Some(pod) = self.pods.remove(&uid) {
                self.leave_subject(pod.identity, round);
                if pod.entry.is_some() {
                    round.update.subjects_gone.push(uid);
                }
            }
        }
        for uid in now {
            let Some(workload) = directory.workload(uid) else {
                continue;
            };
            let before = self.pods.get(uid);
            if before.is_some_and(|pod| Arc::ptr_eq(&pod.workload, workload)) {
                continue;
            }
            let entry = before.and_then(|pod| pod.entry.clone());
            let pod = SubjectPod {
                workload: Arc::clone(workload),
                identity: self.join_subject(workload, round),
                entry,
            };
            if let Some(before) = self.pods.insert(uid.clone(), pod) {
                self.leave_subject(before.identity, round);
            }
        }
    }

    fn join_subject(&mut self, workload: &Arc<Workload>, round: &mut Round) -> IdentityId {
        // A node has few pods of its own; the bound is for the mesh's.
        let id = self
            .identities
            .acquire(&Identity::of_workload(workload), usize::MAX);
        if let Some(subject) = self.subjects.get_mut(&id) {
            subject.pods_len += 1;
            return id;
        }
        let specs = self.rules.specs_of(workload, &self.sets.tokens);
        let subject = Subject {
            exemplar: Arc::clone(workload),
            specs: specs.into_iter().collect(),
            pods_len: 1,
        };
        self.subjects.insert(id, subject);
        round.dirty.extend(Direction::BOTH.map(|d| (id, d)));
        id
    }

    fn leave_subject(&mut self, id: IdentityId, round: &mut Round) {
        self.identities.release(id);
        if let Some(subject) = self.subjects.get_mut(&id) {
            subject.pods_len = subject.pods_len.saturating_sub(1);
            if subject.pods_len == 0 {
                self.subjects.remove(&id);
                round.dirty.extend(Direction::BOTH.map(|d| (id, d)));
            }
        }
    }

    /// Finds out what the rules of dirty tables have to tell apart.
    pub(super) fn settle_demands(
        &mut self,
        learned: &LearnedNames,
        touched: &PolicyTouched,
        everything: bool,
        round: &mut Round,
    ) {
        for key in std::mem::take(&mut round.dirty) {
            self.take_sections(key, round);
        }
        let changed = std::mem::take(&mut self.demands.changed);
        let names = self.learned.note_patterns(&changed);
        let learned = self.learned.replace(learned, &self.demands);
        round.addresses.extend(names.into_iter().chain(learned));
        self.touch_services(&changed, touched, everything, round);
        self.demands.changed = Changed {
            blocks: changed.blocks,
            workload_blocks: changed.workload_blocks,
            ..Changed::default()
        };
    }

    /// Endpoints of services that rules pick, or picked, or whose services are others now.
    fn touch_services(
        &self,
        changed: &Changed,
        touched: &PolicyTouched,
        everything: bool,
        round: &mut Round,
    ) {
        let mut services: BTreeSet<_> = touched.services.clone();
        if !changed.picks.is_empty() || everything {
            let picked = self.directory.services().filter(|service| {
                everything || changed.picks.iter().any(|pick| pick.takes(service))
            });
            services.extend(picked.map(|service| service.key()));
        }
        for service in &services {
            for workload in self.directory.endpoints(service) {
                let addresses = workload.addresses.iter();
                round
                    .addresses
                    .extend(addresses.map(|address| address.to_canonical()));
            }
        }
    }

    /// Gives a table the sections that speak of its subject now.
    fn take_sections(&mut self, key: TableKey, round: &mut Round) {
        let (id, direction) = key;
        let mut specs: Vec<SpecId> = match self.subjects.get(&id) {
            Some(subject) => subject.specs.iter().copied().collect(),
            None => Vec::new(),
        };
        self.rules.sort(&mut specs);
        let specs = specs.iter().filter_map(|spec| self.rules.spec(*spec));
        let sections = specs.filter_map(|spec| spec.section(direction).cloned());
        let sections: Vec<Arc<Section>> = sections.collect();
        let held = self
            .tables
            .get(&key)
            .map(|table| table.rules.sections.as_slice());
        if held.is_none_or(|held| is_same(held, &sections)) && held.is_some() != sections.is_empty()
        {
            return;
        }
        let mut rules = TableRules::new(sections);
        let acquired = self.acquire_sets(key, &mut rules);
        if let Some(table) = self.tables.get_mut(&key) {
            let old = std::mem::replace(&mut table.rules, rules);
            self.release_sets(key, old.by_set.keys());
        } else {
            self.tables.insert(key, Table { rules, view: None });
        }
        round.rebuilt.insert(key);
        self.closed.remove(&key);
        if let Err(reached) = acquired {
            round.update.limits_reached.push(reached);
            round.closing.insert(key);
        }
    }

    /// Looks up the sets that the rules mean.
    fn acquire_sets(&mut self, key: TableKey, rules: &mut TableRules) -> Result<(), LimitReached> {
        if !rules.is_needed() {
            return Ok(());
        }
        let (_, direction) = key;
        let mut wanted: Vec<(Option<usize>, PeerKind)> = Vec::new();
        for (index, rule) in rules.particular() {
            if let Peers::OneOf(peers) = &rule.rule.peers {
                for peer in peers {
                    wanted.push((Some(index), self.demands.kind_of(peer)));
                }
            }
        }
        match direction {
            Direction::Ingress => {
                wanted.push((None, PeerKind::Entity(tulle_model::Entity::Host)));
            }
            Direction::Egress => {
                let names = rules.names_for_all().into_iter();
                wanted.extend(names.map(|name| (None, PeerKind::HasPort(name))));
            }
        }
        let mut by_set: BTreeMap<PeerSetId, Vec<usize>> = BTreeMap::new();
        let mut result = Ok(());
        for (index, kind) in wanted {
            let demanded = kind.clone();
            let (set, is_new) = self.sets.acquire(kind, key);
            if is_new
                && let Err(reached) = self
                    .demands
                    .acquire(&demanded, self.settings.limits.prefixes_max)
            {
                // The blocks of this one were not noted, so they must not be released either.
                self.sets.release(set, key);
                result = Err(reached);
                continue;
            }
            if by_set.contains_key(&set) {
                self.sets.release(set, key);
            }
            let held = by_set.entry(set).or_default();
            held.extend(index.filter(|index| !held.contains(index)));
        }
        rules.by_set = by_set;
        result
    }

    /// A table does not need these sets any more.
    pub(super) fn release_sets<'a>(
        &mut self,
        key: TableKey,
        sets: impl Iterator<Item = &'a PeerSetId>,
    ) {
        for set in sets {
            if let Some(kind) = self.sets.release(*set, key) {
                self.demands.release(&kind);
            }
        }
    }

    /// Writes down which pods the kernel has to know otherwise than before, and tells the proxies.
    pub(super) fn finish_subjects(&mut self, is_authorized_anew: bool, round: &mut Round) {
        let mut policy = (*self.policy).clone();
        let is_rebuilt = |id: IdentityId| {
            let keys = Direction::BOTH.map(|direction| (id, direction));
            keys.iter().any(|key| round.published.contains(key))
        };
        for (uid, pod) in &mut self.pods {
            let is_settled = pod.entry.as_ref().is_some_and(|entry| {
                entry.identity == pod.identity && !is_rebuilt(pod.identity) && !is_authorized_anew
            });
            let is_same_workload = policy
                .subjects
                .get(uid)
                .is_some_and(|view| Arc::ptr_eq(&view.workload, &pod.workload));
            if is_settled && is_same_workload {
                continue;
            }
            let entry = SubjectEntry {
                uid: uid.clone(),
                identity: pod.identity,
                ingress_enforced: self
                    .tables
                    .contains_key(&(pod.identity, Direction::Ingress)),
                egress_enforced: self.tables.contains_key(&(pod.identity, Direction::Egress)),
                needs_proxy: self.authorized.reaches(&pod.workload, &self.directory),
            };
            let view = super::super::policy::SubjectView {
                workload: Arc::clone(&pod.workload),
                identity: pod.identity,
            };
            policy.subjects.insert(uid.clone(), view);
            if pod.entry.as_ref() != Some(&entry) {
                round.update.subjects.push(entry.clone());
                pod.entry = Some(entry);
            }
        }
        for uid in &round.update.subjects_gone {
            policy.subjects.remove(uid);
        }
        self.policy = Arc::new(policy);
    }
}

fn is_same(held: &[Arc<Section>], now: &[Arc<Section>]) -> bool {
    held.len() == now.len() && held.iter().zip(now).all(|(a, b)| Arc::ptr_eq(a, b))
}
