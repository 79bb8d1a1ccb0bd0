//! The pods of this node: which there are, and that each has its proxy.
//!
//! The truth is the pod directory, written by the CNI plugin. This module decides when a pod's proxy starts and ends and tells
//! the plugin by marker files; what a proxy does is not its business ([`PodRunner`]).

mod care;
pub mod descriptor;
mod directory;
mod runner;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{metrics::PodMetrics, published::Publisher};

use care::{Carer, Report, Wanted};
pub use descriptor::{PodDescriptor, PodSockmap};
use directory::PodDirectory;
pub use directory::{ReadPodError, ScanPodsError};
pub use runner::{PodRunner, ProxyRunner, RunningPod, Stop};

/// What is known of the pods of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodsView {
    /// Whether the pod directory has been read at all.
    pub scanned: bool,
    /// The pods by `<namespace>_<name>`.
    pub pods: BTreeMap<String, PodStatus>,
    /// Addresses of pods that an earlier process captured and whose proxy is not there yet. The kernel still captures them, so
    /// the ways that it takes to them stay as they are.
    pub adopted: BTreeSet<IpAddr>,
    /// Those pods themselves.
    pub adopted_pods: Vec<PodDescriptor>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// What the plugin says.
    pub descriptor: PodDescriptor,
    /// How far its proxy is.
    pub state: PodState,
}

/// How far a pod's proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// Being started.
    Starting,
    /// Its connections are captured.
    Captured,
    /// It could not be started; it is tried again.
    Failed(
        /// Why.
        String,
    ),
    /// It is gone, its connections end.
    Draining,
}

impl PodsView {
    /// The addresses of all captured pods.
    pub fn captured_addresses(&self) -> BTreeSet<IpAddr> {
        let captured = self
            .pods
            .values()
            .filter(|pod| pod.state == PodState::Captured);
        let addresses = captured.flat_map(|pod| pod.descriptor.addresses.iter());
        addresses.chain(&self.adopted).copied().collect()
    }

    /// Every pod of the directory has been tried.
    pub fn settled(&self) -> bool {
        self.scanned
            && !self
                .pods
                .values()
                .any(|pod| pod.state == PodState::Starting)
    }
}

/// What an earlier process left behind.
#[derive(Debug, Default)]
pub struct Adoption {
    /// The pods that are still there.
    pub view: PodsView,
    /// The uids of captured pods that are not.
    pub gone: Vec<String>,
}

/// Compares what the kernel captures (`uids`) with the pods that there are.
pub fn adopt(dir: &Path, uids: &[String]) -> Adoption {
    let directory = PodDirectory::new(dir.to_owned());
    let scan = match directory.scan() {
        Ok(scan) => scan,
        Err(error) => {
            tracing::warn!(
                error = crate::run::chain(&error),
                "captured pods are left as they are"
            );
            return Adoption::default();
        }
    };
    let mut adoption = Adoption::default();
    for uid in uids {
        match scan.pods.values().find(|pod| pod.uid == *uid) {
            Some(pod) => {
                adoption.view.adopted.extend(&pod.addresses);
                adoption.view.adopted_pods.push(pod.clone());
            }
            // A file that cannot be read may be this pod's.
            None if scan.invalid.is_empty() => adoption.gone.push(uid.clone()),
            None => {}
        }
    }
    adoption
}

/// What the keeper of pods needs.
pub struct PodKeeper {
    /// Where the plugin writes.
    pub dir: PathBuf,
    /// Starts and ends proxies.
    pub runner: Arc<dyn PodRunner>,
    /// How long a pod's connections may go on after a signal.
    pub drain_timeout: Duration,
    /// What others may know.
    pub view: Publisher<PodsView>,
    /// Called with the addresses of pods that were captured or are captured no more.
    pub on_change: OnCapture,
    /// What is counted.
    pub metrics: Arc<PodMetrics>,
}

