//! Evenness, agreement, and how little moves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn backend(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 8080))
}

fn alike(count: u16) -> Vec<(SocketAddr, u32)> {
    (0..count).map(|n| (backend(n), 1)).collect()
}

/// The backend of each slot.
fn owners(backends: &[(SocketAddr, u32)]) -> Vec<SocketAddr> {
    let table = Table::build(backends);
    table
        .slots()
        .iter()
        .map(|position| backends[usize::from(*position)].0)
        .collect()
}

fn counts(backends: &[(SocketAddr, u32)]) -> BTreeMap<SocketAddr, usize> {
    let mut counts = BTreeMap::new();
    for owner in owners(backends) {
        *counts.entry(owner).or_insert(0) += 1;
    }
    counts
}

/// Of all slots that the backend which went did not own, the share that has another owner now.
fn moved(before: &[SocketAddr], after: &[SocketAddr], gone: SocketAddr) -> f64 {
    let others = before.iter().zip(after).filter(|(was, _)| **was != gone);
    let (mut all, mut moved) = (0.0, 0.0);
    for (was, is) in others {
        all += 1.0;
        moved += f64::from(u8::from(was != is));
    }
    moved / all
}

#[test]
fn nothing_has_no_table() {
    let table = Table::build(&[]);
    assert!(table.slots().is_empty());
    assert_eq!(table.pick(7), None);
}

#[test]
fn one_backend_has_all_slots() {
    let table = Table::build(&alike(1));
    assert_eq!(table.slots().len(), TABLE_LEN);
    assert!(table.slots().iter().all(|p| *p == 0));
    assert_eq!(table.pick(u64::MAX), Some(0));
}

/// Each of 100 backends that goes, one after the other: at most 1 % of the others' slots move.
#[test]
fn when_one_of_a_hundred_goes_the_others_stay() {
    let all = alike(100);
    let before = owners(&all);
    let mut shares = Vec::new();
    for n in 0..100 {
        let left: Vec<_> = all
            .iter()
            .copied()
            .filter(|(a, _)| *a != backend(n))
            .collect();
        shares.push(moved(&before, &owners(&left), backend(n)));
    }
    let mean = shares.iter().sum::<f64>() / 100.0;
    let worst = shares.iter().copied().fold(0.0, f64::max);
    println!(
        "one of 100 goes: {:.3} % of the others' slots move on average, {:.3} % at worst",
        mean * 100.0,
        worst * 100.0
    );
    assert!(worst <= 0.01, "{worst}");
}

#[test]
fn equal_backends_have_about_equally_many_slots() {
    for (count, percent) in [(2, 2), (3, 2), (10, 5), (100, 25)] {
        let counts = counts(&alike(count));
        let (min, max) = (
            counts.values().min().unwrap(),
            counts.values().max().unwrap(),
        );
        println!("{count} backends: {min}–{max} slots");
        assert_eq!(counts.len(), usize::from(count));
        assert!((max - min) * 100 <= max * percent, "{count}: {min}–{max}");
    }
}

#[test]
fn slots_follow_the_weights() {
    let weighted = [
        (backend(0), 1),
        (backend(1), 2),
        (backend(2), 5),
        (backend(3), 0),
    ];
    let counts = counts(&weighted);
    assert_eq!(counts.get(&backend(3)), None);
    for (address, weight) in weighted.iter().take(3) {
        let expected = TABLE_LEN * usize::try_from(*weight).unwrap() / 8;
        let found = counts[address];
        assert!(
            found.abs_diff(expected) * 50 <= expected,
            "{weight}: {found}"
        );
    }
    let none = [(backend(0), 0), (backend(1), 0)];
    assert_eq!(super::tests::counts(&none).len(), 2);
}

/// The heaviest weight there is does not make the table slow or wrong.
#[test]
fn extreme_weights_are_survived() {
    let mut backends = alike(200);
    backends[7].1 = u32::MAX;
    let counts = counts(&backends);
    assert!(counts[&backend(7)] >= TABLE_LEN - 250);
    let many: Vec<_> = (0..20_000).map(|n| (backend(n), 1)).collect();
    assert_eq!(Table::build(&many).slots().len(), TABLE_LEN);
}

/// Nodes of two versions must agree: if this fails, the hash changed.
#[test]
fn the_table_is_the_same_for_ever() {
    let v6: SocketAddr = "[fd00:10:1::5]:8080".parse().unwrap();
    let table = Table::build(&[(backend(0), 1), (v6, 3), (backend(2), 2)]);
    let digest = table
        .slots()
        .iter()
        .fold(0u64, |h, p| mix(h ^ u64::from(*p).wrapping_add(GOLDEN)));
    assert_eq!(digest, DIGEST, "{digest:#x}");
}

const DIGEST: u64 = 0x46de_a180_782b_3466;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_order_of_the_list_does_not_matter(weights in prop::collection::vec(0..4u32, 1..20), turn in 0..20usize) {
        let all: Vec<_> = (0..).map(backend).zip(weights).collect();
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len());
        prop_assert_eq!(owners(&all), owners(&turned));
    }

    #[test]
    fn every_backend_with_a_weight_is_picked(weights in prop::collection::vec(1..50u32, 1..30)) {
        let all: Vec<_> = (0..).map(backend).zip(weights).collect();
        prop_assert_eq!(counts(&all).len(), all.len());
    }
}
