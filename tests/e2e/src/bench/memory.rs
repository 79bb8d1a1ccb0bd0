//! The node proxies' memory: idle, and with idle connections through them.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    process::ChildStdout,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    Settings,
    proxy::Memory,
    stage::{Stage, TWO_NODES},
};

/// What one proxy needed.
#[derive(Debug)]
pub(super) struct ProxyMemory {
    pub(super) node: &'static str,
    pub(super) side: &'static str,
    pub(super) idle: Memory,
    pub(super) loaded: Memory,
    pub(super) connections: usize,
}

/// Measures the proxies of both nodes of the path between nodes.
pub(super) fn measure(mesh: &Stage, settings: &Settings) -> Result<Vec<ProxyMemory>> {
    let proxies = mesh.proxies(TWO_NODES)?;
    let read = || {
        proxies
            .iter()
            .map(|proxy| proxy.memory())
            .collect::<Result<Vec<Memory>>>()
    };
    let idle = read()?;
    let mut child = mesh.hold(settings, TWO_NODES, settings.connections)?;
    let stdout = child
        .stdout
        .take()
        .context("the load has no standard output")?;
    // On an error the rig goes down, and the load with it.
    if let Err(error) = wait_until_held(stdout) {
        child.kill()?;
        let output = child.wait_with_output()?;
        bail!("{error:#}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let loaded = read()?;
    super::stage::finish(child, RELEASE_DEADLINE)?;
    let sides = ["client", "server"];
    let measured = proxies.iter().zip(sides).zip(idle.into_iter().zip(loaded));
    let connections = settings.connections;
    Ok(measured
        .map(|((proxy, side), (idle, loaded))| ProxyMemory {
            node: proxy.node,
            side,
            idle,
            loaded,
            connections,
        })
        .collect())
}

/// Waits for the word that all connections stand.
fn wait_until_held(stdout: ChildStdout) -> Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line).map(|_| line);
        // Nobody listens any more if the deadline is over.
        sender.send(read).ok();
    });
    let line = receiver
        .recv_timeout(HOLD_DEADLINE)
        .context("the connections do not stand")??;
    match line.trim() {
        "held" => Ok(()),
        other => bail!("the load said `{other}`, expected `held`"),
    }
}

impl ProxyMemory {
    pub(super) fn json(&self) -> Value {
        let memory = |memory: Memory| json!({ "resident_bytes": memory.resident, "anonymous_bytes": memory.anonymous });
        json!({
            "node": self.node,
            "side": self.side,
            "connections": self.connections,
            "idle": memory(self.idle),
            "loaded": memory(self.loaded),
        })
    }
}

impl fmt::Display for ProxyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "node proxy of the {}: {:.1} MB idle, {:.1} MB with {} connections",
            self.side,
            mega(self.idle.resident),
            mega(self.loaded.resident),
            self.connections
        )
    }
}

const HOLD_DEADLINE: Duration = Duration::from_secs(60);
const RELEASE_DEADLINE: Duration = Duration::from_secs(30);
