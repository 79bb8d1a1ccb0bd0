//! How long changes take until they are seen: the figures, and the promise.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::bench::stolen_ticks;

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

/// Changes that are made one after the other, and which of them count: how long one takes while the host has the processors says nothing of
/// the mesh. If the host does so all the time, those count too.
#[derive(Debug)]
pub struct Changes {
    wanted: usize,
    made: usize,
    counted: usize,
    stolen: u64,
}

impl Changes {
    /// Until so many count, and at most three times as many.
    pub fn new(wanted: usize) -> Changes {
        Changes {
            wanted,
            made: 0,
            counted: 0,
            stolen: 0,
        }
    }

    /// To be asked before each: false when enough of them count.
    ///
    /// # Errors
    /// `/proc/stat` is unreadable.
    pub fn begin(&mut self) -> Result<bool> {
        self.stolen = stolen()?;
        self.made += 1;
        Ok(self.counted < self.wanted)
    }

    /// Whether the one that has been made counts.
    ///
    /// # Errors
    /// `/proc/stat` is unreadable.
    pub fn counts(&mut self) -> Result<bool> {
        let may_be_spared = self.wanted * 3 - self.made >= self.wanted - self.counted;
        let counts = stolen()? == self.stolen || !may_be_spared;
        self.counted += usize::from(counts);
        Ok(counts)
    }
}

fn stolen() -> Result<u64> {
    stolen_ticks(&fs::read_to_string("/proc/stat")?).context("/proc/stat is unreadable")
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_changes_count_whatever_the_host_does() {
        let mut changes = Changes::new(4);
        let (mut made, mut counted) = (0, 0);
        while changes.begin().unwrap() {
            made += 1;
            if made % 2 == 0 {
                changes.stolen += 1;
            }
            counted += usize::from(changes.counts().unwrap());
        }
        assert_eq!(counted, 4);
        assert!((4..=12).contains(&made), "{made}");
        let mut disturbed = Changes::new(4);
        for made in 1..=12 {
            assert!(disturbed.begin().unwrap());
            disturbed.stolen += 1;
            assert_eq!(disturbed.counts().unwrap(), made > 8, "{made}");
        }
        assert!(!disturbed.begin().unwrap());
    }
}
