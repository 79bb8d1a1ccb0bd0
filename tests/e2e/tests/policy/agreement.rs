//! The kernel and the proxies do with real connections what the rules mean: random policies of all three languages, and every pair of
//! pods, nodes and strangers tried, held against the interpreter that is written from the semantics alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tulle_e2e::{
    fast_paths::{FastPath, Uses},
    rig::{READY_DEADLINE, Rig},
};
use tulle_lab::{ClusterConfig, Kind, ObjectKey};
use tulle_model::{
    Change, Directory, NamedPort, NamespacedName, Protocol, Rules, Service, SmallMap,
    TunnelProtocol, Workload, WorkloadUid,
};
use tulle_policy::{
    DefaultCluster, ReadPolicy, ReadSettings,
    compiled::{Direction, Flow, FlowPeer, LearnedNames, ServerName},
    interpret::{IstioPolicies, Mesh, Said},
    read_policy,
};

use crate::{
    prober::{Fate, PYTHON, Prober, SCRIPT, Target, Transport},
    random_policies::{Dice, NAMESPACES, PORTS, Policy, STRANGER, policies},
};

const CLUSTER: &str = "koornacht";
/// Pods of every node reach each other; this is one of them.
const CLIENTS_NODE: &str = "koornacht-worker";
const PODS: [&str; 3] = ["a", "b", "c"];
/// From a change until every node has it and every try comes out right; a busy machine included.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);
/// A world that lets through less than this share of its tries, or more than the rest, shows little.
const SHARE_MIN: f64 = 0.2;

/// Denied connections end at once, so that a lot of them can be tried.
#[test]
fn the_kernel_agrees_with_the_interpreter() -> Result<()> {
    compare("agree", &["--denied", "reject"], 3, Duration::from_secs(3)).map(drop)
}

/// As clients meet it by default: nothing answers.
#[test]
fn the_kernel_agrees_where_denied_is_silent() -> Result<()> {
    compare("agred", &[], 1, Duration::from_millis(900)).map(drop)
}

#[test]
fn the_kernel_agrees_without_each_fast_path() -> Result<()> {
    for (fast_path, rig) in [(FastPath::Lanes, "agrhb"), (FastPath::SameNode, "agrtl")] {
        let arguments = [&["--denied", "reject"], fast_path.off()].concat();
        let scene = compare(rig, &arguments, 1, Duration::from_secs(3))?;
        fast_path.was_off(&Uses::of(&scene.rig, CLIENTS_NODE)?)?;
    }
    Ok(())
}

