//! A rig with the servers and the client of the measurements.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    path::Path as FilePath,
    process::{Child, Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tulle_lab::{BUILT_IN, DownGuard, Kind, Lab, LabConfig, ObjectKey, UpOptions, wait_until};

use super::{
    Mode, Settings,
    peer::PeerNodes,
    place::{IN_CLUSTER, PATHS, Path},
    proxy::Proxy,
};
use crate::rig::{PROXY_ADMIN_PORT, READY_DEADLINE, http_get, streams, sum_of};

/// A rig that is up, with a server for each path.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) lab: Lab,
    mode: Mode,
    servers: Vec<SocketAddr>,
    /// What runs in the node proxies' place.
    peer: Option<PeerNodes>,
    _down: DownGuard,
}

impl Stage {
    /// Brings the rig up and proves every path with one round trip.
    pub(super) fn up(mode: Mode, settings: &Settings) -> Result<Stage> {
        let rig = mode.rig();
        let config = LabConfig::parse(rig, &config_text(mode, &settings.node_proxy_arguments()))?;
        // The guard exists before the rig does, so that half a rig is removed as well.
        let down = DownGuard::fresh(rig)?;
        let lab = Lab::up(UpOptions {
            config: Some(config),
            clusters: mode.clusters(),
            binaries: Some(settings.binaries.clone()),
            ..UpOptions::default()
        })
        .with_context(|| format!("rig {rig} does not come up"))?;
        let peer = settings
            .peer
            .as_ref()
            .filter(|_| mode == Mode::Ztunnel)
            .map(|peer| PeerNodes::start(&lab, peer, &IN_CLUSTER.map(Path::node)))
            .transpose()
            .with_context(|| format!("rig {rig}"))?;
        let mut stage = Stage {
            lab,
            mode,
            servers: Vec::new(),
            peer,
            _down: down,
        };
        stage.create_pod(CLIENT_CLUSTER, CLIENT_NODE, CLIENT, &["sleep", "100000"])?;
        for path in mode.paths() {
            let path = *path;
            let name = server_name(path);
            let load = text(&settings.load)?;
            let listen = format!("0.0.0.0:{PORT}");
            let (cluster, node) = (path.cluster(), path.node());
            stage.create_pod(cluster, node, &name, &[load, "serve", &listen])?;
            let address = stage.address(cluster, &name)?;
            stage.servers.push(SocketAddr::new(address, PORT));
        }
        match mode {
            Mode::Direct => {}
            Mode::Tulle => {
                for cluster in [CLIENT_CLUSTER, OTHER_CLUSTER] {
                    stage.lab.apply_text(cluster, POLICY)?;
                }
            }
            Mode::Ztunnel => drop(stage.lab.apply_text(CLIENT_CLUSTER, PEER_POLICY)?),
        }
        for path in mode.paths() {
            stage.prove(settings, *path)?;
        }
        Ok(stage)
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Where the server of a path listens.
    pub(super) fn server(&self, path: Path) -> Result<SocketAddr> {
        let server = self.servers.get(path.index()).copied();
        server.with_context(|| format!("there is no server for {path}"))
    }

    /// Starts the load program beside the client.
    pub(super) fn start_load(&self, settings: &Settings, arguments: &[&str]) -> Result<Child> {
        self.start(&[&[text(&settings.load)?], arguments].concat())
    }

    /// Starts a program in the client's pod.
    pub(super) fn start(&self, command: &[&str]) -> Result<Child> {
        self.start_in(CLIENT, command)
    }

    /// Starts a program in a pod of the client's cluster.
    pub(super) fn start_in(&self, pod: &str, command: &[&str]) -> Result<Child> {
        let target = format!("pod/{pod}");
        Ok(self.lab.spawn(CLIENT_CLUSTER, &target, command)?)
    }

    /// The proxies of a path: the client's, then the server's if that is another one.
    pub(super) fn proxies(&self, path: Path) -> Result<Vec<Proxy>> {
        if self.mode == Mode::Direct {
            return Ok(Vec::new());
        }
        let mut nodes = vec![("client", CLIENT_NODE), ("server", path.node())];
        nodes.dedup_by_key(|(_, node)| *node);
        nodes
            .into_iter()
            .map(|(side, node)| {
                let process = self.proxy_process(node)?;
                Ok(Proxy {
                    side,
                    node,
                    process,
                })
            })
            .collect()
    }

    /// What tells the proxies of the client's cluster about it.
    pub(super) fn xds_server(&self) -> Result<Proxy> {
        let process = self.lab.process(&format!("{CLIENT_CLUSTER}/xds-server"))?;
        Ok(Proxy {
            side: "xds-server",
            node: "",
            process: process.context("no xds-server runs")?,
        })
    }

    fn proxy_process(&self, node: &str) -> Result<i32> {
        let process = match self.peer {
            Some(_) => self.lab.foreign_process(node)?,
            None => self.lab.process(&format!("{node}/node-proxy"))?,
        };
        process.with_context(|| format!("no proxy runs on {node}"))
    }

    /// What the proxy of a node counts under a name, all labels together.
    pub(super) fn metric(&self, node: &str, name: &str) -> Result<u64> {
        Ok(sum_of(&self.metrics(node)?, name, &[] as &[&str]))
    }

    /// Everything that the proxy of a node counts.
    pub(super) fn metrics(&self, node: &str) -> Result<String> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PROXY_ADMIN_PORT);
        let text = self.lab.inside_node(node, || http_get(admin, "/metrics"))?;
        text.with_context(|| format!("the metrics of {node}"))
    }

    /// Makes the proxies of a path forget what earlier loads made them take.
    pub(super) fn restart_proxies(&self, settings: &Settings, path: Path) -> Result<()> {
        let mut nodes = vec![CLIENT_NODE, path.node()];
        nodes.dedup();
        for node in nodes {
            if let Some(peer) = &self.peer {
                peer.restart(&self.lab, node)?;
                continue;
            }
            let component = format!("{node}/node-proxy");
            self.lab.stop(&component)?;
            self.lab.start(&component)?;
        }
        self.prove(settings, path)
    }

    /// Runs a command of the machine's own inside the network namespace of a pod of the client's cluster.
    pub(super) fn inside(&self, pod: &str, command: &[&str]) -> Result<()> {
        let path = self.lab.pod_namespace(CLIENT_CLUSTER, NAMESPACE, pod);
        run_inside(&path, command)
    }

    /// Waits until a round trip succeeds: a server that has just started may not listen yet, and the mesh has to learn of it.
    fn prove(&self, settings: &Settings, path: Path) -> Result<()> {
        let server = self.server(path)?.to_string();
        self.prove_address(settings, &server)
            .with_context(|| format!("{}, {path}", self.mode))
    }

    /// The same for any address.
    pub(super) fn prove_address(&self, settings: &Settings, server: &str) -> Result<()> {
        let mut last = Ok(());
        let proven = wait_until(Instant::now() + READY_DEADLINE, || {
            last = self
                .start_load(settings, &["hold", server, "--connections", "1"])
                .and_then(|child| finish(child, READY_DEADLINE))
                .map(drop);
            last.is_ok()
        });
        last.with_context(|| format!("no round trip to {server}"))?;
        ensure!(
            proven,
            "no round trip to {server} within {READY_DEADLINE:?}"
        );
        Ok(())
    }

    /// A pod that runs `command` on the host's root file system, labelled with its own name.
    pub(super) fn create_pod(
        &self,
        cluster: &str,
        node: &str,
        name: &str,
        command: &[&str],
    ) -> Result<()> {
        self.lab
            .apply_text(cluster, &manifest(node, name, command)?)?;
        let key = ObjectKey::new(Kind::Pod, NAMESPACE, name);
        Ok(self.lab.wait_pod_ready(cluster, &key, READY_DEADLINE)?)
    }

    /// Applies many objects to the client's cluster in one change.
    pub(super) fn apply_many(&self, manifests: &[String]) -> Result<()> {
        self.lab
            .apply_text(CLIENT_CLUSTER, &manifests.join("\n---\n"))?;
        Ok(())
    }

    pub(super) fn delete_pod(&self, name: &str) -> Result<()> {
        let key = ObjectKey::new(Kind::Pod, NAMESPACE, name);
        self.lab.delete(CLIENT_CLUSTER, &key)?;
        Ok(())
    }

    pub(super) fn address(&self, cluster: &str, pod: &str) -> Result<IpAddr> {
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

impl Path {
    pub(super) fn cluster(self) -> &'static str {
        match self {
            Path::SameNode | Path::TwoNodes => CLIENT_CLUSTER,
            Path::TwoClusters => OTHER_CLUSTER,
        }
    }

    pub(super) fn node(self) -> &'static str {
        match self {
            Path::SameNode => CLIENT_NODE,
            Path::TwoNodes => "koornacht-worker2",
            Path::TwoClusters => "tion-worker",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Mode {
    fn rig(self) -> &'static str {
        match self {
            Mode::Direct => "plain",
            Mode::Tulle => "bench",
            Mode::Ztunnel => "ztunnel",
        }
    }

    /// Where it is asked at all.
    fn paths(self) -> &'static [Path] {
        match self {
            Mode::Direct | Mode::Tulle => &PATHS,
            Mode::Ztunnel => &IN_CLUSTER,
        }
    }

    /// The clusters that it needs; all if none is named.
    fn clusters(self) -> Vec<String> {
        match self {
            Mode::Direct | Mode::Tulle => Vec::new(),
            Mode::Ztunnel => vec![CLIENT_CLUSTER.to_owned()],
        }
    }
}

