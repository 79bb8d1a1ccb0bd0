//! A rig with the servers and the client of the measurements.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tulle_lab::{BUILT_IN, DownGuard, Kind, Lab, LabConfig, ObjectKey, UpOptions, wait_until};

use super::{Mode, Settings, figure::Load, proxy::Proxy};
use crate::rig::{READY_DEADLINE, streams};

/// Where a server is, seen from the client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) path: &'static str,
    cluster: &'static str,
    node: &'static str,
}

/// The paths that are measured.
pub(super) const PATHS: [Place; 3] = [
    Place {
        path: "same node",
        cluster: CLIENT_CLUSTER,
        node: CLIENT_NODE,
    },
    Place {
        path: "two nodes",
        cluster: CLIENT_CLUSTER,
        node: "koornacht-worker2",
    },
    Place {
        path: "two clusters",
        cluster: "tion",
        node: "tion-worker",
    },
];
/// The path between two nodes of one cluster.
pub(super) const TWO_NODES: usize = 1;

/// A rig that is up, with a server for each path.
#[derive(Debug)]
pub(super) struct Stage {
    lab: Lab,
    mode: Mode,
    servers: Vec<SocketAddr>,
    _down: DownGuard,
}

impl Stage {
    /// Brings the rig up and proves every path with one round trip.
    pub(super) fn up(mode: Mode, settings: &Settings) -> Result<Stage> {
        let rig = mode.rig();
        let config = LabConfig::parse(rig, &config_text(mode, settings.sockmap.as_deref()))?;
        // The guard exists before the rig does, so that half a rig is removed as well.
        let down = DownGuard::fresh(rig)?;
        let lab = Lab::up(UpOptions {
            config: Some(config),
            binaries: Some(settings.binaries.clone()),
            ..UpOptions::default()
        })
        .with_context(|| format!("rig {rig} does not come up"))?;
        let mut stage = Stage {
            lab,
            mode,
            servers: Vec::new(),
            _down: down,
        };
        stage.create_pod(CLIENT_CLUSTER, CLIENT_NODE, CLIENT, &["sleep", "100000"])?;
        for (index, place) in PATHS.iter().enumerate() {
            let name = format!("server-{index}");
            let load = text(&settings.load)?;
            let listen = format!("0.0.0.0:{PORT}");
            stage.create_pod(place.cluster, place.node, &name, &[load, "serve", &listen])?;
            let address = stage.address(place.cluster, &name)?;
            stage.servers.push(SocketAddr::new(address, PORT));
        }
        for index in 0..PATHS.len() {
            stage.prove(settings, index)?;
        }
        Ok(stage)
    }

    /// Runs a load on a path and returns what it printed.
    pub(super) fn run(&self, settings: &Settings, path: usize, load: Load) -> Result<Value> {
        let (word, mut more) = load.arguments();
        more.extend(["--seconds".to_owned(), settings.seconds.to_string()]);
        let child = self.start(settings, path, word, &more)?;
        let limit = Duration::from_secs(settings.seconds) + LOAD_OVERTIME;
        let what = || format!("{}, {}, {load:?}", self.mode.rig(), PATHS[path].path);
        let output = finish(child, limit).with_context(what)?;
        serde_json::from_slice(&output.stdout).with_context(what)
    }

    /// Starts idle connections; they end when the child's standard input does.
    pub(super) fn hold(&self, settings: &Settings, path: usize, count: usize) -> Result<Child> {
        self.start(
            settings,
            path,
            "hold",
            &["--connections".to_owned(), count.to_string()],
        )
    }

    /// The proxies of a path: the client's, then the server's if that is another one.
    pub(super) fn proxies(&self, path: usize) -> Result<Vec<Proxy>> {
        let mut nodes = vec![CLIENT_NODE, PATHS[path].node];
        nodes.dedup();
        nodes
            .into_iter()
            .map(|node| Proxy::of(&self.lab, node))
            .collect()
    }

