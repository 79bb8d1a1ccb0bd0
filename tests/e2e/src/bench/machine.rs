//! What the figures were seen on, and what else it did meanwhile.

use std::{fmt, fs, process::Command, thread::available_parallelism};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// The machine, its kernel, the day, and how busy others kept it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) processor: String,
    pub(super) kernel: String,
    /// The system's congestion control, which all namespaces of a run begin with.
    pub(super) congestion: String,
    pub(super) date: String,
    /// How many threads wanted to run, on average over the minute before the run.
    pub(super) load: f64,
    /// The share of the last ten seconds before the run in which some thread waited for a processor, if the kernel counts that.
    pub(super) pressure: Option<f64>,
    /// The share of the processors' time that the host gave to others during the run.
    pub(super) stolen: f64,
    times: Times,
}

/// The processors' time since boot, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) all: u64,
    pub(super) stolen: u64,
}

impl Machine {
    pub(super) fn look() -> Result<Machine> {
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
            .args(["-u", "+%Y-%m-%d %H:%M"])
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
            congestion: read("/proc/sys/net/ipv4/tcp_congestion_control")?
                .trim()
                .to_owned(),
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
            load: load.context("/proc/loadavg is unreadable")?,
            pressure: read("/proc/pressure/cpu")
                .ok()
                .as_deref()
                .and_then(pressure),
            stolen: 0.0,
            times: times(&read("/proc/stat")?).context("/proc/stat is unreadable")?,
        })
    }

    /// The same at the end of the run.
    pub(super) fn after(mut self) -> Result<Machine> {
        let now = times(&read("/proc/stat")?).context("/proc/stat is unreadable")?;
        let all = now.all.saturating_sub(self.times.all);
        let stolen = now.stolen.saturating_sub(self.times.stolen);
        self.stolen = stolen as f64 / all.max(1) as f64;
        Ok(self)
    }

    /// Whether others used so much of the machine that the figures are doubtful.
    pub(super) fn was_busy(&self) -> bool {
        self.load > self.cores as f64 * BUSY_SHARE
            || self.pressure.is_some_and(|share| share > BUSY_SHARE)
            || self.stolen > STOLEN_SHARE
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "kernel": self.kernel,
            "congestion_control": self.congestion,
            "load_average": self.load,
            "cpu_pressure": self.pressure,
            "stolen": self.stolen,
            "was_busy": self.was_busy(),
        })
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

/// The first average of the line `some avg10=1.23 …`, as a share.
pub(super) fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let value = some.split_whitespace().nth(1)?.strip_prefix("avg10=")?;
    Some(value.parse::<f64>().ok()? / 100.0)
}

/// The line `cpu user nice system idle iowait irq softirq steal …`; what guests used is within `user`.
pub(super) fn times(text: &str) -> Option<Times> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(FIELDS_TO_STEAL)
        .map_while(|field| field.parse().ok())
        .collect();
    (fields.len() == FIELDS_TO_STEAL).then_some(())?;
    Some(Times {
        all: fields.iter().sum(),
        stolen: *fields.last()?,
    })
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            cores,
            processor,
            kernel,
            congestion,
            date,
            load,
            ..
        } = self;
        write!(
            f,
            "{date} UTC, {cores} cores of {processor}, Linux {kernel}, congestion control {congestion}, load average {load:.1} at the start"
        )?;
        if let Some(share) = self.pressure {
            write!(f, ", CPU pressure {:.0} %", share * 100.0)?;
        }
        if self.stolen > 0.0 {
            write!(f, ", {:.1} % stolen by the host", self.stolen * 100.0)?;
        }
        Ok(())
    }
}

const BUSY_SHARE: f64 = 0.25;
const STOLEN_SHARE: f64 = 0.05;
const FIELDS_TO_STEAL: usize = 8;
