//! The far ends that rules name, each as a set of identities that is kept up to date.
//!
//! Decides whom a change concerns: a new identity is looked up by its labels among the sets, a new set by its requirements among the
//! identities, so that neither walks through all of the other. Rules that name the same far ends share one set, whoever's rules
//! they are.
//!
//! **Invariant:** outside of an update, a set has exactly the identities in use that `Identity::matches` says; the property tests of
//! the compiler hold it.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map};

use tulle_model::{ClusterName, Entity, Selector};

use super::{
    Direction, IdentityId,
    identity::{
        Identities, Identity,
        tokens::{Token, Tokens},
    },
    prefix::Prefix,
};

/// A number for a pattern of names in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NameId(pub(super) u32);

/// A number for a pick of services in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PickId(pub(super) u32);

/// A number for a set of far ends in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerSetId(u32);

/// One kind of far end, as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PeerKind {
    Endpoints(Selector),
    Entity(Entity),
    Block {
        block: Prefix,
        except: Vec<Prefix>,
        includes_workloads: bool,
    },
    Name(NameId),
    Services(PickId),
    /// Workloads that name a port so: named by rules for everyone, whose ports differ by the far end.
    HasPort(String),
}

/// One subject's table for one direction.
pub(super) type TableKey = (IdentityId, Direction);

/// A set and who looks at it.
#[derive(Debug)]
pub(super) struct PeerSet {
    pub(super) kind: PeerKind,
    pub(super) members: HashSet<IdentityId>,
    users: BTreeMap<TableKey, usize>,
    is_filled: bool,
}

/// All sets in use.
#[derive(Debug, Default)]
pub(super) struct PeerSets {
    ids: HashMap<PeerKind, PeerSetId>,
    sets: HashMap<PeerSetId, PeerSet>,
    last: u32,
    by_token: HashMap<Token, Vec<PeerSetId>>,
    by_block: HashMap<Prefix, Vec<PeerSetId>>,
    /// Sets that have no members yet.
    fresh: Vec<PeerSetId>,
    identities: HashMap<Token, HashSet<IdentityId>>,
    by_enclosing: BTreeMap<Prefix, HashSet<IdentityId>>,
    memberships: HashMap<IdentityId, Vec<PeerSetId>>,
    pub(super) tokens: Tokens,
    /// How many comparisons of a set with an identity were made.
    pub(super) compared: u64,
}

impl PeerSets {
    pub(super) fn get(&self, id: PeerSetId) -> Option<&PeerSet> {
        self.sets.get(&id)
    }

    /// The set of that kind for one more use of `user`, and whether it is new.
    pub(super) fn acquire(&mut self, kind: PeerKind, user: TableKey) -> (PeerSetId, bool) {
        if let Some(id) = self.ids.get(&kind).copied() {
            if let Some(set) = self.sets.get_mut(&id) {
                *set.users.entry(user).or_default() += 1;
            }
            return (id, false);
        }
        let id = self.next_id();
        match &kind {
            PeerKind::Block { block, .. } => self.by_block.entry(*block).or_default().push(id),
            kind => {
                for token in self.tokens.wanted(kind) {
                    self.by_token.entry(token).or_default().push(id);
                }
            }
        }
        self.ids.insert(kind.clone(), id);
        let set = PeerSet {
            kind,
            members: HashSet::new(),
            users: BTreeMap::from([(user, 1)]),
            is_filled: false,
        };
        self.sets.insert(id, set);
        self.fresh.push(id);
        (id, true)
    }

    /// One use of `user` less; the kind, if it was the last of all.
    pub(super) fn release(&mut self, id: PeerSetId, user: TableKey) -> Option<PeerKind> {
        let set = self.sets.get_mut(&id)?;
        if let btree_map::Entry::Occupied(mut uses) = set.users.entry(user) {
            *uses.get_mut() -= 1;
            if *uses.get() == 0 {
                uses.remove();
            }
        }
        if !set.users.is_empty() {
            return None;
        }
        let set = self.sets.remove(&id)?;
        self.ids.remove(&set.kind);
        match &set.kind {
            PeerKind::Block { block, .. } => forget(&mut self.by_block, block, id),
            kind => {
                for token in self.tokens.wanted(kind) {
                    forget(&mut self.by_token, &token, id);
                }
            }
        }
        for member in &set.members {
            forget(&mut self.memberships, member, id);
        }
        Some(set.kind)
    }