pub(super) fn server_name(path: Path) -> String {
    format!("server-{}", path.index())
}

/// A pod's manifest.
pub(super) fn manifest(node: &str, name: &str, command: &[&str]) -> Result<String> {
    let command = serde_json::to_string(command)?;
    Ok(format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{name: {name}}}\nspec:\n  nodeName: {node}\n  \
         containers:\n  - name: main\n    image: tulle.test/host:1\n    command: {command}\n"
    ))
}

/// Runs a command of the machine's own inside a network namespace.
pub(super) fn run_inside(namespace: &FilePath, command: &[&str]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("there is no command to run");
    };
    let file = File::open(namespace).with_context(|| namespace.display().to_string())?;
    // The namespace is a thread's; the child has that of the thread that makes it.
    let output = thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<Output> {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            let output = Command::new(program).args(arguments).output();
            output.with_context(|| (*program).to_owned())
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("{program} broke off")))
    })?;
    let text = streams(&output);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {text}",
        output.status
    );
    Ok(())
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

/// The built-in lab's file with another rig's name, with or without the mesh, and with room for ten thousand services.
pub(super) fn config_text(mode: Mode, arguments: &[&str]) -> String {
    let kept = BUILT_IN
        .lines()
        .filter(|line| !line.starts_with("rig:") && !line.starts_with("mesh:"));
    let mut lines = vec![format!("rig: {}", mode.rig())];
    lines.push(match mode {
        Mode::Direct => "mesh: none".to_owned(),
        Mode::Tulle => "mesh: tulle".to_owned(),
        Mode::Ztunnel => "mesh: control-plane".to_owned(),
    });
    if mode == Mode::Tulle && !arguments.is_empty() {
        // A list of texts is the same in Rust's notation and in YAML's.
        lines.push(format!("nodeProxyArguments: {arguments:?}"));
    }
    lines.extend(kept.map(|line| match line.trim() {
        "serviceSubnet: 172.20.1.0/24" => "  serviceSubnet: 172.21.0.0/16".to_owned(),
        "serviceSubnet: 172.20.2.0/24" => "  serviceSubnet: 172.22.0.0/16".to_owned(),
        _ => line.to_owned(),
    }));
    lines.join("\n") + "\n"
}

fn text(path: &FilePath) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not valid UTF-8", path.display()))
}

/// A mesh without a policy is no mesh: what comes in has to be judged, and passes.
const POLICY: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: bench}\nspec:\n  endpointSelector:\n    \
    matchExpressions: [{key: name, operator: In, values: [server-0, server-1, server-2]}]\n  ingress:\n  - fromEndpoints:\n    - \
    matchExpressions:\n      - {key: name, operator: In, values: [client, churner]}\n      - \
    {key: io.cilium.k8s.policy.cluster, operator: Exists}\n";

/// The same in the language that a ztunnel is told.
const PEER_POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: bench}\nspec:\n  action: ALLOW\n  \
    rules:\n  - from:\n    - source:\n        principals: [koornacht.tulle/ns/default/sa/default]\n";

pub(super) const CLIENT_CLUSTER: &str = "koornacht";
const OTHER_CLUSTER: &str = "tion";
pub(super) const CLIENT_NODE: &str = "koornacht-worker";
pub(super) const CLIENT: &str = "client";
pub(super) const NAMESPACE: &str = "default";
pub(super) const PORT: u16 = 7400;
