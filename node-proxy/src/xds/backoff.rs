//! Pauses between attempts: doubled each time, spread so that the nodes of a cluster do not come back all at once.

use std::time::Duration;

/// The next pause; starts at the shortest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { ceiling: PAUSE_MIN }
    }
}

impl Backoff {
    /// A pause between half of the ceiling and all of it; `spread` is a random number in 0..1.
    pub(super) fn next_pause(&mut self, spread: f64) -> Duration {
        let pause = self.ceiling.mul_f64(0.5 + spread.clamp(0.0, 1.0) / 2.0);
        self.ceiling = self.ceiling.saturating_mul(2).min(PAUSE_MAX);
        pause
    }

    /// Starts over, since a stream worked.
    pub(super) fn reset(&mut self) {
        *self = Backoff::default();
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::{Backoff, PAUSE_MAX, PAUSE_MIN};

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_pause(1.0), PAUSE_MIN);
        assert_eq!(backoff.next_pause(0.0), PAUSE_MIN);
        assert_eq!(backoff.next_pause(1.0), PAUSE_MIN * 4);
        for _ in 0..20 {
            assert!(backoff.next_pause(0.5) <= PAUSE_MAX);
        }
        assert_eq!(backoff.next_pause(1.0), PAUSE_MAX);
        backoff.reset();
        assert_eq!(backoff.next_pause(1.0), PAUSE_MIN);
    }
}