impl PodKeeper {
    /// Keeps proxies and pods alike until it is cancelled, then drains all of them.
    pub async fn run(self, cancel: CancellationToken) {
        let directory = Arc::new(PodDirectory::new(self.dir.clone()));
        // Listeners died with the last process, so its markers are not true any more.
        directory.remove_all_markers();
        let (wake, mut woken) = mpsc::channel(1);
        let watcher = watch_directory(&self.dir, wake);
        let rescan = if watcher.is_some() {
            RESCAN_INTERVAL
        } else {
            RESCAN_INTERVAL_UNWATCHED
        };
        let mut fleet = Fleet::new(&self, Arc::clone(&directory));
        loop {
            fleet.match_directory();
            let deadline = tokio::time::Instant::now() + rescan;
            loop {
                // All arms are cancel-safe: a queue's `recv`, a join, a sleep.
                tokio::select! {
                    () = cancel.cancelled() => return fleet.drain().await,
                    Some(report) = fleet.reports.recv() => fleet.take_report(report),
                    Some(ended) = fleet.carers.join_next() => fleet.forget(ended.ok()),
                    _ = woken.recv() => break,
                    () = tokio::time::sleep_until(deadline) => break,
                }
            }
        }
    }
}

/// Takes the addresses that began or ceased to be captured.
pub type OnCapture = Box<dyn Fn(&[IpAddr]) + Send + Sync>;

/// All pods that are cared for.
struct Fleet<'a> {
    keeper: &'a PodKeeper,
    directory: Arc<PodDirectory>,
    view: PodsView,
    wanted: HashMap<String, watch::Sender<Wanted>>,
    carers: JoinSet<String>,
    reporter: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    starts: Arc<Semaphore>,
}

impl<'a> Fleet<'a> {
    fn new(keeper: &'a PodKeeper, directory: Arc<PodDirectory>) -> Self {
        let (reporter, reports) = mpsc::channel(REPORTS_MAX);
        Fleet {
            keeper,
            directory,
            view: (*keeper.view.snapshot()).clone(),
            wanted: HashMap::new(),
            carers: JoinSet::new(),
            reporter,
            reports,
            starts: Arc::new(Semaphore::new(STARTS_MAX)),
        }
    }

    /// Reads the directory and tells each carer what is wanted now.
    fn match_directory(&mut self) {
        let scan = match self.directory.scan() {
            Ok(scan) => scan,
            Err(error) => {
                // Nothing is ended because a directory cannot be read.
                tracing::error!(
                    error = crate::run::chain(&error),
                    "the pods of this node are unknown"
                );
                return;
            }
        };
        self.keeper
            .metrics
            .invalid_files
            .set(i64::try_from(scan.invalid.len()).unwrap_or(i64::MAX));
        for (key, sender) in &self.wanted {
            // A file that cannot be read now says nothing about a pod that runs.
            if !scan.pods.contains_key(key) && !scan.invalid.contains(key) {
                sender.send_if_modified(|wanted| replace(wanted, Wanted::Nothing));
            }
        }
        for (key, descriptor) in scan.pods {
            let wanted = Wanted::Pod(descriptor.clone());
            match self.wanted.get(&key) {
                Some(sender) => {
                    sender.send_if_modified(|now| replace(now, wanted));
                }
                None => self.take_in(key, descriptor),
            }
        }
        self.view.scanned = true;
        self.publish();
    }

    fn take_in(&mut self, key: String, descriptor: PodDescriptor) {
        let (sender, receiver) = watch::channel(Wanted::Pod(descriptor.clone()));
        let carer = Carer {
            key: key.clone(),
            wanted: receiver,
            runner: Arc::clone(&self.keeper.runner),
            directory: Arc::clone(&self.directory),
            reports: self.reporter.clone(),
            starts: Arc::clone(&self.starts),
            drain_timeout: self.keeper.drain_timeout,
        };
        self.carers.spawn(carer.run());
        self.wanted.insert(key.clone(), sender);
        self.view.pods.insert(
            key,
            PodStatus {
                descriptor,
                state: PodState::Starting,
            },
        );
    }

