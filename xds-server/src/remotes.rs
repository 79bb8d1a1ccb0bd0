//! The other clusters: which there are (a watched directory of files), and one task for each that reads its etcd.
//!
//! What a cluster publishes is read by its own task and handed to the world in parts, one at a time: however much one of them
//! says, the others are heard in between.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tulle_model::{Change, ClusterName};

pub use self::dialect::{RemoteIdentity, RemoteKind};
use self::files::{Wanted, read_directory};
pub(crate) use self::{
    dialect::Said,
    files::is_https,
    table::{KeyTable, Put},
};
use crate::{
    directory_watch::{DirectoryWatch, WatchDirectoryError},
    metrics::Metrics,
    source::Problem,
    status::{RemoteStatus, StatusBoard},
    store::{EtcdSettings, PemSource},
};

mod dialect;
mod facts;
mod files;
mod liveness;
mod session;
mod table;
mod tulle;

/// What the tasks tell the world.
#[derive(Debug)]
pub enum RemoteEvent {
    /// A cluster is configured; nothing is known of it yet.
    Configured {
        /// Which.
        cluster: ClusterName,
    },
    /// A cluster is no longer configured.
    Removed {
        /// Which.
        cluster: ClusterName,
    },
    /// May this cluster be taken in?
    Admit {
        /// Who it is.
        identity: RemoteIdentity,
        /// The answer; a refusal is one sentence.
        reply: oneshot::Sender<Result<Admission, String>>,
    },
    /// Something changed.
    Changes {
        /// Whose.
        cluster: ClusterName,
        /// What.
        changes: Vec<Change>,
        /// A sign of life.
        heartbeat: Option<u64>,
        /// With this, all that the cluster has published is known.
        complete: bool,
        /// Until it is dropped, the cluster says no more.
        turn: Turn,
    },
}

/// A cluster is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Nothing that it said before is remembered.
    pub fresh: bool,
}

/// The right of a cluster to have one part of what it says before the world.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// What every reader needs.
#[derive(Debug, Clone)]
pub struct RemotesContext {
    /// The own cluster's name.
    pub own: ClusterName,
    /// Roots for clusters whose files name none.
    pub own_ca: Option<PemSource>,
    /// To the world.
    pub events: mpsc::Sender<RemoteEvent>,
    /// To the operator.
    pub status: Arc<StatusBoard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The end.
    pub stop: CancellationToken,
}

/// The readers that run.
struct Remotes {
    root: PathBuf,
    context: RemotesContext,
    running: HashMap<ClusterName, Running>,
}

