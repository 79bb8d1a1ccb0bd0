//! Histories of failures, by hand and by chance.

use proptest::prelude::*;

use super::*;

const BASE: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(8);

fn book(capacity: usize) -> Ejections {
    Ejections::new(EjectionSettings {
        base: BASE,
        max: MAX,
        panic_percent: 50,
        capacity,
    })
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn endpoint(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + n))
}

#[test]
fn a_failure_ejects_once_and_for_its_time() {
    let mut book = book(10);
    let e = endpoint(0);
    assert!(!book.is_ejected(e, at(0)));
    assert_eq!(book.next_expiry(), None);
    assert!(book.record_failure(e, at(0)));
    // Others that were on their way at the same time.
    assert!(!book.record_failure(e, at(1)));
    assert!(!book.record_failure(e, at(999)));
    assert!(book.is_ejected(e, at(999)));
    assert!(!book.is_ejected(e, at(1000)));
    assert_eq!(book.next_expiry(), Some(at(1000)));
    assert_eq!(book.expire(at(999)), []);
    assert_eq!(book.expire(at(1000)), [e]);
    assert_eq!(book.expire(at(1000)), []);
    assert_eq!(book.next_expiry(), None);
}

#[test]
fn each_next_ejection_lasts_twice_as_long_up_to_the_limit() {
    let mut book = book(10);
    let mut now = at(0);
    for seconds in [1, 2, 4, 8, 8, 8] {
        assert!(book.record_failure(endpoint(0), now));
        let until = now + Duration::from_secs(seconds);
        assert_eq!(book.next_expiry(), Some(until));
        now = until;
    }
}

#[test]
fn a_success_forgets_the_history() {
    let mut book = book(10);
    let e = endpoint(0);
    assert!(!book.record_success(e, at(0)));
    book.record_failure(e, at(0));
    book.record_failure(e, at(1000));
    assert!(book.record_success(e, at(1500)), "it was out");
    assert!(!book.is_ejected(e, at(1500)));
    assert!(book.record_failure(e, at(2000)));
    assert_eq!(book.next_expiry(), Some(at(3000)), "the first length again");
    assert!(!book.record_success(e, at(3000)), "it was back already");
}

#[test]
fn a_long_quiet_time_forgets_the_history() {
    let mut book = book(10);
    book.record_failure(endpoint(0), at(0));
    let late = BASE + MAX;
    assert!(book.record_failure(endpoint(0), late));
    assert_eq!(book.next_expiry(), Some(late + BASE));
}

#[test]
fn a_full_book_ejects_nobody_more_until_somebody_is_forgotten() {
    let mut book = book(3);
    for n in 0..3 {
        assert!(book.record_failure(endpoint(n), at(0)));
    }
    assert!(!book.record_failure(endpoint(3), at(0)));
    assert!(!book.is_ejected(endpoint(3), at(0)));
    assert_eq!(book.len(), 3);
    let late = BASE + MAX;
    assert!(book.record_failure(endpoint(3), late));
    assert_eq!(book.len(), 1);
    assert!(
        Ejections::new(EjectionSettings {
            capacity: 0,
            ..EjectionSettings::default()
        })
        .is_empty()
    );
}

#[test]
fn a_snapshot_holds_those_who_are_out() {
    let mut book = book(10);
    book.record_failure(endpoint(0), at(0));
    book.record_failure(endpoint(1), at(500));
    let ejected = book.ejected(at(1200));
    assert!(!ejected.contains(endpoint(0)));
    assert!(ejected.contains(endpoint(1)));
    assert_eq!(ejected.addresses().count(), 1);
    assert!(ejected.believes(1, 2));
    assert!(!ejected.believes(2, 3));
    assert!(!Ejected::none().contains(endpoint(0)));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Failure(u16),
    Success(u16),
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        3 => (0..4u16).prop_map(Step::Failure),
        1 => (0..4u16).prop_map(Step::Success),
        1 => Just(Step::Expire),
    ];
    prop::collection::vec((0..3000u64, step), 0..60)
}

proptest! {
    /// Against a book that is a plain list, searched from the start each time.
    #[test]
    fn the_book_equals_a_list(steps in steps()) {
        let mut book = book(100);
        let mut list: Vec<(SocketAddr, Duration, u32)> = Vec::new();
        let mut told: Vec<SocketAddr> = Vec::new();
        let mut now = Duration::ZERO;
        for (pause, step) in steps {
            let before = now;
            now += at(pause);
            match step {
                Step::Failure(n) => {
                    let e = endpoint(n);
                    let known = list.iter().position(|(x, ..)| *x == e);
                    let out = known.is_some_and(|i| list[i].1 > now);
                    prop_assert_eq!(book.record_failure(e, now), !out);
                    if !out {
                        let times = known.map_or(1, |i| if list[i].1 + MAX > now { list[i].2 + 1 } else { 1 });
                        let length = (BASE * 2u32.pow(times - 1).min(64)).min(MAX);
                        list.retain(|(x, ..)| *x != e);
                        list.push((e, now + length, times));
                        told.retain(|x| *x != e);
                    }
                }
                Step::Success(n) => {
                    let e = endpoint(n);
                    let out = list.iter().any(|(x, until, _)| *x == e && *until > now);
                    prop_assert_eq!(book.record_success(e, now), out);
                    list.retain(|(x, ..)| *x != e);
                }
                Step::Expire => {
                    let mut back = book.expire(now);
                    let mut expected: Vec<_> = list.iter().filter(|(x, until, _)| *until <= now && !told.contains(x))
                        .map(|(x, ..)| *x).collect();
                    back.sort();
                    expected.sort();
                    told.extend(&expected);
                    prop_assert_eq!(back, expected);
                }
            }
            prop_assert!(before <= now);
            for n in 0..4 {
                let out = list.iter().any(|(x, until, _)| *x == endpoint(n) && *until > now);
                prop_assert_eq!(book.is_ejected(endpoint(n), now), out);
                prop_assert_eq!(book.ejected(now).contains(endpoint(n)), out);
            }
        }
    }
}
