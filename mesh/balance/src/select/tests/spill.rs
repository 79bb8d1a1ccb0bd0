//! Spill-over: shares, and their way up and down.

use tulle_model::{Affinity, Service};

use super::{
    super::SpillState,
    rules::{Scene, with_affinity, with_failover},
};

/// Cluster a and b with so many healthy endpoints of ten each: the percentage of connections that go to b.
fn to_b(service: &Service, a: usize, b: usize, state: &mut SpillState) -> f64 {
    let of = |cluster: &str, healthy: usize| {
        let word = |n| {
            if n < healthy {
                format!("{cluster}1 ")
            } else {
                format!("{cluster}1- ")
            }
        };
        (0..10).map(word).collect::<String>()
    };
    let scene = Scene::new(&(of("a", a) + &of("b", b)), 100);
    let serving = scene.serving(service, state);
    let (mut all, mut there) = (0.0, 0.0);
    for word in serving.split_whitespace() {
        let weight: f64 = word
            .split_once('*')
            .map_or(1.0, |(_, w)| w.parse().unwrap());
        all += weight;
        there += if word.starts_with('b') { weight } else { 0.0 };
    }
    there / all * 100.0
}

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 0.5,
        "{found} is not about {expected}"
    );
}

/// spillAt 70, so a place that spills takes h/80 of the connections.
#[test]
fn shares_follow_what_is_healthy() {
    let service = with_failover("a b", 70);
    for (healthy, expected) in [
        (10, 0.0),
        (7, 0.0),
        (6, 25.0),
        (4, 50.0),
        (1, 87.5),
        (0, 100.0),
    ] {
        near(
            to_b(&service, healthy, 10, &mut SpillState::default()),
            expected,
        );
    }
}

#[test]
fn a_place_stops_spilling_later_than_it_began() {
    let service = with_failover("a b", 70);
    let mut state = SpillState::default();
    for (healthy, expected) in [
        (8, 0.0),
        (7, 0.0),
        (6, 25.0),
        (7, 12.5),
        (6, 25.0),
        (8, 0.0),
        (7, 0.0),
    ] {
        near(to_b(&service, healthy, 10, &mut state), expected);
        assert_eq!(state.is_spilling(), expected > 0.0);
    }
}

/// Both are sick: each takes its part, and together they take everything.
#[test]
fn what_nobody_takes_is_shared_by_all() {
    let service = with_failover("a b", 70);
    // a takes 40/80, b 40/80 of the other half: 2 to 1.
    near(
        to_b(&service, 4, 4, &mut SpillState::default()),
        100.0 / 3.0,
    );
    near(to_b(&service, 4, 0, &mut SpillState::default()), 0.0);
}

#[test]
fn another_order_starts_afresh() {
    let mut state = SpillState::default();
    near(to_b(&with_failover("a b", 70), 6, 10, &mut state), 25.0);
    near(to_b(&with_failover("b a", 70), 6, 10, &mut state), 100.0);
    near(to_b(&with_failover("a b", 70), 7, 10, &mut state), 0.0);
    near(
        to_b(&with_affinity(Affinity::Local), 6, 10, &mut state),
        0.0,
    );
    assert!(!state.is_spilling());
}

#[test]
fn affinity_local_can_spill_by_degrees() {
    let mut service = with_failover("", 50);
    service.sharing.affinity = Affinity::Local;
    near(to_b(&service, 5, 10, &mut SpillState::default()), 0.0);
    near(to_b(&service, 3, 10, &mut SpillState::default()), 50.0);
}

#[test]
fn ejected_and_silent_endpoints_are_not_healthy() {
    let service = with_failover("a b", 50);
    let serving = |words: &str| Scene::new(words, 80).serving(&service, &mut SpillState::default());
    assert_eq!(serving("a1 a1x b1 b1"), "a1");
    // A third is healthy: 33 of 60 for one endpoint, the rest for two.
    assert_eq!(serving("a1 a1x a1x b1 b1"), "a1*10000 b1*4090 b1*4090");
    assert_eq!(serving("a1~ a2~ b1"), "b1");
    assert_eq!(serving("a1~ b1-"), "a1~");
    assert_eq!(serving("a1t b1"), "b1");
}

#[test]
fn weights_count_within_a_place() {
    // One healthy of a thousand is less than a percent, and still serves.
    let words = format!("a1 {}b1", "a1- ".repeat(200));
    let service = with_failover("a b", 70);
    let serving = Scene::new(&words, 80).serving(&service, &mut SpillState::default());
    assert_eq!(serving, "a1 b1*10000");
}
