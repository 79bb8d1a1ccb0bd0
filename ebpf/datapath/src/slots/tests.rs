use std::collections::HashSet;

use tulle_abi::{Address, Endpoint};

use super::{Slot, plan};

fn slot(name: u32, path: u32) -> Slot {
    Slot {
        endpoint: Endpoint::new(Address::from_v4_word(name), 80),
        path,
        weight: 1,
    }
}

/// `wanted` and `held` are (name, path); `writes` are the indexes that must be written.
fn check(held: &[(u32, u32)], wanted: &[(u32, u32)], writes: &[usize]) {
    let make = |slots: &[(u32, u32)]| -> Vec<Slot> {
        slots
            .iter()
            .map(|(name, path)| slot(*name, *path))
            .collect()
    };
    let (held, wanted) = (make(held), make(wanted));
    let plan = plan(&held, &wanted);
    let indexes: Vec<usize> = plan.writes.iter().map(|(index, _)| *index).collect();
    assert_eq!(indexes, writes, "{held:?} -> {wanted:?}");

    let mut kernel = held.clone();
    for (index, slot) in &plan.writes {
        if *index < kernel.len() {
            kernel[*index] = *slot;
        } else {
            assert_eq!(*index, kernel.len(), "no hole below the count");
            kernel.push(*slot);
        }
    }
    kernel.truncate(plan.slots.len());
    assert_eq!(kernel, plan.slots);
    let as_set = |slots: &[Slot]| -> HashSet<(Endpoint, u32)> {
        slots
            .iter()
            .map(|slot| (slot.endpoint, slot.path))
            .collect()
    };
    assert_eq!(as_set(&kernel), as_set(&wanted));
    assert_eq!(
        held.len() + plan.added.len() - plan.removed.len(),
        plan.slots.len()
    );
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    check(&[], &[], &[]);
    check(&[(1, 1), (2, 1)], &[(1, 1), (2, 1)], &[]);
    check(&[(1, 1), (2, 1)], &[(2, 1), (1, 1)], &[]);
}

#[test]
fn a_new_backend_takes_the_next_slot() {
    check(&[], &[(1, 1)], &[0]);
    check(&[(1, 1), (2, 1)], &[(3, 1), (1, 1), (2, 1)], &[2]);
}

#[test]
fn a_removed_backend_leaves_its_slot_to_the_last_one() {
    check(&[(1, 1), (2, 1), (3, 1)], &[(2, 1), (3, 1)], &[0]);
    check(&[(1, 1), (2, 1), (3, 1)], &[(1, 1), (2, 1)], &[]);
    check(&[(1, 1), (2, 1)], &[], &[]);
}

#[test]
fn a_replacement_is_written_in_place() {
    check(&[(1, 1), (2, 1)], &[(1, 1), (3, 1)], &[1]);
    check(&[(1, 1), (2, 1), (3, 1)], &[(4, 1), (3, 1)], &[0, 1]);
}

#[test]
fn another_path_is_a_write_to_the_same_slot() {
    check(&[(1, 1), (2, 1)], &[(1, 2), (2, 1)], &[0]);
    let changed = plan(&[slot(1, 1)], &[slot(1, 2)]).changed;
    assert_eq!(changed, 1);
}

#[test]
fn another_weight_is_a_write_to_the_same_slot() {
    let heavy = Slot {
        weight: 9,
        ..slot(2, 1)
    };
    let changed = plan(&[slot(1, 1), slot(2, 1)], &[slot(1, 1), heavy]);
    assert_eq!(changed.writes, [(1, heavy)]);
    assert_eq!(changed.changed, 1);
}

#[test]
fn a_backend_that_is_wanted_twice_counts_once() {
    let twice = plan(&[], &[slot(1, 1), slot(1, 1)]);
    assert_eq!(twice.slots.len(), 1);
}

#[test]
fn a_long_random_history_always_ends_at_what_is_wanted() {
    let mut seed = 7u64;
    let mut next = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut held = Vec::new();
    for _ in 0..500 {
        let wanted: Vec<Slot> = (0..next(9))
            .map(|_| {
                slot(
                    u32::try_from(next(12)).unwrap(),
                    u32::try_from(next(3)).unwrap(),
                )
            })
            .collect();
        let plan = plan(&held, &wanted);
        let mut unique: Vec<Endpoint> = wanted.iter().map(|slot| slot.endpoint).collect();
        unique.sort_by_key(|endpoint| endpoint.address.words[3]);
        unique.dedup();
        assert_eq!(plan.slots.len(), unique.len());
        held = plan.slots;
    }
}
