//! What the kernel says of a process: memory and processor time.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// A process that is watched.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub i32);

impl Process {
    /// Resident memory in bytes, the program's own file included.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).context(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(kib.context("no VmRSS")? * 1024)
    }

    /// Processor time of all its threads that still run. Nanoseconds, unlike `/proc/PID/stat` with its hundredths.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn processor_time(self) -> Result<Duration> {
        let tasks = format!("/proc/{}/task", self.0);
        let mut nanoseconds = 0;
        for task in fs::read_dir(&tasks).context(tasks)? {
            // A thread may have ended in the meantime.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let ran = text.split_whitespace().next().and_then(|n| n.parse().ok());
            nanoseconds += ran.unwrap_or(0_u64);
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}
