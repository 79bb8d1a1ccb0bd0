//! The file system that a container sees, built in a mount namespace of its own.
//!
//! Two kinds: the host's root with a few files replaced, or a private, writable copy of it
//! (overlayfs over a tmpfs), in which a program may write wherever it likes and nothing is left on
//! the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use thiserror::Error;

use crate::os;

/// A container's file system could not be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildRootError {
    /// The mount namespace could not be made.
    #[error("cannot make a mount namespace")]
    Unshare(#[source] io::Error),
    /// A mount failed.
    #[error("cannot mount {what} on {}", target.display())]
    Mount {
        /// What was to be mounted.
        what: String,
        /// Where.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or directory could not be made.
    #[error("cannot create {}", path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// On the host's root file system a volume needs a place that exists.
    #[error("the mount path {} does not exist on the host, and images that run there cannot create it", path.display())]
    NoMountPoint {
        /// The path.
        path: PathBuf,
    },
    /// The new root could not become the root.
    #[error("cannot change the root to {}", path.display())]
    ChangeRoot {
        /// The new root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a container's file system consists of.
#[derive(Debug, Clone)]
pub(crate) struct PodRoot {
    /// A private copy of the root is built on this (empty) directory; without it, the container
    /// sees the host's.
    pub(crate) private_at: Option<PathBuf>,
    /// Its host name.
    pub(crate) host_name: String,
    /// Files and directories of the host that appear elsewhere: (from, to, read-only).
    pub(crate) binds: Vec<Bind>,
}

/// A file or directory of the host that appears elsewhere in the container.
#[derive(Debug, Clone)]
pub(crate) struct Bind {
    /// Where it lies on the host.
    pub(crate) from: PathBuf,
    /// Where the container sees it.
    pub(crate) to: PathBuf,
    /// Whether the container may not write to it.
    pub(crate) read_only: bool,
}

impl PodRoot {
    /// Builds the file system and moves the calling thread into it.
    pub(crate) fn enter(&self) -> Result<(), BuildRootError> {
        os::unshare_thread_mounts().map_err(|error| BuildRootError::Unshare(error.into()))?;
        rustix::system::sethostname(self.host_name.as_bytes())
            .map_err(|error| BuildRootError::Unshare(error.into()))?;
        // Slave: what the host unmounts (a namespace's name, say) goes here too, what is mounted
        // here stays here.
        let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", propagation)
            .map_err(|error| mount_fault("nothing", Path::new("/"), error.into()))?;
        match &self.private_at {
            None => self.bind_all(Path::new("/"), false),
            Some(staging) => {
                let root = build_private(staging)?;
                self.bind_all(&root, true)?;
                change_root(&root)
            }
        }
    }

    fn bind_all(&self, root: &Path, may_create: bool) -> Result<(), BuildRootError> {
        for bind in &self.binds {
            let target = root.join(bind.to.strip_prefix("/").unwrap_or(&bind.to));
            if !target.exists() {
                if !may_create {
                    return Err(BuildRootError::NoMountPoint {
                        path: bind.to.clone(),
                    });
                }
                create_mount_point(&bind.from, &target)?;
            }
            let what = bind.from.display().to_string();
            rustix::mount::mount_bind(&bind.from, &target)
                .map_err(|error| mount_fault(&what, &target, error.into()))?;
            if bind.read_only {
                let flags = MountFlags::BIND | MountFlags::RDONLY;
                rustix::mount::mount_remount(&target, flags, "")
                    .map_err(|error| mount_fault(&what, &target, error.into()))?;
            }
        }
        Ok(())
    }
}

/// Builds a private copy of the root; returns where it is.
fn build_private(staging: &Path) -> Result<PathBuf, BuildRootError> {
    mount_tmpfs(staging, "mode=0755")?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| staging.join(name));
    for path in [&upper, &work, &root] {
        create_dir(path)?;
    }
    let options = format!(
        "lowerdir=/,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(
        "overlay",
        &root,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(|error| mount_fault("a copy of the root (overlay)", &root, error.into()))?;
    for name in ["proc", "sys", "dev"] {
        let target = root.join(name);
        rustix::mount::mount_bind_recursive(Path::new("/").join(name), &target)
            .map_err(|error| mount_fault(name, &target, error.into()))?;
    }
    for (name, options) in [
        ("tmp", "mode=1777"),
        ("run", "mode=0755"),
        ("var/log/nginx", "mode=0755"),
    ] {
        let target = root.join(name);
        create_dir(&target)?;
        mount_tmpfs(&target, options)?;
    }
    Ok(root)
}

fn mount_tmpfs(target: &Path, options: &str) -> Result<(), BuildRootError> {
    let options =
        std::ffi::CString::new(format!("{options},size={TMPFS_SIZE_MAX}")).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", target, "tmpfs", flags, options.as_c_str())
        .map_err(|error| mount_fault("a tmpfs", target, error.into()))
}

fn change_root(root: &Path) -> Result<(), BuildRootError> {
    let change = || -> io::Result<()> {
        rustix::process::chdir(root)?;
        // The old root comes to lie on the new one and is then taken away.
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        Ok(())
    };
    change().map_err(|source| BuildRootError::ChangeRoot {
        path: root.to_owned(),
        source,
    })
}

fn create_mount_point(from: &Path, target: &Path) -> Result<(), BuildRootError> {
    if from.is_dir() {
        return create_dir(target);
    }
    if let Some(parent) = target.parent() {
        create_dir(parent)?;
    }
    fs::write(target, "").map_err(|source| BuildRootError::Create {
        path: target.to_owned(),
        source,
    })
}

fn create_dir(path: &Path) -> Result<(), BuildRootError> {
    fs::create_dir_all(path).map_err(|source| BuildRootError::Create {
        path: path.to_owned(),
        source,
    })
}

fn mount_fault(what: &str, target: &Path, source: io::Error) -> BuildRootError {
    BuildRootError::Mount {
        what: what.to_owned(),
        target: target.to_owned(),
        source,
    }
}

/// A container may fill so much memory by writing files.
const TMPFS_SIZE_MAX: &str = "256m";
