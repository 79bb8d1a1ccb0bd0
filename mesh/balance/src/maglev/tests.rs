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

/// Whoever of few or many goes or comes, with or without weights: nobody else's slots move.
#[test]
fn only_the_slots_of_the_one_that_goes_move() {
    for count in [2, 3, 4, 10, 100] {
        for weight_of in [|_| 1, |n: u16| 1 + u32::from(n % 3)] {
            let all: Vec<_> = (0..count).map(|n| (backend(n), weight_of(n))).collect();
            let before = owners(&all);
            for gone in [0, count / 2, count - 1].map(backend) {
                let left: Vec<_> = all.iter().copied().filter(|(a, _)| *a != gone).collect();
                let after = owners(&left);
                for (was, is) in before.iter().zip(&after) {
                    assert!(
                        *was == gone || was == is,
                        "{count}: {was} to {is} when {gone} went"
                    );
                }
            }
        }
    }
}

/// A heavier weight takes slots from the others, and moves none between them.
#[test]
fn a_weight_that_grows_takes_from_the_others_alone() {
    let mut all = alike(10);
    let before = owners(&all);
    all[3].1 = 3;
    for (was, is) in before.iter().zip(owners(&all)) {
        assert!(*was == is || is == backend(3), "{was} to {is}");
    }
}

#[test]
fn the_logarithm_is_one() {
    for draw in [
        0,
        1,
        2,
        3,
        1 << 20,
        1 << 63,
        (1 << 63) - 1,
        u64::MAX / 3,
        u64::MAX,
    ] {
        #[expect(
            clippy::cast_precision_loss,
            reason = "what is compared is compared roughly"
        )]
        let exact = -((draw.max(1) as f64) / 2f64.powi(64)).ln();
        let found = minus_ln(draw);
        assert!((found - exact).abs() < 1e-6, "{draw}: {found}, not {exact}");
        assert!(found > 0.0, "{draw}: {found}");
    }
}

#[test]
fn equal_backends_have_about_equally_many_slots() {
    for (count, percent) in [(2, 4), (3, 4), (10, 8), (100, 40)] {
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
            found.abs_diff(expected) * 20 <= expected,
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
    let many: Vec<_> = (0..5_000).map(|n| (backend(n), 1)).collect();
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

const DIGEST: u64 = 0x7515_9ede_9c9b_d561;

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

    #[test]
    fn a_table_that_is_rebuilt_is_the_one_that_is_built(
        before in prop::collection::btree_map(0..40u16, 0..4u32, 0..30),
        gone in prop::collection::btree_set(0..40u16, 0..6),
        come in prop::collection::btree_map(0..40u16, 0..4u32, 0..6),
        turn in 0..20usize,
    ) {
        let listed = |all: &BTreeMap<u16, u32>| -> Vec<(SocketAddr, u32)> {
            all.iter().map(|(n, weight)| (backend(*n), *weight)).collect()
        };
        let mut after = before.clone();
        after.retain(|n, _| !gone.contains(n));
        after.extend(come);
        let (before, mut after) = (listed(&before), listed(&after));
        let places = after.len().max(1);
        after.rotate_left(turn % places);
        let old = Table::build(&before);
        prop_assert_eq!(Table::rebuild(old.slots(), &before, &after), Table::build(&after));
    }
}
