//! Tells where in a directory something may have changed. Reads nothing, decides nothing: a mark says "look there", no more.

use std::{
    collections::BTreeSet,
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::CreateKind};
use tokio::{sync::Notify, time::sleep};

/// A watch of a directory and everything below it.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    marks: Arc<Marks>,
    _watcher: RecommendedWatcher,
}

/// Where to look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    /// These paths, whatever is there now.
    pub(crate) paths: BTreeSet<PathBuf>,
    /// A directory may be among them, whose watch came too late for what was already in it.
    pub(crate) directories: bool,
    /// Everywhere.
    pub(crate) all: bool,
}

/// The kernel refuses to watch.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the directory {}", path.display())]
pub struct WatchDirectoryError {
    path: PathBuf,
    source: notify::Error,
}

impl DirectoryWatch {
    /// Begins to watch; what happened before is not told.
    pub(crate) fn open(root: &Path) -> Result<Self, WatchDirectoryError> {
        let refused = |source| WatchDirectoryError {
            path: root.to_path_buf(),
            source,
        };
        let marks = Arc::new(Marks::default());
        let handler = {
            let marks = Arc::clone(&marks);
            move |event| marks.handle(event)
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(refused)?;
        watcher
            .watch(root, RecursiveMode::Recursive)
            .map_err(refused)?;
        Ok(DirectoryWatch {
            marks,
            _watcher: watcher,
        })
    }

    /// Waits for a mark, and a moment longer for what comes with it.
    ///
    /// # Cancel safety
    ///
    /// The marks stay until `take`; a wait that is given up may leave the next one waiting for one more mark, so callers
    /// look again by themselves from time to time.
    pub(crate) async fn changed(&self) {
        self.marks.wake.notified().await;
        sleep(DEBOUNCE).await;
    }

    /// The marks since the last call.
    pub(crate) fn take(&self) -> Dirty {
        mem::take(
            &mut *self
                .marks
                .dirty
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// Filled by the watcher's thread, emptied by the reader.
#[derive(Debug, Default)]
struct Marks {
    dirty: Mutex<Dirty>,
    wake: Notify,
}

impl Marks {
    fn handle(&self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.mark_all(),
            Ok(event) => match event.kind {
                // Reading is what the reader does itself; an answer to it would never end.
                EventKind::Access(_) => {}
                EventKind::Create(CreateKind::Folder) | EventKind::Any | EventKind::Other => {
                    self.mark(event.paths, true);
                }
                EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) => {
                    // Kubernetes swaps the link `..data` under a volume: every file changes, none of them is named.
                    if event.paths.iter().any(|p| is_volume_link(p)) {
                        self.mark_all();
                    }
                    let directories = event.paths.iter().any(|p| p.extension().is_none());
                    self.mark(event.paths, directories);
                }
            },
            Err(error) => {
                tracing::warn!(
                    "the watch of a directory reports: {error}; reading everything again"
                );
                self.mark_all();
            }
        }
    }

    fn mark(&self, paths: Vec<PathBuf>, directories: bool) {
        {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            dirty.directories |= directories;
            dirty.paths.extend(paths);
            if dirty.paths.len() > DIRTY_PATHS_MAX {
                dirty.paths.clear();
                dirty.all = true;
            }
        }
        self.wake.notify_one();
    }

    fn mark_all(&self) {
        self.dirty
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all = true;
        self.wake.notify_one();
    }
}

fn is_volume_link(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|n| n.as_encoded_bytes().starts_with(b".."))
}

/// Long enough to see a burst as one change, short against the 100 ms that a change may take through the mesh.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// More than this in one burst: a walk over everything is cheaper.
const DIRTY_PATHS_MAX: usize = 4096;