    fn take_report(&mut self, report: Report) {
        let Report {
            key,
            descriptor,
            state,
        } = report;
        match &state {
            PodState::Captured => self.keeper.metrics.started("ok"),
            PodState::Failed(_) => self.keeper.metrics.started("failed"),
            PodState::Starting | PodState::Draining => {}
        }
        let before = self.view.captured_addresses();
        if state != PodState::Starting {
            // From here on the pod's own state says what it is.
            self.view
                .adopted
                .retain(|address| !descriptor.addresses.contains(address));
        }
        self.view.pods.insert(key, PodStatus { descriptor, state });
        self.publish();
        let after = self.view.captured_addresses();
        let changed: Vec<IpAddr> = before.symmetric_difference(&after).copied().collect();
        if !changed.is_empty() {
            (self.keeper.on_change)(&changed);
        }
    }

    /// A carer ended, since its pod is gone; a pod of the same name that came meanwhile gets another one.
    fn forget(&mut self, ended: Option<String>) {
        let Some(key) = ended else { return };
        // Its last reports may still be in the queue, and must not bring it back.
        while let Ok(report) = self.reports.try_recv() {
            self.take_report(report);
        }
        let wanted = self
            .wanted
            .remove(&key)
            .map(|sender| sender.borrow().clone());
        self.view.pods.remove(&key);
        match wanted {
            Some(Wanted::Pod(descriptor)) => self.take_in(key, descriptor),
            Some(Wanted::Nothing | Wanted::Shutdown) | None => {}
        }
        self.publish();
    }

    /// Ends all proxies together.
    async fn drain(mut self) {
        for sender in self.wanted.values() {
            sender.send_if_modified(|now| replace(now, Wanted::Shutdown));
        }
        let deadline = self.keeper.drain_timeout.saturating_add(DRAIN_GRACE);
        let all = async {
            while !self.carers.is_empty() {
                // Both arms are cancel-safe. Reports are taken so that no carer waits to be heard.
                tokio::select! {
                    _ended = self.carers.join_next() => {}
                    Some(report) = self.reports.recv() => self.take_report(report),
                }
            }
        };
        if timeout(deadline, all).await.is_err() {
            tracing::warn!("some pods could not be drained in time");
        }
    }

    fn publish(&self) {
        let count = |wanted: fn(&PodState) -> bool| {
            self.view
                .pods
                .values()
                .filter(|pod| wanted(&pod.state))
                .count()
        };
        let metrics = &self.keeper.metrics;
        metrics.set("starting", count(|state| *state == PodState::Starting));
        metrics.set("captured", count(|state| *state == PodState::Captured));
        metrics.set(
            "failed",
            count(|state| matches!(state, PodState::Failed(_))),
        );
        metrics.set("draining", count(|state| *state == PodState::Draining));
        self.keeper.view.publish(self.view.clone());
    }
}

fn replace<T: PartialEq>(now: &mut T, next: T) -> bool {
    let differs = *now != next;
    if differs {
        *now = next;
    }
    differs
}

/// Watches the directory; `None` if the kernel has no watch left, which makes rescans do all the work.
fn watch_directory(dir: &Path, wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        // Reading is what the keeper does itself; an answer to it would never end.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // Full means that a rescan is due already.
        let _full = wake.try_send(());
    };
    let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .map_err(|error| tracing::warn!(%error, dir = %dir.display(), "the pod directory cannot be watched: it is read every second"))
        .ok()
}

/// A net under the watch, which may lose events.
const RESCAN_INTERVAL: Duration = Duration::from_secs(10);
const RESCAN_INTERVAL_UNWATCHED: Duration = Duration::from_secs(1);
/// Pods that are started at one time: each opens some ten sockets and asks for a certificate.
const STARTS_MAX: usize = 16;
/// Reports wait only while the keeper reads the directory.
const REPORTS_MAX: usize = 64;
/// Beyond the drain's own deadline, for closing what is left.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
