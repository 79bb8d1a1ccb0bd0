//! Sockets inside a pod's network namespace.
//!
//! A socket belongs to the namespace in which it was made, for ever; so a thread enters the pod's namespace only for the few
//! system calls that make a socket, and everything after that (bind aside) may happen on any thread. What is done inside never
//! awaits. This module decides nothing about where to connect.

mod sockets;
mod stock;
pub(crate) mod sys;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tulle_datapath::NetnsCookie;

pub use sockets::{SocketPurpose, listen_tcp, new_stream_socket};
pub use stock::SocketStock;

/// An open network namespace.
///
/// Holding it keeps the namespace alive, also when its file is gone.
#[derive(Debug)]
pub struct NamespaceHandle {
    target: OwnedFd,
    home: OwnedFd,
    cookie: NetnsCookie,
    /// The target is the namespace in which the process lives: nothing to enter.
    at_home: bool,
    path: PathBuf,
}

impl NamespaceHandle {
    /// Opens the namespace that `path` names (`/run/netns/…`, `/proc/<pid>/ns/net`).
    ///
    /// # Errors
    /// The file cannot be opened, is no network namespace, or this process may not enter it.
    pub fn open(path: &Path) -> Result<Self, OpenNamespaceError> {
        let failed = |source| OpenNamespaceError::Open {
            path: path.to_owned(),
            source,
        };
        let target = OwnedFd::from(File::open(path).map_err(failed)?);
        let home = OwnedFd::from(File::open(HOME).map_err(|source| OpenNamespaceError::Open {
            path: PathBuf::from(HOME),
            source,
        })?);
        let same = |a: &OwnedFd, b: &OwnedFd| -> io::Result<bool> {
            let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
            Ok(a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        };
        let at_home = same(&target, &home).map_err(failed)?;
        let mut handle = NamespaceHandle {
            target,
            home,
            cookie: NetnsCookie(0),
            at_home,
            path: path.to_owned(),
        };
        let cookie = handle
            .run_in(|| {
                let probe = socket2::Socket::new(
                    socket2::Domain::IPV4,
                    socket2::Type::STREAM.cloexec(),
                    None,
                )?;
                NetnsCookie::of_socket(&probe)
            })?
            .map_err(|source: io::Error| OpenNamespaceError::Cookie {
                path: path.to_owned(),
                source,
            })?;
        handle.cookie = cookie;
        Ok(handle)
    }

    /// The kernel's number for the namespace, by which its programs know the pod.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Runs `work` with the calling thread inside the namespace, then returns home.
    ///
    /// `work` makes sockets and nothing else; it cannot await.
    ///
    /// **Invariant:** the thread never goes on in a foreign namespace. If the way back fails the process aborts: a proxy that
    /// opened its next sockets in some pod's namespace would leak that pod's traffic, while the kernel's side keeps captured pods
    /// closed until a new process adopts them.
    ///
    /// # Errors
    /// The namespace cannot be entered; `work` was not run then.
    pub fn run_in<T>(&self, work: impl FnOnce() -> T) -> Result<T, EnterNamespaceError> {
        if self.at_home {
            return Ok(work());
        }
        move_into_link_name_space(self.target.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |e| EnterNamespaceError {
                path: self.path.clone(),
                source: e.into(),
            },
        )?;
        let _way_back = WayBack {
            home: self.home.as_fd(),
        };
        Ok(work())
    }
}

impl AsFd for NamespaceHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.target.as_fd()
    }
}

/// A namespace could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenNamespaceError {
    /// A namespace file cannot be opened.
    #[error("the network namespace {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell the namespace's cookie (needs Linux 5.14).
    #[error("the kernel does not tell the cookie of the network namespace {}", path.display())]
    Cookie {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Enter(#[from] EnterNamespaceError),
}

/// A namespace could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("the network namespace {} cannot be entered (needs CAP_SYS_ADMIN)", path.display())]
pub struct EnterNamespaceError {
    /// The namespace's file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl From<EnterNamespaceError> for io::Error {
    fn from(error: EnterNamespaceError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}

/// Brings the thread home, also when the work panics.
struct WayBack<'a> {
    home: BorrowedFd<'a>,
}

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Err(error) = move_into_link_name_space(self.home, Some(LinkNameSpaceType::Network)) {
            tracing::error!(%error, "a thread cannot return to its network namespace: aborting");
            std::process::abort();
        }
    }
}

/// The namespace of the calling thread; threads of this process are at home except inside [`NamespaceHandle::run_in`].
const HOME: &str = "/proc/thread-self/ns/net";