fn compare(rig: &str, arguments: &[&str], worlds: usize, patience: Duration) -> Result<Scene> {
    let seed = std::env::var("TULLE_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one("seed"));
    eprintln!("TULLE_SEED={seed}");
    let dice = &mut Dice(seed);
    let mut scene = Scene::up(rig, arguments, dice)?;
    let mut compared = 0;
    for world in 0..worlds {
        let chosen = scene.choose(dice)?;
        let began = Instant::now();
        scene.apply(&chosen)?;
        let count = scene.until_agreed(patience).with_context(|| {
            let texts = chosen.iter().map(|policy| policy.manifest.to_string());
            let texts: Vec<String> = texts.collect();
            format!("seed {seed}, world {world}:\n{}", texts.join("\n"))
        })?;
        let all = count.values().sum::<usize>();
        eprintln!(
            "world {world}: {} policies, {all} tries agree after {:?}: {count:?}",
            chosen.len(),
            began.elapsed()
        );
        compared += all;
    }
    ensure!(compared >= 600 * worlds, "only {compared} tries");
    Ok(scene)
}

/// Who starts a try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Pod(WorkloadUid),
    /// The router: in no cluster.
    Stranger,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Try {
    from: From,
    to: IpAddr,
    port: u16,
    transport: Transport,
}

/// What policies say together.
#[derive(Default)]
struct Meant {
    directory: Directory,
    istio: IstioPolicies,
}

struct Scene {
    rig: Rig,
    cluster: ClusterConfig,
    /// The pods and nodes, without a policy.
    directory: Directory,
    router: IpAddr,
    tries: Vec<Try>,
    probers: BTreeMap<From, Prober>,
    applied: BTreeSet<ObjectKey>,
    meant: Meant,
}

impl Scene {
    fn up(name: &str, arguments: &[&str], dice: &mut Dice) -> Result<Scene> {
        let rig = Rig::up_with(name, &[CLUSTER], arguments)?;
        let cluster = rig.lab.cluster(CLUSTER)?.clone();
        let mut directory = Directory::default();
        for namespace in NAMESPACES {
            directory.apply(Change::Service(Arc::new(web_service(namespace))));
        }
        for workload in make_pods(&rig, &cluster, dice)? {
            directory.apply(Change::Workload(Arc::new(workload)));
        }
        for node in &cluster.nodes {
            let address = IpAddr::from(cluster.node_address(node));
            let mut workload = plain_workload(&cluster, &node.name)?;
            workload.uid = WorkloadUid::of_node(&workload.cluster, &node.name);
            workload.host_network = true;
            workload.addresses = vec![address];
            directory.apply(Change::Workload(Arc::new(workload)));
            rig.lab.inside_node(&node.name, || serve(address))??;
        }
        let router = IpAddr::from(cluster.router());
        rig.lab.inside_router(|| -> Result<()> {
            let words = ["addr", "add", &format!("{STRANGER}/32"), "dev", "lo"];
            let status = Command::new("ip").args(words).status()?;
            ensure!(status.success(), "ip {words:?}: {status}");
            for address in [router, STRANGER.parse()?] {
                serve(address)?;
            }
            Ok(())
        })??;
        let mut scene = Scene {
            tries: all_tries(&directory, [router, STRANGER.parse()?]),
            probers: BTreeMap::new(),
            rig,
            cluster,
            directory,
            router,
            applied: BTreeSet::new(),
            meant: Meant::default(),
        };
        scene.start_probers()?;
        Ok(scene)
    }

    fn start_probers(&mut self) -> Result<()> {
        for pod in self.directory.workloads().filter(|w| !w.host_network) {
            let prober = Prober::start(&self.rig, CLUSTER, &pod.namespace, &pod.name)?;
            self.probers.insert(From::Pod(pod.uid.clone()), prober);
        }
        let stranger = self.rig.lab.inside_router(|| {
            Command::new(PYTHON)
                .args(["-c", SCRIPT, "probe"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        })??;
        self.probers.insert(From::Stranger, Prober::of(stranger)?);
        Ok(())
    }

    /// Policies that let some through and stop some.
    fn choose(&mut self, dice: &mut Dice) -> Result<Vec<Policy>> {
        loop {
            let chosen = policies(dice);
            self.meant = self.read(&chosen)?;
            let passing = self.tries.iter().filter(|one| self.passes(one)).count();
            let share = share_of(passing, self.tries.len());
            if (SHARE_MIN..1.0 - SHARE_MIN).contains(&share) {
                return Ok(chosen);
            }
        }
    }

    fn read(&self, policies: &[Policy]) -> Result<Meant> {
        let settings = ReadSettings {
            cluster: self.cluster.name.parse()?,
            default_cluster: DefaultCluster::Any,
        };
        let mut meant = Meant {
            directory: self.directory.clone(),
            istio: IstioPolicies::default(),
        };
        for policy in policies {
            let read = read_policy(&policy.manifest, &settings);
            match read.with_context(|| policy.manifest.to_string())? {
                ReadPolicy::Rules(read) => {
                    let rules = Rules::Network(read.rules);
                    meant.directory.apply(Change::Rules(Arc::new(rules)));
                }
                ReadPolicy::Authorization(read) => meant.istio.authorizations.push(read),
                ReadPolicy::PeerAuthentication(read) => meant.istio.peers.push(read),
            }
        }
        Ok(meant)
    }

    fn apply(&mut self, policies: &[Policy]) -> Result<()> {
        let mut text = String::new();
        for policy in policies {
            writeln!(text, "---\n{}", policy.manifest)?;
        }
        self.rig.lab.apply_text(CLUSTER, &text)?;
        let now: BTreeSet<ObjectKey> = policies.iter().map(|policy| policy.key.clone()).collect();
        for key in self.applied.difference(&now) {
            self.rig.lab.delete(CLUSTER, key)?;
        }
        self.applied = now;
        Ok(())
    }

    /// Tries everything until all of it is as it is meant at once; how often what became of it.
    fn until_agreed(&mut self, patience: Duration) -> Result<BTreeMap<String, usize>> {
        let began = Instant::now();
        loop {
            let (wrong, count) = self.wrong(patience)?;
            if wrong.is_empty() {
                return Ok(count);
            }
            if began.elapsed() > CHANGE_LIMIT {
                bail!(
                    "{} of {} tries do not agree:\n{}",
                    wrong.len(),
                    self.tries.len(),
                    wrong.into_iter().take(20).collect::<Vec<_>>().join("\n")
                );
            }
        }
    }

    fn wrong(&mut self, patience: Duration) -> Result<(Vec<String>, BTreeMap<String, usize>)> {
        let mut asked: BTreeMap<From, Vec<Try>> = BTreeMap::new();
        for one in &self.tries {
            asked.entry(one.from.clone()).or_default().push(one.clone());
        }
        for (from, tries) in &asked {
            let target = |one: &Try| Target(one.transport, one.to.to_string(), one.port);
            let targets: Vec<Target> = tries.iter().map(target).collect();
            let prober = self.probers.get_mut(from).context("no prober")?;
            prober.ask(&targets, patience)?;
        }
        let (mut wrong, mut count) = (Vec::new(), BTreeMap::new());
        for (from, tries) in asked {
            let prober = self.probers.get_mut(&from).context("no prober")?;
            let fates = prober.answer()?;
            ensure!(fates.len() == tries.len(), "{} answers", fates.len());
            for (one, fate) in tries.into_iter().zip(fates) {
                let passes = self.passes(&one);
                if (fate == Fate::Ok) != passes {
                    wrong.push(format!("{one:?} was {fate:?}, but meant to pass: {passes}"));
                }
                *count
                    .entry(format!("{:?} {fate:?}", one.transport))
                    .or_default() += 1;
            }
        }
        Ok((wrong, count))
    }

    /// Whether both ends let it pass.
    fn passes(&self, one: &Try) -> bool {
        let from = match &one.from {
            From::Pod(uid) => self.directory.workload(uid),
            From::Stranger => None,
        };
        let to = self.directory.workload_at(one.to);
        let to = to.filter(|to| !to.host_network);
        let source = from.map_or(self.router, |from| from.addresses[0]);
        let is_tcp = one.transport == Transport::Tcp;
        // Between captured pods, a tunnel proves both ends; of a datagram, only the own node knows who sent it.
        let between = from.zip(to);
        let proofs = between.filter(|_| is_tcp);
        let asker = proofs.map(|(from, _)| from.identity());
        let asked = proofs.map(|(_, to)| to.identity());
        let known =
            from.filter(|_| between.is_some_and(|(from, to)| is_tcp || from.node == to.node));
        let says = |direction, subject: &Workload, far: Option<&Arc<Workload>>, proven| {
            let flow = Flow {
                direction,
                subject: &subject.uid,
                peer: far.map_or(FlowPeer::Address, |far| FlowPeer::Workload(far)),
                proven,
                source,
                destination: SocketAddr::new(one.to, one.port),
                protocol: if is_tcp { 6 } else { 17 },
                server_name: ServerName::Absent,
            };
            let mesh = Mesh {
                directory: &self.meant.directory,
                istio: &self.meant.istio,
                learned: &LearnedNames::default(),
                cluster: subject.cluster.clone(),
                own_node: WorkloadUid::of_node(&subject.cluster, &subject.node),
                requests: &[],
            };
            mesh.answer(&flow, None).said == Said::Allow
        };
        from.is_none_or(|from| says(Direction::Egress, from, to, asked.as_ref()))
            && to.is_none_or(|to| says(Direction::Ingress, to, known, asker.as_ref()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred tries")]
fn share_of(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// Nine of them, with random labels, service accounts and names of ports.
fn make_pods(rig: &Rig, cluster: &ClusterConfig, dice: &mut Dice) -> Result<Vec<Workload>> {
    let mut text = String::new();
    for namespace in NAMESPACES {
        let team = team_of(namespace);
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"team": team}}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "web", "namespace": namespace}});
        let service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        write!(text, "---\n{object}\n---\n{account}\n---\n{service}\n")?;
    }
    let mut pods = Vec::new();
    let mut nodes = cluster.nodes.iter().cycle();
    for namespace in NAMESPACES {
        for name in PODS {
            let node = nodes.next().context("no nodes")?;
            let pod = random_pod(cluster, &node.name, namespace, name, dice)?;
            writeln!(text, "---\n{}", manifest_of(&pod))?;
            pods.push(pod);
        }
    }
    rig.lab.apply_text(CLUSTER, &text)?;
    for pod in &mut pods {
        let key = ObjectKey::new(Kind::Pod, pod.namespace.as_str(), pod.name.as_str());
        rig.lab.wait_pod_ready(CLUSTER, &key, READY_DEADLINE)?;
        let object = rig.lab.api(CLUSTER)?.get(&key)?.context("no such pod")?;
        let address = object.value.pointer("/status/podIP");
        let address = address.and_then(|ip| ip.as_str()).context("no address")?;
        pod.addresses = vec![address.parse()?];
    }
    Ok(pods)
}

/// A service in front of the namespace's `app: web`.
fn web_service(namespace: &str) -> Service {
    Service {
        name: "web".into(),
        namespace: namespace.into(),
        hostname: web_hostname(namespace),
        ..Service::default()
    }
}

fn web_key(namespace: &str) -> NamespacedName {
    NamespacedName::new(namespace, web_hostname(namespace))
}

fn web_hostname(namespace: &str) -> String {
    format!("web.{namespace}.svc.cluster.local")
}

fn team_of(namespace: &str) -> &'static str {
    if namespace == "x" { "red" } else { "blue" }
}

fn random_pod(
    cluster: &ClusterConfig,
    node: &str,
    namespace: &str,
    name: &str,
    dice: &mut Dice,
) -> Result<Workload> {
    let mut pod = plain_workload(cluster, node)?;
    pod.uid = WorkloadUid::of_pod(&pod.cluster, namespace, name);
    pod.name = name.into();
    pod.namespace = namespace.into();
    pod.service_account = dice.pick(&["default", "web"]).into();
    let app = dice.pick(&["web", "db"]);
    pod.labels.insert("app".into(), app.into());
    if app == "web" {
        pod.services.insert(web_key(namespace), Vec::new());
    }
    if dice.one_in(2) {
        let tier = dice.pick(&["front", "back"]);
        pod.labels.insert("tier".into(), tier.into());
    }
    let team = ("team".into(), team_of(namespace).into());
    pod.namespace_labels = Arc::new([team].into_iter().collect());
    let (port, protocol) = (
        dice.pick(&PORTS),
        dice.pick(&[Protocol::Tcp, Protocol::Udp]),
    );
    pod.named_ports
        .insert("http".into(), NamedPort { port, protocol });
    Ok(pod)
}

fn plain_workload(cluster: &ClusterConfig, node: &str) -> Result<Workload> {
    let value = json!({
        "uid": "", "name": node, "namespace": "", "service_account": "", "node": node,
        "trust_domain": cluster.trust_domain, "cluster": cluster.name, "addresses": [],
    });
    let mut workload: Workload = serde_json::from_value(value)?;
    workload.tunnel_protocol = TunnelProtocol::Hbone;
    workload.labels = SmallMap::new();
    Ok(workload)
}

fn manifest_of(pod: &Workload) -> serde_json::Value {
    let mut command = vec![PYTHON, "-c", SCRIPT, "serve", &pod.name];
    let ports = PORTS.map(|port| port.to_string());
    command.extend(ports.iter().map(String::as_str));
    let labels = pod.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let labels: BTreeMap<_, _> = labels.collect();
    let named: Vec<_> = pod
        .named_ports
        .iter()
        .map(|(name, named)| {
            let protocol = if named.protocol == Protocol::Udp {
                "UDP"
            } else {
                "TCP"
            };
            json!({"name": name, "containerPort": named.port, "protocol": protocol})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": labels},
        "spec": {
            "nodeName": pod.node, "serviceAccountName": pod.service_account,
            "containers": [{"name": "main", "image": "tulle.test/host:1", "command": command, "ports": named}],
        },
    })
}

/// Every pod to every other, to the nodes and to strangers; and a stranger to every pod.
fn all_tries(directory: &Directory, strangers: [IpAddr; 2]) -> Vec<Try> {
    let mut ends: Vec<_> = directory.workloads().collect();
    ends.sort_by_key(|end| &end.uid);
    let pods: Vec<_> = ends.iter().filter(|end| !end.host_network).collect();
    let mut tries = Vec::new();
    let mut add = |from: &From, to: IpAddr| {
        for transport in TRANSPORTS {
            tries.extend(PORTS.map(|port| Try {
                from: from.clone(),
                to,
                port,
                transport,
            }));
        }
    };
    for pod in &pods {
        let from = From::Pod(pod.uid.clone());
        for end in ends.iter().filter(|end| end.uid != pod.uid) {
            add(&from, end.addresses[0]);
        }
        for stranger in strangers {
            add(&from, stranger);
        }
        add(&From::Stranger, pod.addresses[0]);
    }
    tries
}

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// Answers on all ports of an address, in the namespace of the calling thread, for as long as the test runs.
fn serve(address: IpAddr) -> Result<()> {
    for port in PORTS {
        let place = SocketAddr::new(address, port);
        let listener = TcpListener::bind(place).with_context(|| place.to_string())?;
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Who went away before the answer is no matter.
                stream
                    .and_then(|mut stream| stream.write_all(b"here\n"))
                    .ok();
            }
        });
        let socket = UdpSocket::bind(place).with_context(|| place.to_string())?;
        std::thread::spawn(move || {
            let mut datagram = [0; 64];
            while let Ok((len, client)) = socket.recv_from(&mut datagram) {
                socket.send_to(&datagram[..len], client).ok();
            }
        });
    }
    Ok(())
}
