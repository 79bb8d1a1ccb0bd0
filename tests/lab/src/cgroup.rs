//! Cgroups (version 2) by path: make, list, kill, remove. Which cgroup belongs to what is decided
//! in `names`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::wait;

/// The machine or the tree of cgroups is not as the lab needs it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup v2 is mounted.
    #[error(
        "no cgroup v2 is mounted (expected a `cgroup2` line in /proc/mounts); `mount -t cgroup2 none /sys/fs/cgroup` mends it"
    )]
    NotMounted,
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
    /// Processes survived the kill.
    #[error("processes are still alive in {} after {deadline:?}", path.display())]
    StillAlive {
        /// The cgroup.
        path: PathBuf,
        /// How long they had.
        deadline: Duration,
    },
}

/// Where cgroup v2 is mounted on this machine.
pub(crate) fn mount_point() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/mounts")
        .map_err(|source| fault("read", Path::new("/proc/mounts"), source))?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .ok_or(CgroupError::NotMounted)
}

/// Makes the cgroup and its ancestors.
pub(crate) fn create(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| fault("create", path, source))
}

/// Opens `cgroup.procs`, to be written by a process that wants to join.
pub(crate) fn open_procs(path: &Path) -> Result<File, CgroupError> {
    let file = path.join("cgroup.procs");
    OpenOptions::new()
        .write(true)
        .open(&file)
        .map_err(|source| fault("open", &file, source))
}

/// The processes in the cgroup itself; none when it does not exist.
pub(crate) fn processes(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// The processes in the cgroup and below it.
pub(crate) fn processes_below(path: &Path) -> Vec<i32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found = processes(path);
    found.extend(below.flat_map(|entry| processes_below(&entry.path())));
    found
}

/// Whether a process lives in the cgroup or below it.
pub(crate) fn is_populated(path: &Path) -> bool {
    let text = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
    text.lines().any(|line| line == "populated 1")
}

/// Kills every process in the cgroup and below it, and waits until none is left.
pub(crate) fn kill(path: &Path, deadline: Duration) -> Result<(), CgroupError> {
    let file = path.join("cgroup.kill");
    match fs::write(&file, "1") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
        Err(source) => return Err(fault("write", &file, source)),
    }
    if wait::until(Instant::now() + deadline, || !is_populated(path)) {
        Ok(())
    } else {
        Err(CgroupError::StillAlive {
            path: path.to_owned(),
            deadline,
        })
    }
}

/// Removes the cgroup and everything below it. The processes must be gone.
pub(crate) fn remove(path: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(fault("list", path, source)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| fault("list", path, source))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    // A process that has just died may keep the directory busy for a moment.
    let mut outcome = Ok(());
    wait::until(Instant::now() + REMOVE_DEADLINE, || {
        outcome = fs::remove_dir(path);
        !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::ResourceBusy)
    });
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault("remove", path, error)),
        _ => Ok(()),
    }
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

const REMOVE_DEADLINE: Duration = Duration::from_secs(2);
