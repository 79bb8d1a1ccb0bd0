//! Which key says which fact, so that a fact is gone only when no key says it any more.
//!
//! A workload moves from one slice to another when slices are cut anew; for a moment both say it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use tulle_model::Change;

/// The facts of one cluster by key.
#[derive(Debug, Default)]
pub(super) struct Facts {
    by_key: HashMap<Box<str>, Vec<Change>>,
    /// How many keys say a fact, by a hash of its name.
    said: HashMap<u64, u32>,
    /// Workloads by node.
    nodes: HashMap<String, u32>,
    hasher: RandomState,
}

/// There is no room for so many facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it publishes more than {FACTS_MAX} workloads and services; the rest is not taken in")]
pub(super) struct NoRoom;

impl Facts {
    /// A key says these facts now and no others; what that changes goes to `out`.
    pub(super) fn replace(
        &mut self,
        key: &str,
        new: Vec<Change>,
        out: &mut Vec<Change>,
    ) -> Result<(), NoRoom> {
        let old = self.by_key.remove(key).unwrap_or_default();
        if self.said.len() + new.len() > FACTS_MAX + old.len() {
            self.by_key.insert(key.into(), old);
            return Err(NoRoom);
        }
        let mut before: HashMap<u64, Change> = old
            .into_iter()
            .map(|fact| (self.name_of(&fact), fact))
            .collect();
        for fact in &new {
            let name = self.name_of(fact);
            let known = before.remove(&name);
            self.count_node(fact, 1);
            match &known {
                Some(known) => self.count_node(known, -1),
                None => *self.said.entry(name).or_insert(0) += 1,
            }
            if known.as_ref() != Some(fact) {
                out.push(fact.clone());
            }
        }
        for (name, fact) in before {
            self.count_node(&fact, -1);
            self.drop_one(name, &fact, out);
        }
        if !new.is_empty() {
            self.by_key.insert(key.into(), new);
        }
        Ok(())
    }

    /// A key is gone.
    pub(super) fn remove(&mut self, key: &str, out: &mut Vec<Change>) {
        for fact in self.by_key.remove(key).unwrap_or_default() {
            self.count_node(&fact, -1);
            let name = self.name_of(&fact);
            self.drop_one(name, &fact, out);
        }
    }

    pub(super) fn nodes_len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Facts::default();
    }

    fn drop_one(&mut self, name: u64, fact: &Change, out: &mut Vec<Change>) {
        let left = self.said.get(&name).map_or(0, |n| n.saturating_sub(1));
        if left > 0 {
            self.said.insert(name, left);
            return;
        }
        self.said.remove(&name);
        out.extend(gone(fact));
    }

    fn name_of(&self, fact: &Change) -> u64 {
        match fact {
            Change::Workload(w) => self.hasher.hash_one((0, &w.uid)),
            Change::WorkloadGone(uid) => self.hasher.hash_one((0, uid)),
            Change::Service(s) => self.hasher.hash_one((1, s.key())),
            Change::ServiceGone(key) => self.hasher.hash_one((1, key)),
            Change::Bundle(b) => self.hasher.hash_one((2, &b.trust_domain)),
            Change::BundleGone(domain) => self.hasher.hash_one((2, domain)),
            Change::Policy(p) => self.hasher.hash_one((3, p.key())),
            Change::PolicyGone(key) => self.hasher.hash_one((3, key)),
            Change::Rules(r) => self.hasher.hash_one((4, r.key())),
            Change::RulesGone(key) => self.hasher.hash_one((4, key)),
        }
    }

    fn count_node(&mut self, fact: &Change, by: i32) {
        let Change::Workload(workload) = fact else {
            return;
        };
        let now = self.nodes.get(workload.node.as_str()).copied().unwrap_or(0);
        let now = now.saturating_add_signed(by);
        if now == 0 {
            self.nodes.remove(workload.node.as_str());
        } else {
            self.nodes.insert(workload.node.clone().into(), now);
        }
    }
}

/// What to say when nobody says the fact any more.
fn gone(fact: &Change) -> Option<Change> {
    match fact {
        Change::Workload(w) => Some(Change::WorkloadGone(w.uid.clone())),
        Change::Service(s) => Some(Change::ServiceGone(s.key())),
        Change::Bundle(b) => Some(Change::BundleGone(b.trust_domain.clone())),
        Change::Policy(p) => Some(Change::PolicyGone(p.key())),
        Change::Rules(r) => Some(Change::RulesGone(r.key())),
        Change::RulesGone(_)
        | Change::WorkloadGone(_)
        | Change::ServiceGone(_)
        | Change::BundleGone(_)
        | Change::PolicyGone(_) => None,
    }
}

/// Two and a half times the largest mesh that the design speaks of, for one cluster.
pub(super) const FACTS_MAX: usize = 250_000;

#[cfg(test)]
mod tests;
