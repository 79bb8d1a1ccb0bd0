//! What the figures were seen on.

use std::{fmt, fs, process::Command, thread::available_parallelism};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// The machine, its kernel, the day, and how busy it was before the run.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) processor: String,
    pub(super) kernel: String,
    pub(super) date: String,
    /// How many threads wanted to run, on average over a minute.
    pub(super) load: f64,
}

impl Machine {
    pub(super) fn look() -> Result<Machine> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let processors = read("/proc/cpuinfo")?;
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let load = read("/proc/loadavg")?;
        let load = load
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        let date = Command::new("date")
            .args(["-u", "+%Y-%m-%d"])
            .output()
            .context("date")?;
        ensure!(date.status.success(), "date: {}", date.status);
        Ok(Machine {
            cores: available_parallelism()?.get(),
            // Not every architecture names its model.
            processor: model
                .map_or(std::env::consts::ARCH, |(_, name)| name.trim())
                .to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
            load: load.context("/proc/loadavg is unreadable")?,
        })
    }

    /// Whether others used so much of the machine that the figures are doubtful.
    pub(super) fn was_busy(&self) -> bool {
        self.load > self.cores as f64 * BUSY_SHARE
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "kernel": self.kernel,
            "load_average": self.load,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            cores,
            processor,
            kernel,
            date,
            load,
        } = self;
        write!(
            f,
            "{date}, {cores} cores of {processor}, Linux {kernel}, load average {load:.1} at the start"
        )
    }
}

const BUSY_SHARE: f64 = 0.25;
