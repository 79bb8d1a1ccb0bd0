//! What a load of requests saw.

use std::time::Duration;

/// How long requests took.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    /// One request each, sorted.
    samples: Vec<Duration>,
    elapsed: Duration,
}

impl Latency {
    pub(super) fn new(mut samples: Vec<Duration>, elapsed: Duration) -> Self {
        samples.sort_unstable();
        Latency { samples, elapsed }
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// The latency that the given share (0–1000) of the samples stays below.
    pub fn permille(&self, share: usize) -> Duration {
        let at = (self.samples.len() * share / 1000).min(self.samples.len().saturating_sub(1));
        self.samples.get(at).copied().unwrap_or_default()
    }

    /// The longest of all.
    pub fn longest(&self) -> Duration {
        self.samples.last().copied().unwrap_or_default()
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.samples.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}
