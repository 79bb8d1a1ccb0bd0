use std::{collections::HashSet, sync::atomic::AtomicUsize};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tulle_datapath::{DestroyConnectionsError, DestroyReport};
use tulle_model::{Change, WorkloadUid};

use super::*;
use crate::{
    published::Publisher,
    testing::{Fixture, pod, service, serving, until},
};

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ejected(health: &Health) -> BTreeSet<SocketAddr> {
    health.ejected().addresses().collect()
}

fn home() -> ClusterName {
    "koornacht".parse().unwrap()
}

/// One pod with two services.
fn mesh() -> Directory {
    let mut mesh = Fixture::default();
    let (mut first, second) = (
        service("default", "first", &["172.20.1.7"]),
        service("default", "second", &["172.20.1.8"]),
    );
    first.ports[0].target_port = 9090;
    let both = [first.key(), second.key()];
    mesh.add_service(first);
    mesh.add_service(second);
    let mut workload = pod("koornacht", "default", "r", &["10.1.1.5", "fd00::5"]);
    for key in &both {
        workload = serving(workload, key);
    }
    workload.services.get_mut(&both[0]).unwrap()[0].target_port = 9090;
    mesh.add_pod(workload);
    mesh.directory()
}

#[test]
fn a_refusal_speaks_of_one_endpoint_and_unreachability_of_the_host() {
    let mesh = mesh();
    let all = [endpoint("10.1.1.5:8080"), endpoint("10.1.1.5:9090")];
    for (failure, expected) in [
        (Failure::Refused, &all[..1]),
        (Failure::Silent, &all[..1]),
        (Failure::Unreachable, &all[..]),
    ] {
        let health = Health::default();
        health.record_failure(&home(), &mesh, all[0], failure, Witness::Kernel);
        let expected: BTreeSet<SocketAddr> = expected.iter().copied().collect();
        assert_eq!(ejected(&health), expected, "{failure:?}");
        assert_eq!(health.metrics().failures(failure, Witness::Kernel), 1);
    }
    // Nobody of the mesh: still an endpoint.
    let health = Health::default();
    let foreign = endpoint("192.0.2.1:80");
    health.record_failure(
        &home(),
        &mesh,
        foreign,
        Failure::Unreachable,
        Witness::Proxy,
    );
    assert_eq!(ejected(&health), BTreeSet::from([foreign]));
}

fn turned(endpoint: SocketAddr) -> Turned {
    Turned {
        addresses: BTreeSet::from([endpoint.ip()]),
        clusters: BTreeSet::new(),
    }
}

#[test]
fn a_success_brings_back_and_both_are_told() {
    let (mesh, health) = (mesh(), Health::default());
    let failing = endpoint("10.1.1.5:8080");
    health.record_success(failing);
    assert_eq!(health.take_touched(), Turned::default());
    health.record_failure(&home(), &mesh, failing, Failure::Refused, Witness::Proxy);
    health.record_failure(&home(), &mesh, failing, Failure::Refused, Witness::Proxy);
    assert_eq!(health.take_touched(), turned(failing));
    assert!(health.next_expiry().is_some());
    health.record_success(failing);
    assert!(ejected(&health).is_empty());
    assert_eq!(health.take_touched(), turned(failing));
    assert!(health.next_expiry().is_none());
}

/// Counts what is to be destroyed, and whom it asked.
#[derive(Default)]
struct Recorder {
    destroyed: Mutex<HashSet<IpAddr>>,
    passes: AtomicUsize,
    limited: AtomicUsize,
}

impl DestroyConnections for Recorder {
    fn destroy_connections(
        &self,
        to: &HashSet<IpAddr>,
        _limit: usize,
    ) -> Result<DestroyReport, DestroyConnectionsError> {
        self.destroyed.lock().unwrap().extend(to);
        self.passes.fetch_add(1, Relaxed);
        let left = self.limited.load(Relaxed);
        self.limited.store(left.saturating_sub(1), Relaxed);
        Ok(DestroyReport {
            destroyed: 1,
            failed: 0,
            is_limited: left > 0,
        })
    }
}

/// Answers as it is told, and counts the questions.
struct Oracle {
    outcome: Mutex<ProbeOutcome>,
    asked: Mutex<Vec<SocketAddr>>,
}

impl Probe for Oracle {
    fn probe(&self, address: SocketAddr) -> BoxFuture<'_, ProbeOutcome> {
        self.asked.lock().unwrap().push(address);
        let outcome = *self.outcome.lock().unwrap();
        Box::pin(async move { outcome })
    }
}

struct Scene {
    health: Arc<Health>,
    directory: Publisher<Directory>,
    recorder: Arc<Recorder>,
    oracle: Arc<Oracle>,
    cancel: CancellationToken,
}

impl Scene {
    fn start(mesh: Directory, outcome: ProbeOutcome) -> Self {
        let scene = Scene {
            health: Arc::default(),
            directory: Publisher::new(mesh),
            recorder: Arc::default(),
            oracle: Arc::new(Oracle {
                outcome: Mutex::new(outcome),
                asked: Mutex::default(),
            }),
            cancel: CancellationToken::new(),
        };
        let reaper = Reaper {
            health: Arc::clone(&scene.health),
            directory: scene.directory.subscribe(),
            connections: Arc::<Recorder>::clone(&scene.recorder),
            probe: Arc::<Oracle>::clone(&scene.oracle),
            tunnel_port: 15008,
        };
        tokio::spawn(reaper.run(scene.cancel.clone()));
        scene
    }

