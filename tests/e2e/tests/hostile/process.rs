//! What a process costs, before and after.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tulle_e2e::rig::Rig;

/// A component's process at one moment.
#[derive(Debug)]
pub(crate) struct Process {
    id: i32,
    resident_kib: u64,
    peak_kib: u64,
    files: usize,
}

impl Process {
    pub(crate) fn of(rig: &Rig, component: &str) -> Result<Process> {
        let id = rig
            .lab
            .process(component)?
            .with_context(|| format!("{component} does not run"))?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line
                .and_then(|line| line.split_whitespace().next())
                .context("no field")?;
            Ok(number.parse()?)
        };
        Ok(Process {
            id,
            resident_kib: field("VmRSS:")?,
            peak_kib: field("VmHWM:")?,
            files: fs::read_dir(format!("/proc/{id}/fd"))?.count(),
        })
    }

    /// Waits until the component has given back what it took; it must be the same process.
    pub(crate) fn is_as_before(&self, rig: &Rig, component: &str) -> Result<()> {
        let mut now = Process::of(rig, component)?;
        let settled = rig.wait_for("its files are closed", SETTLE, || {
            now = Process::of(rig, component)?;
            ensure!(
                now.files <= self.files + FILES_GROWTH_MAX,
                "{} files",
                now.files
            );
            Ok(true)
        });
        eprintln!("{component}: before {self:?}, after {now:?}");
        ensure!(
            now.id == self.id,
            "it was process {}, it is {}",
            self.id,
            now.id
        );
        let growth_kib = now.peak_kib.saturating_sub(self.resident_kib);
        ensure!(
            growth_kib < MEMORY_GROWTH_MAX_KIB,
            "its memory grew by up to {growth_kib} KiB"
        );
        settled.with_context(|| format!("it had {} open files", self.files))
    }
}

/// Tunnels of the good requests and the like.
const FILES_GROWTH_MAX: usize = 16;
/// At any moment, not only in the end.
const MEMORY_GROWTH_MAX_KIB: u64 = 64 * 1024;
const SETTLE: Duration = Duration::from_secs(30);
