use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tulle_datapath::{KernelTable, ReconcileError, ReconcileReport, TableChanges};
use tulle_model::{Change, ClusterName, Directory};

use super::{
    KernelSync, KernelSyncStatus, Tables, TouchLog, Touched, retry_pause, table::NodeView,
};
use crate::{
    config::SameNode,
    health::{Failure, Health, HealthKeeper, Witness},
    metrics::KernelSyncMetrics,
    plane::InboundMode,
    pods::PodsView,
    published::{Published, Publisher},
    testing::{Fixture, pod, service, serving, until},
};

/// Remembers tables; refuses them while it is told to.
#[derive(Default)]
struct Recorder {
    tables: Mutex<Vec<KernelTable>>,
    refuses: AtomicBool,
}

impl Tables for Recorder {
    fn reconcile(&self, table: &KernelTable) -> Result<ReconcileReport, ReconcileError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(ReconcileError::TooLarge {
                map: "services",
                wanted: 1,
                limit: 0,
            });
        }
        self.tables.lock().unwrap().push(table.clone());
        Ok(ReconcileReport::default())
    }

    fn apply(&self, changes: &TableChanges) -> Result<ReconcileReport, ReconcileError> {
        let mut table = self.last().ok_or(ReconcileError::Unknown)?;
        changed(&mut table, changes);
        self.reconcile(&table)
    }
}

/// The table with the changes.
pub(crate) fn changed(table: &mut KernelTable, changes: &TableChanges) {
    let is_stale = |address| {
        let mut new = changes.frontends.iter();
        changes.frontends_gone.contains(&address) || new.any(|f| f.address == address)
    };
    table.frontends.retain(|f| !is_stale(f.address));
    table.frontends.extend(changes.frontends.iter().cloned());
    table.frontends.sort_by_key(|frontend| frontend.address);
    let is_stale = |address| {
        let mut new = changes.workloads.iter();
        changes.workloads_gone.contains(&address) || new.any(|w| w.address == address)
    };
    table.workloads.retain(|w| !is_stale(w.address));
    table.workloads.extend(changes.workloads.iter().copied());
    table.workloads.sort_by_key(|workload| workload.address);
}

impl Recorder {
    fn last(&self) -> Option<KernelTable> {
        self.tables.lock().unwrap().last().cloned()
    }

    fn count(&self) -> usize {
        self.tables.lock().unwrap().len()
    }
}

struct Scene {
    recorder: Arc<Recorder>,
    directory: Publisher<Directory>,
    pods: Publisher<PodsView>,
    touched: Arc<TouchLog>,
    health: Arc<Health>,
    status: Published<KernelSyncStatus>,
    cancel: CancellationToken,
}

impl Scene {
    /// Who serves the first frontend, as the kernel was told last.
    fn backends(&self) -> String {
        let table = self.recorder.last().unwrap();
        let backends = table.frontends[0].backends.iter();
        let addresses: Vec<String> = backends.map(|b| b.address.to_string()).collect();
        addresses.join(" ")
    }

    fn start() -> Self {
        let recorder = Arc::new(Recorder::default());
        let directory = Publisher::new(Directory::default());
        let pods = Publisher::new(PodsView::default());
        let touched = Arc::new(TouchLog::default());
        let cancel = CancellationToken::new();
        let health = Arc::new(Health::default());
        let sync = KernelSync {
            directory: directory.subscribe(),
            pods: pods.subscribe(),
            touched: Arc::clone(&touched),
            health: Arc::clone(&health),
            tables: Arc::<Recorder>::clone(&recorder),
            node: NodeView {
                cluster: "koornacht".parse().unwrap(),
                node: "koornacht-worker".to_owned(),
                same_node: SameNode::Direct,
                inbound: InboundMode::Permissive,
            },
            metrics: Arc::new(KernelSyncMetrics::default()),
            status: Publisher::new(KernelSyncStatus::default()),
        };
        let status = sync.status.subscribe();
        tokio::spawn(sync.run(cancel.clone()));
        Scene {
            recorder,
            directory,
            pods,
            touched,
            health,
            status,
            cancel,
        }
    }

    fn publish(&self, next: Directory) {
        self.directory.publish(next);
        self.touched.add(Touched {
            everything: true,
            ..Touched::default()
        });
    }
}

fn mesh() -> Directory {
    let mut mesh = Fixture::default();
    let rebel = service("default", "rebel-base", &["172.20.1.7"]);
    let key = rebel.key();
    mesh.add_service(rebel);
    mesh.add_pod(serving(
        pod("koornacht", "default", "r", &["10.1.1.5"]),
        &key,
    ));
    mesh.directory()
}

