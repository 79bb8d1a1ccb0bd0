//! How the slots of one service change from what the kernel holds to what is wanted.
//!
//! Pure: it plans, the caller writes. The order of a plan's steps keeps every moment safe: slots below the count are always filled,
//! since new slots are written before the count rises and old ones are deleted after it has fallen.

use std::collections::HashMap;

use tulle_abi::Endpoint;

/// One backend: where it listens, the number of the path to it, and its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) endpoint: Endpoint,
    pub(crate) path: u32,
    pub(crate) weight: u32,
}

/// The steps from one set of slots to another, to be done in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SlotPlan {
    /// Slots to write, then the count is set to the length of `slots`.
    pub(crate) writes: Vec<(usize, Slot)>,
    /// All slots as they are afterwards; slots of the old set beyond its length are to be deleted last.
    pub(crate) slots: Vec<Slot>,
    /// Backends that are new.
    pub(crate) added: Vec<Endpoint>,
    /// Backends that are gone.
    pub(crate) removed: Vec<Endpoint>,
    /// How many backends stay, on another path or with another weight.
    pub(crate) changed: usize,
}

/// Plans the change. Backends that stay keep their slot where they can; a backend that is wanted twice counts once.
pub(crate) fn plan(held: &[Slot], wanted: &[Slot]) -> SlotPlan {
    let mut missing: HashMap<Endpoint, Slot> = HashMap::with_capacity(wanted.len());
    let mut order = Vec::with_capacity(wanted.len());
    for slot in wanted {
        if missing.insert(slot.endpoint, *slot).is_none() {
            order.push(slot.endpoint);
        }
    }
    let len = order.len();
    let mut plan = SlotPlan::default();
    let mut placed: Vec<Option<Slot>> = vec![None; len];
    let mut displaced = Vec::new();
    for (index, slot) in held.iter().enumerate() {
        match missing.remove(&slot.endpoint) {
            Some(stays) => {
                plan.changed += usize::from(stays != *slot);
                match placed.get_mut(index) {
                    Some(place) => *place = Some(stays),
                    None => displaced.push(stays),
                }
            }
            None => plan.removed.push(slot.endpoint),
        }
    }
    let newcomers = order.iter().filter_map(|endpoint| missing.get(endpoint));
    plan.added = newcomers.clone().map(|slot| slot.endpoint).collect();
    let mut fillers = displaced.into_iter().chain(newcomers.copied());
    for (index, place) in placed.into_iter().enumerate() {
        let Some(slot) = place.or_else(|| fillers.next()) else {
            break;
        };
        if held.get(index) != Some(&slot) {
            plan.writes.push((index, slot));
        }
        plan.slots.push(slot);
    }
    plan
}

#[cfg(test)]
mod tests;
