//! In which slice a workload travels: a tree over the hash of its uid, one for each namespace.
//!
//! A slice that outgrows `SLICE_LEN_MAX` is cut in two by the next bit of the hash; two halves that fit into one are one again.
//! So the cut follows from the set of workloads alone, whatever happened before (`cut_depends_on_the_set_alone`): a server that
//! starts anew writes nothing that is there already, and one change touches one slice, rarely three.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tulle_model::{Workload, WorkloadUid};

use super::slice_value;

/// All slices of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Slices {
    trees: BTreeMap<String, Tree>,
    changed: BTreeSet<(String, Place)>,
}

/// The workloads of one namespace by place. Empty halves are there as well, so that the tree shows.
#[derive(Debug, Clone, Default)]
struct Tree {
    leaves: BTreeMap<Place, BTreeMap<WorkloadUid, Arc<Workload>>>,
}

/// The first `depth` bits of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    depth: u32,
    bits: u64,
}

impl Slices {
    /// A workload is new or different; `old` is what it was, if it was.
    pub fn put(&mut self, old: Option<&Workload>, new: &Arc<Workload>) {
        if let Some(old) = old.filter(|old| old.namespace != new.namespace) {
            self.remove(old);
        }
        let tree = self.trees.entry(new.namespace.clone().into()).or_default();
        let changed = tree.put(new);
        self.note(&new.namespace, changed);
    }

    /// A workload is gone.
    pub fn remove(&mut self, old: &Workload) {
        let Some(tree) = self.trees.get_mut(old.namespace.as_str()) else {
            return;
        };
        let changed = tree.remove(&old.uid);
        // What is empty has become one again.
        if tree.leaves.len() <= 1 && tree.leaves.values().all(BTreeMap::is_empty) {
            self.trees.remove(old.namespace.as_str());
        }
        self.note(&old.namespace, changed);
    }

    /// The slices that changed since the last call: key and value, or none for a slice that is no more.
    pub fn take_changed(&mut self) -> Vec<(String, Option<Bytes>)> {
        let changed = std::mem::take(&mut self.changed);
        let told = changed.into_iter().map(|(namespace, place)| {
            let leaf = self
                .trees
                .get(&namespace)
                .and_then(|t| t.leaves.get(&place));
            let value = leaf
                .filter(|leaf| !leaf.is_empty())
                .map(|leaf| slice_value::encode(leaf.values()));
            (super::slice_key(&namespace, &place.to_string()), value)
        });
        told.collect()
    }

    fn note(&mut self, namespace: &str, changed: Vec<Place>) {
        let places = changed.into_iter().map(|p| (namespace.to_owned(), p));
        self.changed.extend(places);
    }
}

impl Tree {
    fn put(&mut self, workload: &Arc<Workload>) -> Vec<Place> {
        let hash = hash_of(&workload.uid);
        let mut place = self.find(hash);
        let leaf = self.leaves.entry(place).or_default();
        leaf.insert(workload.uid.clone(), Arc::clone(workload));
        let mut changed = vec![place];
        // The other half may be empty, and then the cut has to go on.
        while self
            .leaves
            .get(&place)
            .is_some_and(|l| l.len() > SLICE_LEN_MAX)
            && place.depth < DEPTH_MAX
        {
            let whole = self.leaves.remove(&place).unwrap_or_default();
            let (low, high) = place.halves();
            let (ones, zeros): (BTreeMap<_, _>, BTreeMap<_, _>) = whole
                .into_iter()
                .partition(|(uid, _)| high.holds(hash_of(uid)));
            place = if zeros.len() > ones.len() { low } else { high };
            self.leaves.insert(low, zeros);
            self.leaves.insert(high, ones);
            changed.extend([low, high]);
        }
        changed
    }

    fn remove(&mut self, uid: &WorkloadUid) -> Vec<Place> {
        let mut place = self.find(hash_of(uid));
        let Some(leaf) = self.leaves.get_mut(&place) else {
            return Vec::new();
        };
        if leaf.remove(uid).is_none() {
            return Vec::new();
        }
        let mut changed = vec![place];
        while let Some((parent, sibling)) = place.family() {
            let len = |at: &Place| self.leaves.get(at).map(BTreeMap::len);
            // A sibling that is cut itself holds more than fits.
            let fits = len(&place)
                .zip(len(&sibling))
                .is_some_and(|(a, b)| a + b <= SLICE_LEN_MAX);
            if !fits {
                break;
            }
            let mut whole = self.leaves.remove(&place).unwrap_or_default();
            whole.append(&mut self.leaves.remove(&sibling).unwrap_or_default());
            self.leaves.insert(parent, whole);
            changed.extend([sibling, parent]);
            place = parent;
        }
        changed
    }

    /// The place that is there, or the whole when there is none yet.
    fn find(&self, hash: u64) -> Place {
        let mut places = (0..=DEPTH_MAX).map(|depth| Place::of(hash, depth));
        places
            .find(|place| self.leaves.contains_key(place))
            .unwrap_or(Place { depth: 0, bits: 0 })
    }
}

impl Place {
    fn of(hash: u64, depth: u32) -> Self {
        Place {
            depth,
            bits: hash.checked_shr(u64::BITS - depth).unwrap_or(0),
        }
    }

    fn holds(self, hash: u64) -> bool {
        Place::of(hash, self.depth) == self
    }

    fn halves(self) -> (Self, Self) {
        let half = |bit| Place {
            depth: self.depth + 1,
            bits: self.bits << 1 | bit,
        };
        (half(0), half(1))
    }

    /// Parent and sibling.
    fn family(self) -> Option<(Self, Self)> {
        let depth = self.depth.checked_sub(1)?;
        let parent = Place {
            depth,
            bits: self.bits >> 1,
        };
        let sibling = Place {
            bits: self.bits ^ 1,
            ..self
        };
        Some((parent, sibling))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:x}", self.depth, self.bits)
    }
}

/// The same in every version and at every place.
fn hash_of(uid: &WorkloadUid) -> u64 {
    let digest = Sha256::digest(uid.0.as_bytes());
    let (head, _) = digest.split_at(size_of::<u64>());
    head.iter()
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// Decision 0007 has the figures.
pub const SLICE_LEN_MAX: usize = 32;
/// Nobody finds workloads whose names agree in more bits.
const DEPTH_MAX: u32 = 60;

#[cfg(test)]
mod tests;