struct Running {
    wanted: Wanted,
    settings: watch::Sender<EtcdSettings>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs the readers of the directory's clusters, as they come and go, until the end.
///
/// # Errors
///
/// When the directory cannot be watched; run it again later.
pub async fn run(root: PathBuf, context: RemotesContext) -> Result<(), WatchDirectoryError> {
    let watch = DirectoryWatch::open(&root)?;
    let stop = context.stop.clone();
    let mut remotes = Remotes {
        root,
        context,
        running: HashMap::new(),
    };
    loop {
        remotes.reconcile().await;
        tokio::select! { // Cancel-safe: everything is read anew after each wait.
            () = stop.cancelled() => break,
            () = watch.changed() => {}
            () = sleep(RESCAN_INTERVAL) => {}
        }
        watch.take();
    }
    for (_, running) in remotes.running.drain() {
        running.end().await;
    }
    Ok(())
}

/// Tells the world which clusters are configured; called once before the first snapshot, so that what nodes still hold of
/// them is not taken away.
pub async fn announce(root: &Path, context: &RemotesContext) {
    let Some((configured, _)) = read(root, context).await else {
        return;
    };
    for cluster in configured.into_keys().filter(|c| *c != context.own) {
        if context
            .events
            .send(RemoteEvent::Configured { cluster })
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn read(
    root: &Path,
    context: &RemotesContext,
) -> Option<(BTreeMap<ClusterName, Wanted>, Vec<Problem>)> {
    let (root, own_ca) = (root.to_path_buf(), context.own_ca.clone());
    let read = tokio::task::spawn_blocking(move || read_directory(&root, own_ca.as_ref()));
    read.await.ok()
}

impl Remotes {
    /// Makes the readers those of the files.
    async fn reconcile(&mut self) {
        let Some((mut configured, mut problems)) = read(&self.root, &self.context).await else {
            return;
        };
        self.refuse_own(&mut configured, &mut problems);
        let faulty = problems.iter().map(|p| p.path.clone()).collect();
        self.context
            .status
            .update(|s| s.remotes_problems = problems);
        self.end_stale(&configured, &faulty).await;
        for (name, wanted) in configured {
            match self.running.get_mut(&name) {
                Some(running) if running.wanted == wanted => {}
                Some(running) => {
                    // Other credentials or endpoints are no reason to forget the cluster's state.
                    let endpoints = wanted.etcd.endpoints.clone();
                    self.context
                        .status
                        .update_remote(&name, |r| r.endpoints = endpoints);
                    running.settings.send_replace(wanted.etcd.clone());
                    running.wanted = wanted;
                }
                None => self.start(name, wanted).await,
            }
        }
    }

    /// A cluster is not meshed with itself.
    fn refuse_own(
        &self,
        configured: &mut BTreeMap<ClusterName, Wanted>,
        problems: &mut Vec<Problem>,
    ) {
        let own = &self.context.own;
        let removed = configured.remove(own);
        let message = format!(
            "cluster {own} is refused: it is this cluster's own name, and a cluster is not connected with itself or with another of its name"
        );
        self.context.status.update(|s| match &removed {
            Some(wanted) => {
                let endpoints = wanted.etcd.endpoints.clone();
                let mut line = RemoteStatus::new(own, wanted.kind, endpoints);
                line.refused = Some(message.clone());
                line.note_error(&message);
                s.remotes.entry(own.to_string()).or_insert(line);
            }
            None => drop(s.remotes.remove(own.as_str())),
        });
        problems.extend(removed.map(|wanted| Problem {
            path: wanted.path,
            line: None,
            field: Some("name".to_owned()),
            message,
        }));
    }

    /// Ends readers that are no longer wanted, or of another kind, or that died.
    async fn end_stale(
        &mut self,
        configured: &BTreeMap<ClusterName, Wanted>,
        faulty: &BTreeSet<PathBuf>,
    ) {
        let keep = |name: &ClusterName, running: &Running| {
            let same_kind = match configured.get(name) {
                Some(wanted) => wanted.kind == running.wanted.kind,
                // What a file said last counts until it can be read again or is gone.
                None => faulty.contains(&running.wanted.path),
            };
            same_kind && !running.task.is_finished()
        };
        let stale: Vec<ClusterName> = self
            .running
            .iter()
            .filter(|(name, running)| !keep(name, running))
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            let Some(running) = self.running.remove(&name) else {
                continue;
            };
            running.end().await;
            self.context
                .status
                .update(|s| drop(s.remotes.remove(name.as_str())));
            self.send(RemoteEvent::Removed { cluster: name }).await;
        }
    }

    async fn start(&mut self, cluster: ClusterName, wanted: Wanted) {
        let line = RemoteStatus::new(&cluster, wanted.kind, wanted.etcd.endpoints.clone());
        self.context
            .status
            .update(|s| drop(s.remotes.insert(cluster.to_string(), line)));
        self.send(RemoteEvent::Configured {
            cluster: cluster.clone(),
        })
        .await;
        let stop = self.context.stop.child_token();
        let context = RemotesContext {
            stop: stop.clone(),
            ..self.context.clone()
        };
        let (settings, settings_rx) = watch::channel(wanted.etcd.clone());
        let reader = session::read(cluster.clone(), wanted.kind, settings_rx, context);
        let running = Running {
            task: tokio::spawn(reader),
            wanted,
            settings,
            stop,
        };
        self.running.insert(cluster, running);
    }

    async fn send(&self, event: RemoteEvent) {
        // The world is gone only when the whole server stops.
        drop(self.context.events.send(event).await);
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        // A reader that panicked has ended as well.
        drop(self.task.await);
    }
}

/// Also how late changed certificate files are noticed, since they may be anywhere.
const RESCAN_INTERVAL: Duration = Duration::from_secs(2);