#[tokio::test]
async fn nothing_is_written_before_the_first_view() {
    let scene = Scene::start();
    scene.pods.publish(PodsView {
        scanned: true,
        ..PodsView::default()
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.recorder.count(), 0);
    scene.publish(mesh());
    until("the first table", || scene.recorder.count() == 1).await;
    assert_eq!(scene.recorder.last().unwrap().frontends.len(), 1);
}

#[tokio::test]
async fn a_change_reaches_the_kernel() {
    let scene = Scene::start();
    scene.publish(mesh());
    until("the first table", || scene.recorder.count() == 1).await;
    let mut next = mesh();
    let mut touched = Touched::default();
    let gone = Change::WorkloadGone(next.workloads().next().unwrap().uid.clone());
    touched.note(&next, &gone);
    next.apply(gone);
    scene.directory.publish(next);
    scene.touched.add(touched);
    until("the second table", || scene.recorder.count() == 2).await;
    assert!(
        scene.recorder.last().unwrap().frontends[0]
            .backends
            .is_empty()
    );
}

#[tokio::test]
async fn an_endpoint_that_fails_leaves_the_tables_and_returns_after_a_success() {
    let own: ClusterName = "koornacht".parse().unwrap();
    let scene = Scene::start();
    let mut next = mesh();
    let key = next.services().next().unwrap().key();
    let second = serving(pod("koornacht", "default", "s", &["10.1.1.6"]), &key);
    next.apply(Change::Workload(Arc::new(second)));
    scene.publish(next.clone());
    until("the first table", || scene.recorder.count() == 1).await;
    let keeper = HealthKeeper {
        health: Arc::clone(&scene.health),
        cluster: own.clone(),
        directory: scene.directory.subscribe(),
        touched: Arc::clone(&scene.touched),
        events: None,
    };
    tokio::spawn(keeper.run(scene.cancel.clone()));
    let backends = || scene.backends();
    let failing = "10.1.1.5:8080".parse().unwrap();
    scene
        .health
        .record_failure(&own, &next, failing, Failure::Refused, Witness::Proxy);
    until("the failing one to be out", || {
        backends() == "10.1.1.6:8080"
    })
    .await;
    scene.health.record_success(failing);
    until("it to be back", || {
        backends() == "10.1.1.5:8080 10.1.1.6:8080"
    })
    .await;
    // It returns by time too.
    scene
        .health
        .record_failure(&own, &next, failing, Failure::Silent, Witness::Kernel);
    until("it to be out", || backends() == "10.1.1.6:8080").await;
    until("it to be back", || {
        backends() == "10.1.1.5:8080 10.1.1.6:8080"
    })
    .await;
    // With everybody out nobody is.
    for endpoint in ["10.1.1.5:8080", "10.1.1.6:8080"] {
        let endpoint = endpoint.parse().unwrap();
        let failure = Failure::Unreachable;
        scene
            .health
            .record_failure(&own, &next, endpoint, failure, Witness::Kernel);
    }
    until("all to be in", || {
        scene.health.ejected().addresses().count() == 2
            && backends() == "10.1.1.5:8080 10.1.1.6:8080"
    })
    .await;
}

/// One of three fails; the tables lose all three of its cluster at once.
#[tokio::test]
async fn a_suspected_cluster_leaves_the_tables() {
    let own: ClusterName = "koornacht".parse().unwrap();
    let scene = Scene::start();
    let mut next = mesh();
    let key = next.services().next().unwrap().key();
    for ip in ["10.2.1.5", "10.2.1.6", "10.2.1.7"] {
        let abroad = serving(pod("tion", "default", ip, &[ip]), &key);
        next.apply(Change::Workload(Arc::new(abroad)));
    }
    scene.publish(next.clone());
    until("the first table", || scene.recorder.count() == 1).await;
    assert_eq!(scene.backends().split(' ').count(), 4);
    let keeper = HealthKeeper {
        health: Arc::clone(&scene.health),
        cluster: own.clone(),
        directory: scene.directory.subscribe(),
        touched: Arc::clone(&scene.touched),
        events: None,
    };
    tokio::spawn(keeper.run(scene.cancel.clone()));
    let failing = "10.2.1.6:8080".parse().unwrap();
    scene
        .health
        .record_failure(&own, &next, failing, Failure::Silent, Witness::Proxy);
    until("only the own one is left", || {
        scene.backends() == "10.1.1.5:8080"
    })
    .await;
}

#[tokio::test]
async fn a_captured_pod_may_be_reached_directly() {
    let scene = Scene::start();
    scene.publish(mesh());
    until("the first table", || scene.recorder.count() == 1).await;
    let address = "10.1.1.5".parse().unwrap();
    scene.pods.publish(PodsView {
        adopted: BTreeSet::from([address]),
        ..PodsView::default()
    });
    let mut touched = Touched::default();
    touched.note_addresses(&mesh(), [address].into_iter());
    scene.touched.add(touched);
    until("the second table", || scene.recorder.count() == 2).await;
    let table = scene.recorder.last().unwrap();
    assert_eq!(
        table.frontends[0].backends[0].path,
        tulle_datapath::Path::Direct
    );
    assert_eq!(table.workloads[0].path, tulle_datapath::Path::Direct);
}

#[tokio::test]
async fn a_failure_is_told_and_tried_again() {
    let mut scene = Scene::start();
    scene.recorder.refuses.store(true, Ordering::SeqCst);
    scene.publish(mesh());
    let failed = scene
        .status
        .wait_for(|status| status.last_error.is_some())
        .await
        .unwrap();
    assert_eq!(failed.applied, 0);
    scene.recorder.refuses.store(false, Ordering::SeqCst);
    let applied = scene
        .status
        .wait_for(|status| status.applied > 0)
        .await
        .unwrap();
    assert_eq!(applied.last_error, None);
    scene.cancel.cancel();
}

#[test]
fn pauses_grow_to_a_limit() {
    assert_eq!(retry_pause(1), Duration::from_millis(50));
    assert_eq!(retry_pause(2), Duration::from_millis(100));
    assert_eq!(retry_pause(u32::MAX), Duration::from_secs(5));
}

#[tokio::test]
async fn changes_are_collected_until_they_are_taken() {
    let log = TouchLog::default();
    let of = |address: &str| Touched {
        addresses: BTreeSet::from([address.parse().unwrap()]),
        ..Touched::default()
    };
    log.add(of("10.0.0.1"));
    log.add(of("10.0.0.2"));
    log.changed().await;
    let taken = log.take();
    assert_eq!(taken.addresses.len(), 2);
    assert!(taken.since.is_some());
    assert_eq!(log.take(), Touched::default());
    log.add(Touched {
        everything: true,
        ..of("10.0.0.1")
    });
    log.add(of("10.0.0.2"));
    let taken = log.take();
    assert!(taken.everything && taken.addresses.is_empty());
}
