//! The other clusters: which there are (a watched directory of files), and one task for each that reads its etcd.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tulle_model::{Change, ClusterName, Directory};

use crate::{
    directory_watch::{DirectoryWatch, WatchDirectoryError},
    layout::ClusterInfo,
    metrics::Metrics,
    source::Problem,
    status::{RemoteStatus, StatusBoard},
    store::EtcdSettings,
};

mod session;

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
        /// What it says of itself.
        info: ClusterInfo,
        /// The answer; a refusal is one sentence.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// The whole state at the beginning of a session.
    State {
        /// Whose.
        cluster: ClusterName,
        /// All facts that it has published.
        state: Box<Directory>,
        /// What is missing is gone.
        complete: bool,
        /// Its heartbeat, if it is there.
        heartbeat: Option<u64>,
    },
    /// Something changed.
    Changes {
        /// Whose.
        cluster: ClusterName,
        /// What.
        changes: Vec<Change>,
        /// A sign of life.
        heartbeat: Option<u64>,
    },
}

/// What every reader needs.
#[derive(Debug, Clone)]
pub struct RemotesContext {
    /// The own cluster's name.
    pub own: ClusterName,
    /// To the world.
    pub events: mpsc::Sender<RemoteEvent>,
    /// To the operator.
    pub status: Arc<StatusBoard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The end.
    pub stop: CancellationToken,
}

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoteFile {
    name: ClusterName,
    endpoints: Vec<String>,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// The readers that run.
struct Remotes {
    root: PathBuf,
    context: RemotesContext,
    running: HashMap<ClusterName, Running>,
}

struct Running {
    settings: EtcdSettings,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The clusters that are configured now, for the world to know before it answers anybody.
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
    let root = root.to_path_buf();
    let Ok((configured, _)) = tokio::task::spawn_blocking(move || read_directory(&root)).await
    else {
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

impl Remotes {
    /// Makes the readers those of the files.
    async fn reconcile(&mut self) {
        let root = self.root.clone();
        let read = tokio::task::spawn_blocking(move || read_directory(&root)).await;
        let Ok((mut configured, mut problems)) = read else {
            return;
        };
        if let Some((path, _)) = configured.remove(&self.context.own) {
            let message = format!(
                "{} is this cluster's own name: two clusters of one name never connect",
                self.context.own
            );
            problems.push(Problem {
                path,
                line: None,
                field: Some("name".to_owned()),
                message,
            });
        }
        self.context
            .status
            .update(|s| s.remotes_problems = problems);
        let stale: Vec<ClusterName> = self
            .running
            .iter()
            .filter(|(name, running)| {
                configured
                    .get(*name)
                    .is_none_or(|(_, settings)| *settings != running.settings)
                    || running.task.is_finished()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            let Some(running) = self.running.remove(&name) else {
                continue;
            };
            running.end().await;
            // Other credentials or endpoints are no reason to forget the cluster's state.
            if !configured.contains_key(&name) {
                self.context
                    .status
                    .update(|s| drop(s.remotes.remove(name.as_str())));
                self.send(RemoteEvent::Removed { cluster: name }).await;
            }
        }
        for (name, (_, settings)) in configured {
            if !self.running.contains_key(&name) {
                self.start(name, settings).await;
            }
        }
    }

    async fn start(&mut self, cluster: ClusterName, settings: EtcdSettings) {
        let fresh = RemoteStatus {
            demoted: true,
            ..RemoteStatus::default()
        };
        self.context.status.update(|s| {
            s.remotes.entry(cluster.to_string()).or_insert(fresh);
        });
        self.send(RemoteEvent::Configured {
            cluster: cluster.clone(),
        })
        .await;
        let stop = self.context.stop.child_token();
        let context = RemotesContext {
            stop: stop.clone(),
            ..self.context.clone()
        };
        let task = tokio::spawn(session::read(cluster.clone(), settings.clone(), context));
        self.running.insert(
            cluster,
            Running {
                settings,
                stop,
                task,
            },
        );
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

/// All clusters of the directory by name with their file, and what is wrong.
fn read_directory(root: &Path) -> (BTreeMap<ClusterName, (PathBuf, EtcdSettings)>, Vec<Problem>) {
    let mut configured: BTreeMap<ClusterName, (PathBuf, EtcdSettings)> = BTreeMap::new();
    let mut problems = Vec::new();
    let problem = |path: &Path, message: String| Problem {
        path: path.to_path_buf(),
        line: None,
        field: None,
        message,
    };
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => {
            return (
                configured,
                vec![problem(root, format!("cannot list it: {error}"))],
            );
        }
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    let yaml = |p: &&PathBuf| p.extension().is_some_and(|e| e == "yaml" || e == "yml");
    for path in paths.iter().filter(yaml).take(FILES_MAX) {
        match read_file(root, path) {
            Ok(file) if configured.contains_key(&file.0) => problems.push(problem(
                path,
                format!(
                    "cluster {} is already configured in another file, which counts",
                    file.0
                ),
            )),
            Ok((name, settings)) => {
                configured.insert(name, (path.clone(), settings));
            }
            Err(message) => problems.push(message),
        }
    }
    (configured, problems)
}

fn read_file(root: &Path, path: &Path) -> Result<(ClusterName, EtcdSettings), Problem> {
    let problem = |line, message| Problem {
        path: path.to_path_buf(),
        line,
        field: None,
        message,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| problem(None, format!("cannot read it: {error}")))?;
    let file: RemoteFile = serde_yaml_ng::from_str(&text)
        .map_err(|error| problem(error.location().map(|l| l.line()), error.to_string()))?;
    let bad = file.endpoints.iter().find(|e| !is_https(e));
    if file.endpoints.is_empty() || bad.is_some() {
        let found = bad.map_or("none", String::as_str);
        return Err(problem(
            None,
            format!("endpoints: {found} is given: expected https://host:port"),
        ));
    }
    // Paths are meant from where the file is.
    let settings = EtcdSettings {
        endpoints: file.endpoints,
        ca: root.join(file.ca),
        cert: root.join(file.cert),
        key: root.join(file.key),
    };
    Ok((file.name, settings))
}

/// `https://host` with an optional port and nothing behind it.
pub(crate) fn is_https(endpoint: &str) -> bool {
    endpoint.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("https")
            && uri.host().is_some_and(|h| !h.is_empty())
            && uri.path() == "/"
    })
}

const RESCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Ids end at 511.
const FILES_MAX: usize = 511;

#[cfg(test)]
mod tests;
