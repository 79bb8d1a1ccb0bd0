//! The kernel and the proxies do with real connections what the rules mean: random policies of all three languages, and every pair of
//! pods, nodes and strangers tried, held against the interpreter that is written from the semantics alone.
//!
//! A wide world has pods of a second cluster as well, and names for the strangers; its policies speak of clusters and of names.

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
use serde_json::Value;
use tulle_e2e::{
    fast_paths::{FastPath, Uses},
    rig::Rig,
};
use tulle_lab::{ClusterConfig, ObjectKey};
use tulle_model::{Change, Directory, Rules, Workload, WorkloadUid};
use tulle_policy::{
    DefaultCluster, ReadPolicy, ReadSettings,
    compiled::{Direction, Flow, FlowPeer, LearnedNames, ServerName},
    interpret::{IstioPolicies, Mesh, Said},
    read_policy,
};

use crate::{
    cast::{make_pods, plain_workload, web_service},
    names::{self, Names},
    prober::{Fate, PYTHON, Prober, SCRIPT, Target, Transport},
    random_policies::{Dice, NAMESPACES, PORTS, Policy, STRANGER, Vocabulary, policies},
    rounds::until_right,
};

/// Where the policies are.
const CLUSTER: &str = "koornacht";
/// The other one, in wide worlds.
const OTHER_CLUSTER: &str = "tion";
/// Pods of every node reach each other; this is one of them.
const CLIENTS_NODE: &str = "koornacht-worker";
const PODS: [&str; 3] = ["a", "b", "c"];
/// In the other cluster: one of each namespace.
const OTHER_PODS: [&str; 1] = ["d"];
/// What wide worlds speak of.
const WIDE: Vocabulary = Vocabulary {
    clusters: &[CLUSTER, OTHER_CLUSTER],
    names: &names::PATTERNS,
};
/// A world that lets through less than this share of its tries, or more than the rest, shows little.
const SHARE_MIN: f64 = 0.2;
/// One choice in a few will do; a few dozen where it has to be a wide one.
const CHOICES_MAX: usize = 2_000;

#[test]
fn the_kernel_agrees_with_the_interpreter() -> Result<()> {
    compare("agree", &Setup { worlds: 3, ..QUICK }).map(drop)
}

/// Selectors of clusters, and names of addresses.
#[test]
fn the_kernel_agrees_about_other_clusters_and_names() -> Result<()> {
    let setup = Setup {
        words: WIDE,
        worlds: 2,
        ..QUICK
    };
    compare("agrwd", &setup).map(drop)
}

/// As clients meet it by default: nothing answers.
#[test]
fn the_kernel_agrees_where_denied_is_silent() -> Result<()> {
    let setup = Setup {
        arguments: &[],
        patience: Duration::from_millis(900),
        ..QUICK
    };
    compare("agred", &setup).map(drop)
}

/// The sockmap is not among them: it carries what has been decided on.
#[test]
fn the_kernel_agrees_without_each_fast_path() -> Result<()> {
    for (fast_path, rig) in [(FastPath::Lanes, "agrhb"), (FastPath::SameNode, "agrtl")] {
        let arguments = &[QUICK.arguments, fast_path.off()].concat();
        let scene = compare(rig, &Setup { arguments, ..QUICK })?;
        fast_path.was_off(&Uses::of(&scene.rig, CLIENTS_NODE)?)?;
    }
    Ok(())
}

/// What a test compares, and where.
struct Setup<'a> {
    /// Of the node proxies.
    arguments: &'a [&'a str],
    words: Vocabulary,
    worlds: usize,
    /// For how long a try waits for an answer.
    patience: Duration,
}

/// Denied connections end at once, so that a lot of them can be tried.
const QUICK: Setup<'static> = Setup {
    arguments: &["--denied", "reject"],
    words: Vocabulary {
        clusters: &[],
        names: &[],
    },
    worlds: 1,
    patience: Duration::from_secs(3),
};

