//! Waiting for a condition with a deadline; the only place that lets time pass.

use std::{
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

/// Asks `condition` again and again, at growing distances, until it holds or `deadline` is over.
/// Says whether it held.
pub fn until(deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
    let mut pause = PAUSE_MIN;
    loop {
        if condition() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        rest(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
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
