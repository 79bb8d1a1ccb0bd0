//! What the kernel says about this process: memory, open files, processor time.

use std::{fs, time::SystemTime};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use rustix::process::{Resource, getrlimit};

use super::encode_gauge;

/// Reads `/proc/self` whenever metrics are asked for.
#[derive(Debug)]
pub struct ProcessCollector {
    started: SystemTime,
}

impl ProcessCollector {
    /// A collector for the calling process; `started` is when it began.
    pub fn new(started: SystemTime) -> Self {
        ProcessCollector { started }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<i64>| {
            encode_gauge(&mut encoder, name, help, value)
        };
        let memory = fs::read_to_string("/proc/self/status").unwrap_or_default();
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            kib_line(&memory, "VmRSS:"),
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory",
            kib_line(&memory, "VmSize:"),
        )?;
        gauge(
            "process_threads",
            "Threads",
            number_line(&memory, "Threads:"),
        )?;
        let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        gauge(
            "process_open_fds",
            "Open files",
            open.and_then(|n| i64::try_from(n).ok()),
        )?;
        let max = getrlimit(Resource::Nofile)
            .current
            .and_then(|n| i64::try_from(n).ok());
        gauge("process_max_fds", "Most files that may be open", max)?;
        let since = self.started.duration_since(SystemTime::UNIX_EPOCH).ok();
        let since = since.and_then(|d| i64::try_from(d.as_secs()).ok());
        gauge(
            "process_start_time_seconds",
            "When the process began (Unix time)",
            since,
        )
    }
}

fn kib_line(status: &str, key: &str) -> Option<i64> {
    number_line(status, key)?.checked_mul(1024)
}

fn number_line(status: &str, key: &str) -> Option<i64> {
    let line = status.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
