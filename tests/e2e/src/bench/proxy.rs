//! What the kernel says about a node proxy's process.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tulle_lab::wait_until;

use super::{Mode, stage::Stage};

/// A node proxy that runs.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) side: &'static str,
    pub(super) node: &'static str,
    pub(super) process: i32,
}

/// How much of the machine a process holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Holdings {
    /// All memory that is resident, the program's own file included, in bytes.
    pub(super) resident: f64,
    /// What its code has allocated and not freed, in bytes: unlike resident memory it has nothing in it that was needed once. Nothing
    /// where the program does not tell.
    pub(super) live: Option<f64>,
    /// What runs on its data plane: a few for each pod and each connection. Nothing where the program does not tell.
    pub(super) tasks: Option<f64>,
    pub(super) descriptors: f64,
    pub(super) threads: f64,
}

impl Proxy {
    pub(super) fn holdings(&self, stage: &Stage) -> Result<Holdings> {
        let status = self.read("status")?;
        let value = |key| {
            let value = field(&status, key);
            let value = value.with_context(|| format!("the {}'s proxy: no {key}", self.side))?;
            anyhow::Ok(value as f64)
        };
        let files = self.path("fd");
        let descriptors = fs::read_dir(&files).with_context(|| files.clone())?.count();
        // Only our own proxy tells these; of another one no figure is made of them.
        let metrics = match stage.mode() {
            Mode::Ztunnel => None,
            Mode::Direct | Mode::Tulle => Some(stage.metrics(self.node)?),
        };
        let metric = |name| {
            let Some(metrics) = &metrics else {
                return Ok(None);
            };
            let value = field(metrics, name);
            let value = value.with_context(|| format!("the {}'s proxy: no {name}", self.side))?;
            anyhow::Ok(Some(value as f64))
        };
        Ok(Holdings {
            live: metric("process_heap_live_bytes ")?,
            tasks: metric("process_tasks ")?,
            resident: value("VmRSS:")? * KIB,
            descriptors: descriptors as f64,
            threads: value("Threads:")?,
        })
    }

    /// The same, once nothing has changed for a while: what a start, or new pods, needed has gone back by then, and what runs now and then
    /// has come.
    pub(super) fn holdings_at_rest(&self, stage: &Stage) -> Result<Holdings> {
        let mut last = self.size()?;
        let mut quiet = 0;
        let mut read = Ok(());
        let is_at_rest = wait_until(Instant::now() + REST_DEADLINE, || {
            wait_until(Instant::now() + LOOKS, || false);
            let now = match self.size() {
                Ok(now) => now,
                Err(error) => {
                    read = Err(error);
                    return true;
                }
            };
            let is_quiet = now.descriptors == last.descriptors
                && now.resident.abs_diff(last.resident) <= QUIET_KIB;
            quiet = if is_quiet { quiet + 1 } else { 0 };
            last = now;
            quiet >= QUIET_LOOKS
        });
        read?;
        ensure!(
            is_at_rest,
            "the {}'s proxy did not come to rest within {REST_DEADLINE:?}",
            self.side
        );
        self.holdings(stage)
    }

    /// Asks the kernel only: to answer a question is no rest.
    fn size(&self) -> Result<Size> {
        let resident = field(&self.read("status")?, "VmRSS:");
        let files = self.path("fd");
        Ok(Size {
            resident: resident.with_context(|| format!("the {}'s proxy: no VmRSS", self.side))?,
            descriptors: fs::read_dir(&files).with_context(|| files.clone())?.count(),
        })
    }

    /// How much processor time it has used in its life.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        // Its cgroup is its own and counts in microseconds; `/proc/PID/stat` would in hundredths of a second.
        let cgroup = self.read("cgroup")?;
        let folder = cgroup
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .context("the proxy is in no cgroup of version 2")?;
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        let root = cgroup_root(&mounts).context("no cgroup of version 2 is mounted")?;
        let path = format!("{root}{folder}/cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let micros = field(&text, "usage_usec").with_context(|| path)?;
        Ok(Duration::from_micros(micros))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| format!("the {}'s proxy: {path}", self.side))
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.process)
    }
}

/// The number after `key` at the beginning of a line.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Where cgroups of version 2 are mounted.
fn cgroup_root(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then_some(path)
    })
}

/// What is looked at to tell rest.
struct Size {
    /// In KiB.
    resident: u64,
    descriptors: usize,
}

const KIB: f64 = 1024.0;
const LOOKS: Duration = Duration::from_secs(1);
/// Longer than what happens now and then takes to come again, which is ten seconds.
const QUIET_LOOKS: u32 = 14;
/// What a process changes by at rest.
const QUIET_KIB: u64 = 128;
const REST_DEADLINE: Duration = Duration::from_secs(90);
