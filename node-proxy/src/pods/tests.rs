use std::{
    error::Error,
    fs,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    PodDescriptor, PodKeeper, PodMetrics, PodRunner, PodState, PodsView, RunningPod, Stop, adopt,
};
use crate::{
    published::{Published, Publisher},
    testing::until,
};

/// Writes down what is started and ended.
#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<String>>,
    refuses: AtomicBool,
}

impl Recorder {
    fn note(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    fn has(&self, event: &str) -> bool {
        self.events.lock().unwrap().iter().any(|seen| seen == event)
    }
}

struct Runner(Arc<Recorder>);
struct Running(Arc<Recorder>, String);

#[async_trait]
impl PodRunner for Runner {
    async fn start(
        &self,
        pod: PodDescriptor,
    ) -> Result<Box<dyn RunningPod>, Box<dyn Error + Send + Sync>> {
        if self.0.refuses.load(Ordering::SeqCst) {
            self.0.note(format!("refuse {}", pod.uid));
            return Err("the namespace is gone".into());
        }
        self.0.note(format!("start {}", pod.uid));
        Ok(Box::new(Running(Arc::clone(&self.0), pod.uid)))
    }
}

#[async_trait]
impl RunningPod for Running {
    async fn stop(self: Box<Self>, stop: Stop, deadline: Duration) {
        self.0
            .note(format!("stop {} {stop:?} {}s", self.1, deadline.as_secs()));
    }
}

struct Scene {
    dir: tempfile::TempDir,
    recorder: Arc<Recorder>,
    view: Published<PodsView>,
    changes: Arc<Mutex<Vec<IpAddr>>>,
    cancel: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Scene {
    fn start() -> Self {
        Self::with(tempfile::tempdir().unwrap(), PodsView::default(), false)
    }

    fn with(dir: tempfile::TempDir, view: PodsView, refuses: bool) -> Self {
        let recorder = Arc::new(Recorder::default());
        recorder.refuses.store(refuses, Ordering::SeqCst);
        let changes = Arc::new(Mutex::new(Vec::new()));
        let view = Publisher::new(view);
        let cancel = CancellationToken::new();
        let published = view.subscribe();
        let noted = Arc::clone(&changes);
        let keeper = PodKeeper {
            dir: dir.path().to_owned(),
            runner: Arc::new(Runner(Arc::clone(&recorder))),
            drain_timeout: Duration::from_secs(7),
            view,
            on_change: Box::new(move |addresses| noted.lock().unwrap().extend(addresses)),
            metrics: Arc::new(PodMetrics::default()),
        };
        let keeper = tokio::spawn(keeper.run(cancel.clone()));
        Scene {
            dir,
            recorder,
            view: published,
            changes,
            cancel,
            keeper,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, uid: &str, address: &str) {
        write_pod(&self.dir, uid, address);
    }

    async fn state(&mut self, wanted: impl Fn(&PodState) -> bool) {
        let has = |view: &PodsView| view.pods.get("default_a").is_some_and(|p| wanted(&p.state));
        let waited = tokio::time::timeout(crate::testing::DEADLINE, self.view.wait_for(has));
        waited.await.expect("the state in time").unwrap();
    }
}

fn write_pod(dir: &tempfile::TempDir, uid: &str, address: &str) {
    let text = format!(
        r#"{{"uid":"{uid}","name":"a","namespace":"default","serviceAccount":"s",
            "addresses":["{address}"],"netns":"/run/netns/a"}}"#
    );
    let draft = dir.path().join("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, dir.path().join("default_a.json")).unwrap();
}

#[tokio::test]
async fn a_pod_is_captured_when_it_appears_and_released_when_it_goes() {
    let mut scene = Scene::start();
    scene.write("u1", "10.1.1.5");
    scene.state(|state| *state == PodState::Captured).await;
    assert_eq!(
        fs::read_to_string(scene.path("default_a.captured")).unwrap(),
        "u1\n"
    );
    assert!(scene.view.snapshot().settled());
    fs::remove_file(scene.path("default_a.json")).unwrap();
    until("the pod's end", || scene.recorder.has("stop u1 PodGone 2s")).await;
    until("the pod is forgotten", || {
        scene.view.snapshot().pods.is_empty()
    })
    .await;
    assert!(!scene.path("default_a.captured").exists());
    let address: IpAddr = "10.1.1.5".parse().unwrap();
    assert_eq!(*scene.changes.lock().unwrap(), [address, address]);
}

#[tokio::test]
async fn a_pod_of_the_same_name_takes_its_place() {
    let mut scene = Scene::start();
    scene.write("u1", "10.1.1.5");
    scene.state(|state| *state == PodState::Captured).await;
    scene.write("u2", "10.1.1.6");
    until("the second pod", || scene.recorder.has("start u2")).await;
    let events = scene.recorder.events.lock().unwrap().clone();
    assert_eq!(events, ["start u1", "stop u1 PodGone 2s", "start u2"]);
    until("the second marker", || {
        fs::read_to_string(scene.path("default_a.captured")).is_ok_and(|uid| uid == "u2\n")
    })
    .await;
}

#[tokio::test]
async fn a_description_that_is_spoilt_does_not_end_the_pod() {
    let mut scene = Scene::start();
    scene.write("u1", "10.1.1.5");
    scene.state(|state| *state == PodState::Captured).await;
    fs::write(scene.path("default_a.json"), "{").unwrap();
    until("the error", || scene.path("default_a.error").exists()).await;
    assert!(!scene.recorder.has("stop u1 PodGone 2s"));
    assert_eq!(scene.view.snapshot().captured_addresses().len(), 1);
}

#[tokio::test]
async fn a_failure_is_told_and_tried_again() {
    let mut scene = Scene::with(tempfile::tempdir().unwrap(), PodsView::default(), true);
    scene.write("u1", "10.1.1.5");
    scene
        .state(|state| *state == PodState::Failed("the namespace is gone".to_owned()))
        .await;
    assert_eq!(
        fs::read_to_string(scene.path("default_a.error")).unwrap(),
        "the namespace is gone\n"
    );
    scene.recorder.refuses.store(false, Ordering::SeqCst);
    scene.state(|state| *state == PodState::Captured).await;
    assert!(!scene.path("default_a.error").exists());
}

#[tokio::test]
async fn a_signal_drains_all_pods_and_leaves_them_captured() {
    let mut scene = Scene::start();
    scene.write("u1", "10.1.1.5");
    scene.state(|state| *state == PodState::Captured).await;
    scene.cancel.cancel();
    (&mut scene.keeper).await.unwrap();
    assert!(scene.recorder.has("stop u1 Shutdown 7s"));
    assert!(!scene.path("default_a.captured").exists());
    assert!(scene.dir.path().join("default_a.json").exists());
}

#[tokio::test]
async fn markers_of_an_earlier_process_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("default_gone.captured"), "u").unwrap();
    let scene = Scene::with(dir, PodsView::default(), false);
    until("the first scan", || scene.view.snapshot().scanned).await;
    assert!(!scene.path("default_gone.captured").exists());
}

#[tokio::test]
async fn pods_of_an_earlier_process_stay_captured_until_they_have_their_own_state() {
    let dir = tempfile::tempdir().unwrap();
    write_pod(&dir, "u1", "10.1.1.5");
    let adoption = adopt(dir.path(), &["u1".to_owned(), "u0".to_owned()]);
    assert_eq!(adoption.gone, ["u0"]);
    assert_eq!(adoption.view.captured_addresses().len(), 1);
    assert!(!adoption.view.settled());
    let mut scene = Scene::with(dir, adoption.view, true);
    scene
        .state(|state| matches!(state, PodState::Failed(_)))
        .await;
    until("the change is told", || {
        scene.changes.lock().unwrap().len() == 1
    })
    .await;
    assert!(scene.view.snapshot().captured_addresses().is_empty());
}

#[test]
fn a_file_that_cannot_be_read_keeps_unknown_pods_captured() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("default_a.json"), "{").unwrap();
    assert!(adopt(dir.path(), &["u1".to_owned()]).gone.is_empty());
    assert!(
        adopt(&dir.path().join("nowhere"), &["u1".to_owned()])
            .gone
            .is_empty()
    );
}
