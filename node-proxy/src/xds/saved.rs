//! The last known view on disk, so that a restart works while the xds-server does not.
//!
//! The file holds the same resources that the server sent, in the same encoding, and is read by the same code that takes the
//! server's responses. It holds no key and no certificate but public roots.

mod format;

use std::{
    fs, io,
    io::{BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{View, XdsSettings};
use crate::{metrics::XdsMetrics, published::Published};

use format::{Header, ReadRecordError, read_record, view_records, write_record};

/// Writes the view a little while after each change; a large view, which takes longer to write, less often.
pub(super) struct Saver {
    pub(super) path: PathBuf,
    pub(super) settings: XdsSettings,
    pub(super) views: Published<View>,
    pub(super) metrics: Arc<XdsMetrics>,
}

impl Saver {
    /// Works until it is cancelled; then writes what is not yet written.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut written: Option<Arc<View>> = None;
        let mut pause = PAUSE_MIN;
        loop {
            let is_new = |view: &View| is_new_view(view, written.as_deref());
            let found = cancel
                .run_until_cancelled(self.views.wait_for(is_new))
                .await;
            let last_chance = !matches!(found, Some(Ok(_)));
            if !last_chance {
                // Many changes come in a row; one write is enough for all of them.
                let _cancelled: Option<()> = cancel.run_until_cancelled(sleep(pause)).await;
            }
            let view = self.views.snapshot();
            if is_new_view(&view, written.as_deref()) {
                pause = pause_after(self.save(Arc::clone(&view)).await);
                written = Some(view);
            }
            if last_chance || cancel.is_cancelled() {
                return;
            }
        }
    }

    /// Returns how long it worked.
    async fn save(&self, view: Arc<View>) -> Duration {
        let (path, settings) = (self.path.clone(), self.settings.clone());
        let result = tokio::task::spawn_blocking(move || save(&path, &settings, &view)).await;
        let error = match result {
            Ok(Ok(worked)) => {
                XdsMetrics::because(&self.metrics.saves, "ok");
                return worked;
            }
            Ok(Err(error)) => crate::run::chain(&error),
            Err(panicked) => panicked.to_string(),
        };
        tracing::warn!(
            error,
            "the view cannot be saved: a restart would need the xds-server"
        );
        XdsMetrics::because(&self.metrics.saves, "failed");
        Duration::ZERO
    }
}

/// How long changes gather after a write that took so long.
///
/// The whole view is written each time: of a mesh of 100,000 endpoints that takes half a second, and something changes there all the
/// time. What a crash may lose is what the server tells anew; only where it is gone too, a node begins with a view that much older.
fn pause_after(took: Duration) -> Duration {
    (took * PAUSE_SHARE).clamp(PAUSE_MIN, PAUSE_MAX)
}

fn is_new_view(view: &View, written: Option<&View>) -> bool {
    !view.is_empty() && written.is_none_or(|old| !view.is_same(old))
}

/// Writes the view beside `path`, then puts it in its place. Returns how long it worked, without the wait for the disk.
pub(super) fn save(
    path: &Path,
    settings: &XdsSettings,
    view: &View,
) -> Result<Duration, SaveViewError> {
    let draft = path.with_extension("tmp");
    let failed = |source| SaveViewError {
        path: draft.clone(),
        source,
    };
    let write = || -> io::Result<Duration> {
        let began = Instant::now();
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        let mut file = BufWriter::new(file);
        write_record(&mut file, &Header::of(settings).encode())?;
        for record in view_records(view) {
            write_record(&mut file, &record)?;
        }
        write_record(&mut file, &[])?;
        file.flush()?;
        let worked = began.elapsed();
        file.get_ref().sync_all()?;
        Ok(worked)
    };
    let worked = write().map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)?;
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(failed)?;
    Ok(worked)
}

/// Reads a view; `None` if none was ever saved.
pub(super) fn load(path: &Path, settings: &XdsSettings) -> Result<Option<View>, LoadViewError> {
    let failed = |source| LoadViewError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut file = BufReader::new(file);
    let mut next = || {
        read_record(&mut file).map_err(|error| match error {
            ReadRecordError::Read(source) => failed(source),
            ReadRecordError::Damaged => LoadViewError::Damaged {
                path: path.to_owned(),
            },
        })
    };
    let damaged = || LoadViewError::Damaged {
        path: path.to_owned(),
    };
    let header = Header::decode(&next()?).ok_or_else(damaged)?;
    let wanted = Header::of(settings);
    if !header.is_of_same_node(&wanted) {
        return Err(LoadViewError::OtherNode {
            path: path.to_owned(),
            found: header.node,
        });
    }
    let mut view = View::default();
    loop {
        let record = next()?;
        if record.is_empty() {
            break;
        }
        let (kind, response) = format::decode_record(&record).ok_or_else(damaged)?;
        for refused in view.apply(kind, &response).refused {
            tracing::warn!(name = refused.name, reason = %refused.reason, "a saved resource is refused");
        }
    }
    // Another build may have left out what this one understands: it must be sent anew.
    let same_build = header.build == wanted.build;
    Ok(Some(if same_build {
        view
    } else {
        view.without_versions()
    }))
}

/// The view cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written", path.display())]
pub struct SaveViewError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The saved view cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadViewError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is cut or changed.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The view is another node's.
    #[error("{} is the view of node {found:?}, not of this one", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose view it is.
        found: String,
    },
}

/// Long enough to gather a rollout's changes, short enough that a crash loses nothing that matters.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Writing takes no more than a hundredth of the time.
const PAUSE_SHARE: u32 = 100;
/// However large the mesh, no older view than this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
