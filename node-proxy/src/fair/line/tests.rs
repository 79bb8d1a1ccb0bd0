use proptest::prelude::*;

use super::*;

type TestAccount = Arc<Account<u32>>;

fn push_all(line: &mut Line<u32>, account: &TestAccount, places: impl IntoIterator<Item = u32>) {
    for place in places {
        line.push(account, place, |_| true);
    }
}

/// Two accounts that always have somebody in line, the steps of each at a price: what each had of the time after some turns.
fn race(prices: [Duration; 2], crowds: [u32; 2], turns: usize) -> [Duration; 2] {
    let mut line = Line::default();
    let accounts: [TestAccount; 2] = Default::default();
    let mut had = [Duration::ZERO; 2];
    for ((account, crowd), at) in accounts.iter().zip(crowds).zip(0..) {
        push_all(&mut line, account, (0..crowd).map(|n| n * 2 + at));
    }
    for _ in 0..turns {
        let place = line.next(|_| true).unwrap();
        let at = (place % 2) as usize;
        had[at] += prices[at] + TURN_COST;
        line.charge(&accounts[at], prices[at]);
        line.push(&accounts[at], place, |_| true);
    }
    had
}

#[test]
fn a_crowd_gets_no_more_time_than_one_alone() {
    let price = Duration::from_micros(15);
    let [crowd, one] = race([price; 2], [10_000, 1], 1000);
    assert_eq!(crowd, one);
}

proptest! {
    #[test]
    fn time_is_what_is_shared(
        prices in [1..1000_u64, 1..1000_u64],
        crowds in [1..100_u32, 1..100_u32],
        turns in 100..1000_usize,
    ) {
        let prices = prices.map(Duration::from_micros);
        let [one, other] = race(prices, crowds, turns);
        // Never further apart than by the longest step.
        prop_assert!(one.abs_diff(other) <= prices[0].max(prices[1]) + TURN_COST, "{one:?} {other:?}");
    }

    /// Whatever comes, goes and is taken: nobody is lost, nobody comes twice, and each account's own come in their order.
    #[test]
    fn nobody_is_lost(steps in prop::collection::vec((0..4_usize, 0..5_u32, any::<bool>()), 1..300)) {
        let mut line = Line::default();
        let accounts: [TestAccount; 4] = Default::default();
        let mut inside = [const { VecDeque::new() }; 4];
        let mut gone = std::collections::BTreeSet::new();
        let mut number = 0;
        for (at, what, last) in steps {
            match what {
                0 | 1 => {
                    line.push(&accounts[at], number, |place| !gone.contains(place));
                    inside[at].push_back(number);
                    number += 1;
                }
                2 => {
                    let left = match last { true => inside[at].pop_back(), false => inside[at].pop_front() };
                    gone.extend(left);
                }
                3 => line.charge(&accounts[at], Duration::from_micros(u64::from(number))),
                _ => match line.next(|place| !gone.contains(place)) {
                    Some(place) => {
                        let own = inside.iter_mut().find(|own| own.front() == Some(&place));
                        prop_assert!(own.is_some(), "{place} came out of order, or twice");
                        own.unwrap().pop_front();
                    }
                    None => prop_assert!(inside.iter().all(VecDeque::is_empty)),
                },
            }
        }
        while let Some(place) = line.next(|place| !gone.contains(place)) {
            prop_assert!(inside.iter_mut().any(|own| own.front() == Some(&place) && own.pop_front().is_some()));
        }
        prop_assert!(line.is_empty() && inside.iter().all(VecDeque::is_empty));
    }
}

#[test]
fn whoever_was_idle_is_ahead_but_not_for_long() {
    let mut line = Line::default();
    let accounts: [TestAccount; 2] = Default::default();
    let price = Duration::from_micros(20);
    push_all(&mut line, &accounts[0], 0..1000);
    for _ in 0..500 {
        assert!(line.next(|_| true).is_some());
        line.charge(&accounts[0], price);
    }
    push_all(&mut line, &accounts[1], 1000..2000);
    let mut ahead = 0;
    while line.next(|_| true).unwrap() >= 1000 {
        line.charge(&accounts[1], price);
        ahead += 1;
    }
    let burst = CREDIT_MAX.as_micros() / (price + TURN_COST).as_micros();
    assert!((burst - 2..=burst + 2).contains(&ahead), "{ahead}");
}

/// Those who leave while they wait are forgotten without anybody looking for them.
#[test]
fn a_line_holds_no_more_than_twice_of_those_who_wait() {
    let mut line = Line::default();
    let account = TestAccount::default();
    push_all(&mut line, &account, 0..100);
    for place in 100..100_000 {
        line.push(&account, place, |&kept| kept < 100);
        let len = account.lock().queue.len();
        assert!(len <= 2 * 101, "{len}");
    }
}

#[test]
fn an_empty_line_keeps_little_memory() {
    let mut line = Line::default();
    let account = TestAccount::default();
    push_all(&mut line, &account, 0..100_000);
    while line.next(|_| true).is_some() {}
    let kept = account.lock().queue.capacity();
    assert!(kept <= KEPT_LEN_MAX, "{kept}");
}