    fn destroyed(&self) -> Vec<String> {
        let destroyed = self.recorder.destroyed.lock().unwrap();
        let mut destroyed: Vec<String> = destroyed.iter().map(IpAddr::to_string).collect();
        destroyed.sort();
        destroyed
    }

    fn silence(&self, addresses: &[&str]) {
        let addresses: BTreeSet<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let mut silent = SilentClusters::new();
        if !addresses.is_empty() {
            silent.insert("tion".parse().unwrap(), addresses);
        }
        self.health.set_silent(silent);
    }

    fn asked(&self) -> usize {
        self.oracle.asked.lock().unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn connections_to_an_address_that_is_gone_are_reset_unless_it_comes_back() {
    let scene = Scene::start(mesh(), ProbeOutcome::Answered);
    scene.recorder.limited.store(2, Relaxed);
    // The first is back in the view before its time is over.
    let [back, gone] = ["10.1.1.5", "10.1.1.9"].map(|ip| ip.parse().unwrap());
    scene.health.note_gone(vec![back, gone]);
    until("the reset", || scene.recorder.passes.load(Relaxed) == 3).await;
    assert_eq!(scene.destroyed(), ["10.1.1.9"]);
    let mut next = mesh();
    let cluster = "koornacht".parse().unwrap();
    next.apply(Change::WorkloadGone(WorkloadUid::of_pod(
        &cluster, "default", "r",
    )));
    scene.directory.publish(next);
    scene.health.note_gone(vec![back]);
    until("the second reset", || scene.destroyed().len() == 2).await;
    scene.cancel.cancel();
}

/// Two pods in tion beside koornacht's one.
fn two_clusters() -> Directory {
    let mut mesh = mesh();
    for (name, ip) in [("a", "10.2.1.5"), ("b", "10.2.1.6")] {
        let workload = pod("tion", "default", name, &[ip]);
        mesh.apply(Change::Workload(Arc::new(workload)));
    }
    mesh
}

fn suspected(health: &Health) -> Vec<String> {
    let ejected = health.ejected();
    ejected.clusters().map(|c| c.to_string()).collect()
}

#[test]
fn a_failure_abroad_makes_the_cluster_suspected() {
    let mesh = two_clusters();
    let (own, abroad) = (endpoint("10.1.1.5:8080"), endpoint("10.2.1.5:8080"));
    for (at, failure, expected) in [
        (own, Failure::Silent, ""),
        (own, Failure::Unreachable, ""),
        (abroad, Failure::Refused, ""),
        (abroad, Failure::Silent, "tion"),
        (abroad, Failure::Unreachable, "tion"),
    ] {
        let health = Health::default();
        health.record_failure(&home(), &mesh, at, failure, Witness::Proxy);
        assert_eq!(suspected(&health).concat(), expected, "{at}, {failure:?}");
        let clusters = health.take_touched().clusters.len();
        assert_eq!(clusters, usize::from(!expected.is_empty()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspected_cluster_is_cleared_by_the_first_answer() {
    let scene = Scene::start(two_clusters(), ProbeOutcome::Unanswered);
    let fail = || {
        let (mesh, at) = (scene.directory.snapshot(), endpoint("10.2.1.5:8080"));
        let failure = Failure::Silent;
        scene
            .health
            .record_failure(&home(), &mesh, at, failure, Witness::Proxy);
    };
    fail();
    until("three rounds", || scene.asked() >= 6).await;
    assert_eq!(suspected(&scene.health), ["tion"]);
    assert!(
        scene.destroyed().is_empty(),
        "suspicion costs nobody a connection"
    );
    *scene.oracle.outcome.lock().unwrap() = ProbeOutcome::Answered;
    until("its return", || suspected(&scene.health).is_empty()).await;
    let before = scene.asked();
    // The endpoint itself is dead: that must not make its cluster flap.
    fail();
    assert!(suspected(&scene.health).is_empty());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(scene.asked(), before);
    fail();
    until("the next answer", || {
        scene.asked() > before && suspected(&scene.health).is_empty()
    })
    .await;
    // Nobody is there whom one could ask.
    *scene.oracle.outcome.lock().unwrap() = ProbeOutcome::Unanswered;
    tokio::time::advance(Duration::from_secs(2)).await;
    fail();
    assert_eq!(suspected(&scene.health), ["tion"]);
    scene.directory.publish(mesh());
    until("the end of the cluster", || {
        suspected(&scene.health).is_empty()
    })
    .await;
    scene.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_silent_cluster_loses_connections_only_when_it_is_out_of_reach() {
    let scene = Scene::start(two_clusters(), ProbeOutcome::Answered);
    scene.silence(&["10.2.1.5", "10.2.1.6"]);
    until("three rounds", || scene.asked() >= 6).await;
    assert!(scene.destroyed().is_empty(), "it answers");
    assert!(
        scene
            .oracle
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|a| a.port() == 15008)
    );
    *scene.oracle.outcome.lock().unwrap() = ProbeOutcome::Unknown;
    let before = scene.asked();
    until("two more rounds", || scene.asked() >= before + 4).await;
    assert!(scene.destroyed().is_empty(), "nobody could try");
    *scene.oracle.outcome.lock().unwrap() = ProbeOutcome::Unanswered;
    until("its death", || scene.destroyed().len() == 2).await;
    let passes = scene.recorder.passes.load(Relaxed);
    let before = scene.asked();
    until("two more rounds", || scene.asked() >= before + 4).await;
    assert_eq!(scene.recorder.passes.load(Relaxed), passes, "it dies once");
    // Heard again: nobody asks any more.
    scene.silence(&[]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let before = scene.asked();
    tokio::time::advance(Duration::from_secs(60)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.asked(), before);
    scene.cancel.cancel();
}
