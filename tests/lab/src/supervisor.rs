//! The supervisor: kubelet and controllers of every cluster of a rig, in one process.
//!
//! It runs pods; it does not start, stop or restart the rig's own components. When it dies, the
//! pods go on; the next one takes them over by the notes it finds.

mod container;
mod controller;
mod deployments;
mod endpoints;
mod pod;
mod probe;
mod schedule;
mod status;
mod view;
mod volumes;
mod watch;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::fs::FlockOperation;
use thiserror::Error;

pub(crate) use self::container::wait_for_child;
pub(crate) use self::deployments::{has_template, is_ready, owner, template_hash};
pub(crate) use self::probe::http_status;
use self::{controller::Controller, watch::Watch};
use crate::{
    api::{self, ApiError},
    cgroup::CgroupError,
    config::{LabConfig, ReadConfigError},
    names::Places,
};

/// The supervisor had to give up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SuperviseError {
    /// Another one runs.
    #[error("another supervisor runs for rig {rig}")]
    AlreadyRuns {
        /// The rig.
        rig: String,
    },
    /// The rig's file is not readable.
    #[error(transparent)]
    Config(#[from] ReadConfigError),
    /// The machine's cgroups are not usable.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A cluster's objects are not usable.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Changes could not be watched.
    #[error("cannot watch {}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A cluster's controller ended.
    #[error("the controller of {cluster} broke off")]
    BrokenOff {
        /// The cluster.
        cluster: String,
    },
}

/// Runs the pods of all clusters of a rig that are up, until it fails or is killed.
///
/// # Errors
/// If another supervisor runs for the rig, or its files are not usable.
pub fn supervise(rig: &str) -> Result<(), SuperviseError> {
    let places = Places::of(rig)?;
    // Files in volumes must be readable for programs that are not root, whoever started the
    // supervisor.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _lock = lock(&places)?;
    let config = Arc::new(LabConfig::read(&places.config())?);
    let directory = places.clusters_up();
    let mut watch = Watch::new().map_err(|error| watch_fault(&directory, error.into()))?;
    watch
        .add(&directory)
        .map_err(|error| watch_fault(&directory, error.into()))?;
    let mut controllers: BTreeMap<String, JoinHandle<Result<(), SuperviseError>>> = BTreeMap::new();
    loop {
        for cluster in &config.clusters {
            let up = directory.join(&cluster.name).exists();
            if up && !controllers.contains_key(&cluster.name) {
                let controller = Controller::new(&places, &config, cluster)?;
                let handle = thread::spawn(move || controller.run());
                controllers.insert(cluster.name.clone(), handle);
            }
        }
        write_ready(&places, controllers.keys())?;
        if let Some(cluster) = controllers.iter().find(|(_, handle)| handle.is_finished()) {
            let cluster = cluster.0.clone();
            let broken_off = || SuperviseError::BrokenOff {
                cluster: cluster.clone(),
            };
            let ended = controllers.remove(&cluster).ok_or_else(broken_off)?;
            return ended.join().unwrap_or_else(|_| Err(broken_off()));
        }
        watch
            .wait(LOOK_AGAIN)
            .map_err(|error| watch_fault(&directory, error.into()))?;
    }
}

/// Tells `up` that this process looks after these clusters.
fn write_ready<'a>(
    places: &Places,
    clusters: impl Iterator<Item = &'a String>,
) -> Result<(), SuperviseError> {
    let mut text = format!("{}\n", std::process::id());
    for cluster in clusters {
        text += &format!("{cluster}\n");
    }
    let path = ready_file(places);
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    api::write_whole(&path, text.as_bytes(), 0o644).map_err(|(path, source)| SuperviseError::Io {
        action: "write",
        path,
        source,
    })
}

/// Where a supervisor says which clusters it looks after.
pub(crate) fn ready_file(places: &Places) -> PathBuf {
    places.state().join("supervisor.ready")
}

fn lock(places: &Places) -> Result<File, SuperviseError> {
    let path = places.state().join("supervisor.lock");
    let file = File::create(&path).map_err(|source| SuperviseError::Io {
        action: "open",
        path: path.clone(),
        source,
    })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN) => Err(SuperviseError::AlreadyRuns {
            rig: places.rig().to_owned(),
        }),
        Err(error) => Err(SuperviseError::Io {
            action: "lock",
            path,
            source: error.into(),
        }),
    }
}

fn watch_fault(path: &std::path::Path, source: io::Error) -> SuperviseError {
    SuperviseError::Watch {
        path: path.to_owned(),
        source,
    }
}

/// Also without news the supervisor looks after its controllers.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
