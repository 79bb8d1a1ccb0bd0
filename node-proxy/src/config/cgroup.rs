//! Where this process is in the cgroup tree.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The cgroup (v2) of this process, as a directory.
///
/// # Errors
/// No cgroup v2 is mounted, or the process is in none that can be seen.
pub fn own_cgroup() -> Result<PathBuf, OwnCgroupError> {
    let read = |path: &'static str| {
        fs::read_to_string(path).map_err(|source| OwnCgroupError::Read { path, source })
    };
    let membership = read("/proc/self/cgroup")?;
    let mounts = read("/proc/self/mountinfo")?;
    locate(&membership, &mounts).ok_or(OwnCgroupError::NotMounted)
}

/// Joins the line `0::<path>` of `membership` with the mount of cgroup v2 in `mounts` (proc(5), mountinfo).
pub(super) fn locate(membership: &str, mounts: &str) -> Option<PathBuf> {
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        if rest.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = fields.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        // A mount may show only a part of the tree; a process outside that part has no directory there.
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(mount_point).join(below))
    })
}

/// The process's own cgroup is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnCgroupError {
    /// A file of procfs cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No mount shows the process's cgroup.
    #[error("no mounted cgroup v2 shows this process's cgroup: mount one, or name it")]
    NotMounted,
}
