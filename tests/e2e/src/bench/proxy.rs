//! What the kernel says about a node proxy's process.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use tulle_lab::Lab;

/// A node proxy that runs.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) node: &'static str,
    process: i32,
}

/// How much memory a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Everything that is resident, the program's own file included.
    pub(super) resident: u64,
    /// The part that no file backs.
    pub(super) anonymous: u64,
}

impl Proxy {
    /// The proxy of a node.
    pub(super) fn of(lab: &Lab, node: &'static str) -> Result<Proxy> {
        let process = lab.process(&format!("{node}/node-proxy"))?;
        let process = process.with_context(|| format!("the node proxy of {node} does not run"))?;
        Ok(Proxy { node, process })
    }

    /// How much memory it has now, in bytes.
    pub(super) fn memory(&self) -> Result<Memory> {
        let text = self.read("status")?;
        let bytes = |key| {
            let value = field(&text, key).with_context(|| format!("{}: no {key}", self.node))?;
            anyhow::Ok(value * KIB)
        };
        Ok(Memory {
            resident: bytes("VmRSS:")?,
            anonymous: bytes("RssAnon:")?,
        })
    }

    /// How much processor time it has used in its life.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        let text = self.read("stat")?;
        let ticks =
            ticks(&text).with_context(|| format!("{}: unreadable stat: {text}", self.node))?;
        Ok(Duration::from_millis(ticks * TICK_MILLIS))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.process);
        fs::read_to_string(&path)
            .with_context(|| format!("the node proxy of {}: {path}", self.node))
    }
}

/// The number after `key` at the beginning of a line.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time in `/proc/PID/stat`; the program's name before them may hold blanks and brackets.
pub(super) fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(FIELDS_BEFORE_TIMES);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

const KIB: u64 = 1024;
/// The kernel counts in hundredths of a second towards programs, whatever its own clock does (`USER_HZ`).
const TICK_MILLIS: u64 = 10;
const FIELDS_BEFORE_TIMES: usize = 11;
