//! Cgroups by path: their ids, and which lies inside which.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::fstatfs;

use crate::OpenDatapathError;

/// An open cgroup directory.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// The directory.
    pub(crate) fd: OwnedFd,
    /// The kernel's id of the cgroup.
    pub(crate) id: u64,
    /// Its path without links.
    pub(crate) path: PathBuf,
}

impl Cgroup {
    /// Opens a directory of a cgroup v2 hierarchy.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenDatapathError> {
        let fail = |source| OpenDatapathError::Path {
            action: "open the cgroup",
            path: path.to_owned(),
            source,
        };
        let path = fs::canonicalize(path).map_err(fail)?;
        let dir = File::open(&path).map_err(fail)?;
        let stat = fstatfs(&dir).map_err(|err| fail(err.into()))?;
        if u64::try_from(stat.f_type).ok() != Some(CGROUP2_MAGIC) {
            return Err(OpenDatapathError::NotCgroup { path });
        }
        // On 64-bit kernels the inode number of a cgroup's directory is the cgroup's id.
        let id = dir.metadata().map_err(fail)?.ino();
        Ok(Cgroup {
            fd: dir.into(),
            id,
            path,
        })
    }

    /// Whether this cgroup is `other` or lies below it.
    pub(crate) fn is_inside(&self, other: &Cgroup) -> bool {
        self.path.starts_with(&other.path)
    }
}

/// The magic number of cgroup v2 in `statfs`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
