//! Removes a rig by its name alone: processes, namespaces, pins, mounts, cgroups, files. Whatever
//! `up` did or did not finish.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::mount::UnmountFlags;
use thiserror::Error;

use crate::{
    cgroup::{self, CgroupError},
    names::{self, Places},
    netns::{self, NamespaceError},
    up,
};

/// Something of the rig could not be removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DownError {
    /// Processes or cgroups remain.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A network namespace remains.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
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
}

/// Removes everything of the rig. No error if nothing is there.
pub(crate) fn down(places: &Places) -> Result<(), DownError> {
    // Processes first, all at once: the supervisor must not mend what is being taken apart.
    cgroup::kill(&places.cgroup(), KILL_DEADLINE)?;
    for name in netns::list(&places.namespace_prefix()) {
        netns::delete(&name)?;
    }
    remove_tree(&places.pins_of_rig())?;
    unmount_below(&places.state())?;
    cgroup::remove(&places.cgroup())?;
    remove_tree(&places.state())?;
    // The parents are shared with other rigs: they go with the last one.
    let parent = Path::new(names::STATE_ROOT_PARENT);
    let _machine = up::lock_machine().map_err(|source| DownError::Io {
        action: "lock",
        path: parent.to_owned(),
        source,
    })?;
    let others = fs::read_dir(names::STATE_ROOT)
        .into_iter()
        .flatten()
        .flatten();
    if others.filter(|entry| entry.path().is_dir()).count() == 0 {
        remove_if_empty(&Path::new(names::BPFFS).join(names::PINS_DIR));
        up::forget_mounts();
        remove_if_empty(Path::new(names::STATE_ROOT));
    }
    remove_if_empty(places.cgroup_root());
    Ok(())
}

/// Whether anything of the rig is there.
pub(crate) fn exists(places: &Places) -> bool {
    places.state().exists()
        || places.cgroup().exists()
        || !netns::list(&places.namespace_prefix()).is_empty()
}

fn unmount_below(directory: &Path) -> Result<(), DownError> {
    let path = Path::new("/proc/self/mounts");
    let mounts = fs::read_to_string(path).map_err(|source| DownError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let targets = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new);
    let mut below: Vec<&Path> = targets.filter(|path| path.starts_with(directory)).collect();
    below.reverse();
    for target in below {
        rustix::mount::unmount(target, UnmountFlags::DETACH).map_err(|error| DownError::Io {
            action: "unmount",
            path: target.to_owned(),
            source: error.into(),
        })?;
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<(), DownError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DownError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn remove_if_empty(path: &Path) {
    // Not empty means that another rig has just come up: then it stays.
    drop(fs::remove_dir(path));
}

const KILL_DEADLINE: Duration = Duration::from_secs(10);
