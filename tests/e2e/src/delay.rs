//! How long changes take, judged against what the machine lets anybody wait.
//!
//! A change passes from program to program, and each of them has to be given a processor. On a machine that also compiles something
//! that is what is measured; so a thread that does nothing but wake up tells how late it was, and a chain of so many programs may be
//! as late as so many of its wake-ups. On an idle machine this adds less than a millisecond.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

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

    /// Demands that 99 of 100 stay below `target`, besides what the machine made each of `programs` wait.
    ///
    /// # Errors
    /// They did not.
    pub fn ensure_p99(
        &self,
        what: &str,
        target: Duration,
        programs: u32,
        late: &Delays,
    ) -> Result<()> {
        let p99 = self.percentile(99);
        let machine = late.percentile(99) * programs;
        ensure!(
            p99 <= target + machine,
            "{what} took {p99:?} in 99 of 100 cases, expected at most {target:?} and {machine:?} of the machine's own"
        );
        Ok(())
    }
}

/// Watches how late a thread is that only wants to wake up.
#[derive(Debug)]
pub struct MachineWatch {
    is_over: Sender<()>,
    thread: JoinHandle<Delays>,
}

impl MachineWatch {
    /// Watches from now on.
    pub fn start() -> MachineWatch {
        let (is_over, heard) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut late = Delays::default();
            loop {
                let began = Instant::now();
                match heard.recv_timeout(PAUSE) {
                    Err(RecvTimeoutError::Timeout) => {
                        late.push(began.elapsed().saturating_sub(PAUSE));
                    }
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return late,
                }
            }
        });
        MachineWatch { is_over, thread }
    }

    /// How late the wake-ups were; prints them.
    pub fn end(self) -> Delays {
        drop(self.is_over);
        let late = self.thread.join().unwrap_or_default();
        late.print("the machine's own delay of a wake-up");
        late
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Between two looks at the machine.
const PAUSE: Duration = Duration::from_millis(3);