    /// Takes in a new identity; says whose tables it may enter.
    pub(super) fn note_born(
        &mut self,
        id: IdentityId,
        identity: &Identity,
        local: &ClusterName,
    ) -> Vec<TableKey> {
        let tokens = self.tokens.of(identity, local);
        let mut candidates: Vec<PeerSetId> = Vec::new();
        for token in &tokens {
            self.identities.entry(*token).or_default().insert(id);
            candidates.extend(self.by_token.get(token).into_iter().flatten());
        }
        if let Some(enclosing) = identity.enclosing {
            self.by_enclosing.entry(enclosing).or_default().insert(id);
            for block in enclosing.enclosing() {
                candidates.extend(self.by_block.get(&block).into_iter().flatten());
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let mut users = Vec::new();
        for candidate in candidates {
            let Some(set) = self.sets.get_mut(&candidate).filter(|set| set.is_filled) else {
                continue;
            };
            self.compared += 1;
            if identity.matches(&set.kind, local) {
                set.members.insert(id);
                users.extend(set.users.keys());
                self.memberships.entry(id).or_default().push(candidate);
            }
        }
        users
    }

    /// Forgets an identity; says whose tables it may leave.
    pub(super) fn note_dead(
        &mut self,
        id: IdentityId,
        identity: &Identity,
        local: &ClusterName,
    ) -> Vec<TableKey> {
        for token in self.tokens.of(identity, local) {
            drop_member(&mut self.identities, &token, id);
        }
        if let Some(enclosing) = identity.enclosing
            && let Some(ids) = self.by_enclosing.get_mut(&enclosing)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_enclosing.remove(&enclosing);
            }
        }
        let mut users = Vec::new();
        for set in self.memberships.remove(&id).into_iter().flatten() {
            if let Some(set) = self.sets.get_mut(&set) {
                set.members.remove(&id);
                users.extend(set.users.keys());
            }
        }
        users
    }

    /// Gives the new sets their members.
    pub(super) fn fill_fresh(&mut self, identities: &Identities, local: &ClusterName) {
        for id in std::mem::take(&mut self.fresh) {
            let Some(kind) = self.sets.get(&id).map(|set| set.kind.clone()) else {
                continue;
            };
            let candidates: Vec<IdentityId> = match &kind {
                PeerKind::Block { block, .. } => self.within(*block).collect(),
                kind => {
                    let tokens = self.tokens.wanted(kind);
                    let ids = tokens.iter().filter_map(|token| self.identities.get(token));
                    ids.flatten().copied().collect()
                }
            };
            let mut members = HashSet::new();
            for candidate in candidates {
                self.compared += 1;
                let identity = identities.get(candidate);
                if identity.is_some_and(|identity| identity.matches(&kind, local))
                    && members.insert(candidate)
                {
                    self.memberships.entry(candidate).or_default().push(id);
                }
            }
            if let Some(set) = self.sets.get_mut(&id) {
                set.members = members;
                set.is_filled = true;
            }
        }
    }

    /// The sets that an identity is in.
    pub(super) fn of(&self, id: IdentityId) -> &[PeerSetId] {
        self.memberships.get(&id).map_or(&[], Vec::as_slice)
    }

    fn within(&self, block: Prefix) -> impl Iterator<Item = IdentityId> + '_ {
        let inside = self.by_enclosing.range(block..);
        inside
            .take_while(move |(held, _)| block.covers(**held))
            .flat_map(|(_, ids)| ids.iter().copied())
    }

    fn next_id(&mut self) -> PeerSetId {
        loop {
            self.last = self.last.wrapping_add(1);
            let id = PeerSetId(self.last);
            if !self.sets.contains_key(&id) {
                return id;
            }
        }
    }
}

fn forget<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<PeerSetId>>, key: &K, id: PeerSetId) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|held| *held != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

fn drop_member(index: &mut HashMap<Token, HashSet<IdentityId>>, token: &Token, id: IdentityId) {
    if let Some(ids) = index.get_mut(token) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(token);
        }
    }
}