fn compare(rig: &str, setup: &Setup<'_>) -> Result<Scene> {
    let seed = std::env::var("TULLE_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one("seed"));
    eprintln!("TULLE_SEED={seed}");
    let dice = &mut Dice(seed);
    let mut scene = Scene::up(rig, setup, dice)?;
    let mut compared = 0;
    for world in 0..setup.worlds {
        let chosen = scene.choose(dice, setup.words)?;
        let began = Instant::now();
        scene.apply(&chosen)?;
        let count = scene.until_agreed(setup.patience).with_context(|| {
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
    ensure!(compared >= 600 * setup.worlds, "only {compared} tries");
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
    learned: LearnedNames,
}

struct Scene {
    rig: Rig,
    cluster: ClusterConfig,
    /// The pods and nodes, without a policy.
    directory: Directory,
    /// In wide worlds.
    names: Option<Names>,
    router: IpAddr,
    tries: Vec<Try>,
    probers: BTreeMap<From, Prober>,
    applied: BTreeSet<ObjectKey>,
    meant: Meant,
}

impl Scene {
    fn up(name: &str, setup: &Setup<'_>, dice: &mut Dice) -> Result<Scene> {
        let is_wide = !setup.words.clusters.is_empty();
        let clusters = if is_wide {
            setup.words.clusters
        } else {
            &[CLUSTER]
        };
        let rig = Rig::up_with(name, clusters, setup.arguments)?;
        let cluster = rig.lab.cluster(CLUSTER)?.clone();
        let mut directory = Directory::default();
        for namespace in NAMESPACES {
            directory.apply(Change::Service(Arc::new(web_service(namespace))));
        }
        let mut pods = make_pods(&rig, &cluster, &PODS, dice)?;
        if is_wide {
            let other = rig.lab.cluster(OTHER_CLUSTER)?.clone();
            pods.extend(foreign_pods(&rig, &other, dice)?);
        }
        for workload in pods {
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
        let (router, stranger) = (IpAddr::from(cluster.router()), STRANGER.parse()?);
        rig.lab.inside_router(|| -> Result<()> {
            let words = ["addr", "add", &format!("{STRANGER}/32"), "dev", "lo"];
            let status = Command::new("ip").args(words).status()?;
            ensure!(status.success(), "ip {words:?}: {status}");
            [router, stranger].into_iter().try_for_each(serve)
        })??;
        let names = is_wide.then(|| Names::set_up(&rig, &cluster, stranger, router));
        let mut scene = Scene {
            tries: all_tries(&directory, &cluster, [router, stranger]),
            probers: BTreeMap::new(),
            names: names.transpose()?,
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
            let cluster = pod.cluster.as_str();
            let prober = Prober::start(&self.rig, cluster, &pod.namespace, &pod.name)?;
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

    /// Policies that let some through and stop some; and where they may speak of clusters and names, both make a difference.
    fn choose(&mut self, dice: &mut Dice, words: Vocabulary) -> Result<Vec<Policy>> {
        for _ in 0..CHOICES_MAX {
            let chosen = policies(dice, words);
            self.meant = self.read(&chosen)?;
            let passing = self.verdicts(&self.meant);
            let share = share_of(
                passing.iter().filter(|passes| **passes).count(),
                passing.len(),
            );
            if !(SHARE_MIN..1.0 - SHARE_MIN).contains(&share) {
                continue;
            }
            if words.clusters.is_empty() || self.is_wide(&chosen, &passing)? {
                return Ok(chosen);
            }
        }
        bail!("no policies that let some through and stop some");
    }

    /// Whether the verdicts are others when no name is known, and when the policies mean the other cluster.
    fn is_wide(&self, chosen: &[Policy], passing: &[bool]) -> Result<bool> {
        let mut nameless = self.read(chosen)?;
        nameless.learned = LearnedNames::default();
        if self.verdicts(&nameless) == passing {
            return Ok(false);
        }
        let mut turned = chosen.to_vec();
        for policy in &mut turned {
            policy.manifest = with_clusters_turned(&policy.manifest)?;
        }
        Ok(self.verdicts(&self.read(&turned)?) != passing)
    }

    fn verdicts(&self, meant: &Meant) -> Vec<bool> {
        let tries = self.tries.iter();
        tries.map(|one| self.passes(one, meant)).collect()
    }

    fn read(&self, policies: &[Policy]) -> Result<Meant> {
        let settings = ReadSettings {
            cluster: self.cluster.name.parse()?,
            default_cluster: DefaultCluster::Any,
        };
        let mut meant = Meant {
            directory: self.directory.clone(),
            istio: IstioPolicies::default(),
            learned: self.names.as_ref().map(Names::learned).unwrap_or_default(),
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
        let mut count = BTreeMap::new();
        let right = until_right(|| {
            let (wrong, counted) = self.wrong(patience)?;
            count = counted;
            Ok(wrong)
        });
        right.with_context(|| self.rig.evidence())?;
        Ok(count)
    }

    fn wrong(&mut self, patience: Duration) -> Result<(Vec<String>, BTreeMap<String, usize>)> {
        let mut wrong = Vec::new();
        if let Some(Err(error)) = self.names.as_mut().map(Names::learn) {
            wrong.push(format!("{error:#}"));
        }
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
        let mut count = BTreeMap::new();
        for (from, tries) in asked {
            let prober = self.probers.get_mut(&from).context("no prober")?;
            let fates = prober.answer()?;
            ensure!(fates.len() == tries.len(), "{} answers", fates.len());
            for (one, fate) in tries.into_iter().zip(fates) {
                let passes = self.passes(&one, &self.meant);
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
    fn passes(&self, one: &Try, meant: &Meant) -> bool {
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
            // The other cluster has no policies.
            if subject.cluster.as_str() != CLUSTER {
                return true;
            }
            let mesh = Mesh {
                directory: &meant.directory,
                istio: &meant.istio,
                learned: &meant.learned,
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

/// Pods that the policies' cluster sees from afar: its own services have none of them, since they are not global.
fn foreign_pods(rig: &Rig, cluster: &ClusterConfig, dice: &mut Dice) -> Result<Vec<Workload>> {
    let mut pods = make_pods(rig, cluster, &OTHER_PODS, dice)?;
    for pod in &mut pods {
        pod.services.clear();
    }
    Ok(pods)
}

/// The same policy, where each cluster stands for the other one.
fn with_clusters_turned(manifest: &Value) -> Result<Value> {
    let [one, other] = [CLUSTER, OTHER_CLUSTER].map(|name| format!("policy.cluster\":\"{name}\""));
    let text = manifest.to_string();
    let text = text.replace(&one, "\0").replace(&other, &one);
    Ok(serde_json::from_str(&text.replace('\0', &other))?)
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred tries")]
fn share_of(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// Every pod to every other, to the nodes and to strangers, and a stranger to every pod, as far as policies of `home` have a say.
fn all_tries(directory: &Directory, home: &ClusterConfig, strangers: [IpAddr; 2]) -> Vec<Try> {
    let mut ends: Vec<_> = directory.workloads().collect();
    ends.sort_by_key(|end| &end.uid);
    let is_home = |end: &Workload| end.cluster.as_str() == home.name;
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
        let others = ends.iter().filter(|end| end.uid != pod.uid);
        for end in others.filter(|end| is_home(pod) || is_home(end) && !end.host_network) {
            add(&from, end.addresses[0]);
        }
        if is_home(pod) {
            for stranger in strangers {
                add(&from, stranger);
            }
            add(&From::Stranger, pod.addresses[0]);
        }
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