    fn start(
        &self,
        settings: &Settings,
        path: usize,
        word: &str,
        more: &[String],
    ) -> Result<Child> {
        let server = self.servers[path].to_string();
        let mut command = vec![text(&settings.load)?, word, &server];
        command.extend(more.iter().map(String::as_str));
        Ok(self
            .lab
            .spawn(CLIENT_CLUSTER, &format!("pod/{CLIENT}"), &command)?)
    }

    /// Waits until a round trip succeeds: a server that has just started may not listen yet, and the mesh has to learn of it.
    fn prove(&self, settings: &Settings, path: usize) -> Result<()> {
        let mut last = Ok(());
        let proven = wait_until(Instant::now() + READY_DEADLINE, || {
            last = self
                .hold(settings, path, 1)
                .and_then(|child| finish(child, LOAD_OVERTIME))
                .map(drop);
            last.is_ok()
        });
        let what = || format!("{}, {}: no round trip", self.mode.rig(), PATHS[path].path);
        last.with_context(what)?;
        ensure!(proven, "{} within {READY_DEADLINE:?}", what());
        Ok(())
    }

    fn create_pod(&self, cluster: &str, node: &str, name: &str, command: &[&str]) -> Result<()> {
        let command = serde_json::to_string(command)?;
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{name: {name}}}\nspec:\n  nodeName: {node}\n  \
             containers:\n  - name: main\n    image: tulle.test/host:1\n    command: {command}\n"
        );
        self.lab.apply_text(cluster, &manifest)?;
        let key = ObjectKey::new(Kind::Pod, NAMESPACE, name);
        Ok(self.lab.wait_pod_ready(cluster, &key, READY_DEADLINE)?)
    }

    fn address(&self, cluster: &str, pod: &str) -> Result<IpAddr> {
        let key = ObjectKey::new(Kind::Pod, NAMESPACE, pod);
        let object = self.lab.api(cluster)?.get(&key)?;
        let address = object
            .as_ref()
            .and_then(|pod| pod.value.pointer("/status/podIP")?.as_str());
        let address = address.with_context(|| format!("{cluster} {pod}: no address"))?;
        address
            .parse()
            .with_context(|| format!("{cluster} {pod}: {address}"))
    }
}

impl Mode {
    fn rig(self) -> &'static str {
        match self {
            Mode::Direct => "plain",
            Mode::Mesh => "bench",
        }
    }
}

/// Waits until a load has ended well; its standard input ends at once.
pub(super) fn finish(mut child: Child, limit: Duration) -> Result<Output> {
    drop(child.stdin.take());
    let mut state = Ok(None);
    let ended = wait_until(Instant::now() + limit, || {
        state = child.try_wait();
        !matches!(state, Ok(None))
    });
    if !ended {
        child.kill()?;
    }
    state.context("the load cannot be waited for")?;
    let output = child.wait_with_output()?;
    ensure!(ended, "not ended within {limit:?}: {}", streams(&output));
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        streams(&output)
    );
    Ok(output)
}

/// The built-in lab's file with another rig's name, with or without the mesh.
pub(super) fn config_text(mode: Mode, sockmap: Option<&str>) -> String {
    let kept = BUILT_IN
        .lines()
        .filter(|line| !line.starts_with("rig:") && !line.starts_with("mesh:"));
    let mut lines = vec![format!("rig: {}", mode.rig())];
    lines.push(match mode {
        Mode::Direct => "mesh: none".to_owned(),
        Mode::Mesh => "mesh: tulle".to_owned(),
    });
    if let (Mode::Mesh, Some(sockmap)) = (mode, sockmap) {
        lines.push(format!("nodeProxyArguments: [--sockmap, {sockmap:?}]"));
    }
    lines.extend(kept.map(str::to_owned));
    lines.join("\n") + "\n"
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not valid UTF-8", path.display()))
}

const CLIENT_CLUSTER: &str = "koornacht";
const CLIENT_NODE: &str = "koornacht-worker";
const CLIENT: &str = "client";
const NAMESPACE: &str = "default";
const PORT: u16 = 7400;
/// How much longer than its own time a load may take, until all it has sent has arrived.
const LOAD_OVERTIME: Duration = Duration::from_secs(30);
