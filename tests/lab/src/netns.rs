//! Named network namespaces: make, list, delete, and run code inside one.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use rustix::{
    mount::UnmountFlags,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use thiserror::Error;

use crate::tool::{self, RunToolError};

/// A network namespace could not be made, entered or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NamespaceError {
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
    /// The thread that works inside the namespace ended without an answer.
    #[error("the work inside namespace {name} broke off")]
    BrokenOff {
        /// The namespace.
        name: String,
    },
    /// `ip` refused.
    #[error("cannot configure namespace {name}")]
    Ip {
        /// The namespace.
        name: String,
        /// Why.
        #[source]
        source: RunToolError,
    },
}

/// The file that names the namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(NAMESPACES_DIR).join(name)
}

/// Whether the namespace exists.
pub(crate) fn exists(name: &str) -> bool {
    path(name).exists()
}

/// The names of all namespaces that start with `prefix`.
pub(crate) fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMESPACES_DIR) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Makes the namespaces that don't exist yet.
pub(crate) fn create(names: &[&str]) -> Result<(), NamespaceError> {
    let lines: String = names
        .iter()
        .filter(|name| !exists(name))
        .map(|name| format!("netns add {name}\n"))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    tool::run(command, Some(&lines)).map_err(|source| NamespaceError::Ip {
        name: names.join(", "),
        source,
    })?;
    Ok(())
}

/// Removes a namespace's name; the kernel removes its devices when the last process has left. No
/// error if it is gone.
pub(crate) fn delete(name: &str) -> Result<(), NamespaceError> {
    let path = path(name);
    // A name that was made but not yet mounted on (a starter killed half-way) is not a mount point:
    // only the file goes.
    if let Err(error) = rustix::mount::unmount(&path, UnmountFlags::DETACH)
        && error != rustix::io::Errno::INVAL
        && error != rustix::io::Errno::NOENT
    {
        return Err(fault("unmount", &path, error.into()));
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault("remove", &path, error)),
        _ => Ok(()),
    }
}

/// Runs lines of `ip -batch` inside a namespace.
pub(crate) fn batch(name: &str, family: Family, lines: &str) -> Result<(), NamespaceError> {
    let mut command = Command::new("ip");
    if family == Family::V6 {
        command.arg("-6");
    }
    command.args(["-n", name, "-batch", "-"]);
    tool::run(command, Some(lines))
        .map(drop)
        .map_err(|source| NamespaceError::Ip {
            name: name.to_owned(),
            source,
        })
}

/// Which address family a batch is about, for the commands of `ip` that don't take it from an
/// address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Taken from the addresses; IPv4 where there is none.
    Any,
    /// IPv6.
    V6,
}

/// Moves the calling thread into the namespace, for the rest of its life.
pub(crate) fn join(name: &str) -> Result<(), NamespaceError> {
    let path = path(name);
    let file = File::open(&path).map_err(|source| fault("open", &path, source))?;
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(LinkNameSpaceType::Network),
    )
    .map_err(|error| fault("enter", &path, error.into()))
}

/// Runs `work` on a thread of its own inside the namespace. Sockets made there belong to the
/// namespace for good.
pub(crate) fn inside<T: Send>(
    name: &str,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            join(name)?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|_| {
            Err(NamespaceError::BrokenOff {
                name: name.to_owned(),
            })
        })
    })
}

/// Sets kernel settings (below `/proc/sys/`) inside the namespace.
pub(crate) fn set_sysctls(name: &str, settings: &[(&str, &str)]) -> Result<(), NamespaceError> {
    inside(name, || {
        for (key, value) in settings {
            let path = Path::new("/proc/sys").join(key);
            fs::write(&path, value).map_err(|source| fault("write", &path, source))?;
        }
        Ok(())
    })?
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> NamespaceError {
    NamespaceError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

const NAMESPACES_DIR: &str = "/run/netns";
