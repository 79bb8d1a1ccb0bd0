//! Port sets by content: far ends of whom the rules say the same share one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{LimitKind, LimitReached, PolicyUpdate, PortSetId, ports::PortSet};

/// The port sets in use.
#[derive(Debug, Default)]
pub(super) struct PortSets {
    ids: HashMap<Arc<PortSet>, PortSetId>,
    uses: HashMap<PortSetId, usize>,
    /// By number. A clone shares everything.
    pub(super) sets: imbl::HashMap<PortSetId, Arc<PortSet>>,
    fresh: Vec<PortSetId>,
    idle: Vec<PortSetId>,
    last: u32,
    /// The most entries that a set ever had.
    pub(super) entries_max: usize,
}

impl PortSets {
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// The number of a set, one more use of it.
    pub(super) fn acquire(
        &mut self,
        set: PortSet,
        sets_max: usize,
        entries_max: usize,
    ) -> Result<PortSetId, LimitReached> {
        if let Some(id) = self.ids.get(&set).copied() {
            *self.uses.entry(id).or_default() += 1;
            return Ok(id);
        }
        let reached = |kind, needed, max| Err(LimitReached { kind, needed, max });
        if set.entries.len() > entries_max {
            return reached(LimitKind::PortEntries, set.entries.len(), entries_max);
        }
        if self.sets.len() >= sets_max {
            return reached(LimitKind::PortSets, self.sets.len() + 1, sets_max);
        }
        self.entries_max = self.entries_max.max(set.entries.len());
        let id = self.next_id();
        let set = Arc::new(set);
        self.ids.insert(Arc::clone(&set), id);
        self.sets.insert(id, set);
        self.uses.insert(id, 1);
        self.fresh.push(id);
        Ok(id)
    }

    /// One more use of a set that is in use.
    pub(super) fn share(&mut self, id: PortSetId) {
        if let Some(uses) = self.uses.get_mut(&id) {
            *uses += 1;
        }
    }

    /// One use less; the set stays until `drain`.
    pub(super) fn release(&mut self, id: PortSetId) {
        if let Some(uses) = self.uses.get_mut(&id) {
            *uses = uses.saturating_sub(1);
            if *uses == 0 {
                self.idle.push(id);
            }
        }
    }

    /// Removes what nobody uses any more, and writes down what is new and what is gone.
    pub(super) fn drain(&mut self, update: &mut PolicyUpdate) {
        let mut idle = std::mem::take(&mut self.idle);
        idle.sort_unstable();
        idle.dedup();
        let fresh: BTreeSet<PortSetId> = std::mem::take(&mut self.fresh).into_iter().collect();
        for id in idle {
            if self.uses.get(&id) != Some(&0) {
                continue;
            }
            self.uses.remove(&id);
            if let Some(set) = self.sets.remove(&id) {
                self.ids.remove(&set);
            }
            if !fresh.contains(&id) {
                update.port_sets_gone.push(id);
            }
        }
        for id in fresh {
            if let Some(set) = self.sets.get(&id) {
                update.port_sets.push((id, set.kernel_entries()));
            }
        }
    }

    fn next_id(&mut self) -> PortSetId {
        loop {
            self.last = self.last.wrapping_add(1).max(PortSetId::FIRST.0);
            let id = PortSetId(self.last);
            if !self.sets.contains_key(&id) {
                return id;
            }
        }
    }
}
