//! The source that reads a directory of Kubernetes YAML.
//!
//! inotify says where to look; what is there is always read anew, so a lost or merged event costs time, never truth. A walk
//! over everything follows each event that concerns a directory (its watch may have come too late for what was already in
//! it) and comes by itself every `RESCAN_INTERVAL`.

use std::{
    mem,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tulle_policy::ReadSettings;

use self::tree::Tree;
use crate::{
    directory_watch::{DirectoryWatch, Dirty},
    source::{ObjectChange, Problem, RunSourceError, Source, SourceEvent},
};

mod file;
#[cfg(test)]
mod testing;
mod tree;

/// The directory of manifests.
#[derive(Debug, Clone)]
pub struct ManifestDirectory {
    root: PathBuf,
    policies: ReadSettings,
}

impl ManifestDirectory {
    /// Reads `root` and everything below it; policies as `policies` says.
    pub fn new(root: &Path, policies: ReadSettings) -> Self {
        // The watch tells absolute paths; one file must not have two names.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf());
        ManifestDirectory { root, policies }
    }
}

#[async_trait]
impl Source for ManifestDirectory {
    async fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        stop: CancellationToken,
    ) -> Result<(), RunSourceError> {
        // Watch first, read second: what changes in between is seen twice rather than never.
        let watch = DirectoryWatch::open(&self.root)?;
        let mut reader = Reader {
            tree: Tree::new(self.root.clone(), self.policies.clone()),
            root: self.root,
            policies: self.policies,
            told: Vec::new(),
        };
        let everything = Dirty {
            all: true,
            ..Dirty::default()
        };
        if !reader.pass(everything, &events).await?
            || events.send(SourceEvent::Synced).await.is_err()
        {
            return Ok(());
        }
        let mut rescan_at = Instant::now() + RESCAN_INTERVAL;
        loop {
            let rescan = tokio::select! { // Cancel-safe: the marks stay until `take`.
                () = stop.cancelled() => return Ok(()),
                () = watch.changed() => false,
                () = sleep_until(rescan_at) => true,
            };
            let mut dirty = watch.take();
            dirty.all |= rescan;
            if dirty.all {
                rescan_at = Instant::now() + RESCAN_INTERVAL;
            }
            if dirty.directories {
                rescan_at = rescan_at.min(Instant::now() + SETTLE_INTERVAL);
            }
            if !reader.pass(dirty, &events).await? {
                return Ok(());
            }
        }
    }
}

struct Reader {
    root: PathBuf,
    policies: ReadSettings,
    tree: Tree,
    told: Vec<Problem>,
}

impl Reader {
    /// Reads what is dirty and tells what changed; `false` when nobody listens any more.
    async fn pass(
        &mut self,
        dirty: Dirty,
        events: &mpsc::Sender<SourceEvent>,
    ) -> Result<bool, RunSourceError> {
        let empty = Tree::new(self.root.clone(), self.policies.clone());
        let tree = mem::replace(&mut self.tree, empty);
        let read = tokio::task::spawn_blocking(move || read(tree, &dirty)).await;
        let (tree, changes) = read.map_err(|source| RunSourceError::Reader {
            path: self.root.clone(),
            source,
        })?;
        self.tree = tree;
        if !changes.is_empty() {
            let objects = self.tree.objects_len();
            tracing::debug!(changes = changes.len(), objects, "manifests changed");
            if events.send(SourceEvent::Changes(changes)).await.is_err() {
                return Ok(false);
            }
        }
        let problems = self.tree.problems();
        if problems == self.told {
            return Ok(true);
        }
        self.told.clone_from(&problems);
        Ok(events.send(SourceEvent::Problems(problems)).await.is_ok())
    }
}

fn read(mut tree: Tree, dirty: &Dirty) -> (Tree, Vec<ObjectChange>) {
    let mut changes = Vec::new();
    for path in &dirty.paths {
        tree.refresh(path, &mut changes);
    }
    if dirty.all {
        tree.refresh_all(&mut changes);
    }
    (tree, changes)
}

const RESCAN_INTERVAL: Duration = Duration::from_secs(15);
/// By then the watch of a new directory is in place.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
