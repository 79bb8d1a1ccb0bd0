//! How long changes take until they are seen: the figures, and the promise.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

/// Times of one kind.
#[derive(Debug, Default)]
pub struct Delays {
    samples: Vec<Duration>,
}

impl Delays {
    /// Adds one.
    pub fn push(&mut self, took: Duration) {
        self.samples.push(took);
    }

    /// What so many of 100 stayed below.
    pub fn percentile(&self, share: usize) -> Duration {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = (sorted.len() * share / 100).min(last);
        sorted.get(at).copied().unwrap_or_default()
    }

    /// Prints them as a line of JSON.
    pub fn print(&self, scenario: &str) {
        let at = |share| millis(self.percentile(share));
        let line = json!({
            "scenario": scenario, "samples": self.samples.len(),
            "p50Ms": at(50), "p90Ms": at(90), "p99Ms": at(99), "maxMs": at(100),
        });
        eprintln!("{line}");
    }

    /// Demands that 99 of 100 stay within `target`.
    ///
    /// # Errors
    /// They did not.
    pub fn ensure_p99(&self, what: &str, target: Duration) -> Result<()> {
        let p99 = self.percentile(99);
        ensure!(
            p99 <= target,
            "{what} took {p99:?} in 99 of 100 cases, expected at most {target:?}"
        );
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
