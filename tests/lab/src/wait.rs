//! Waiting for a condition with a deadline; the only place that lets time pass.

use std::{
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

/// Asks `condition` again and again, at growing distances, until it holds or `deadline` is over.
/// Says whether it held.
///
/// Time in which the whole machine stood still gave nobody a chance to make it hold, and does not count, up to a minute of it.
pub fn until(mut deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
    let (mut pause, mut forgiven) = (PAUSE_MIN, Duration::ZERO);
    loop {
        if condition() {
            return true;
        }
        let began = Instant::now();
        let left = deadline.saturating_duration_since(began);
        if left.is_zero() {
            return false;
        }
        let wanted = pause.min(left);
        rest(wanted);
        let still = stood_still(wanted, began.elapsed()).min(STALLS_MAX - forgiven);
        forgiven += still;
        deadline += still;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// For how long the machine must have stood still, when a rest of `wanted` took as long as `took`.
fn stood_still(wanted: Duration, took: Duration) -> Duration {
    let excess = took.saturating_sub(wanted);
    match excess > STALL_MIN {
        true => excess,
        false => Duration::ZERO,
    }
}

/// Lets `time` pass without anybody who could cut it short.
fn rest(time: Duration) {
    let (lock, bell) = (Mutex::new(()), Condvar::new());
    if let Ok(guard) = lock.lock() {
        drop(bell.wait_timeout_while(guard, time, |()| true));
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// A machine that is only busy wakes a sleeper sooner.
const STALL_MIN: Duration = Duration::from_millis(500);
/// Forgiven in all, so that a machine that is always late ends its waits too.
const STALLS_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_asked_until_it_holds_or_time_is_over() {
        let mut asked = 0;
        let in_time = until(Instant::now() + Duration::from_secs(10), || {
            asked += 1;
            asked == 5
        });
        assert!(in_time);
        assert_eq!(asked, 5);
        assert!(!until(Instant::now() + Duration::from_millis(5), || false));
    }

    #[test]
    fn a_machine_that_stood_still_is_not_a_busy_one() {
        let wanted = PAUSE_MAX;
        assert_eq!(stood_still(wanted, wanted), Duration::ZERO);
        assert_eq!(stood_still(wanted, wanted + STALL_MIN), Duration::ZERO);
        let stall = Duration::from_secs(16);
        assert_eq!(stood_still(wanted, wanted + stall), stall);
    }
}
