//! The one error of the library's facade: each operation's own error, and what only the facade can
//! see.

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::{
    api::ApiError, apply::ChangeError, capture::CaptureError, cgroup::CgroupError,
    component::ComponentError, config::ReadConfigError, connect::ConnectError, down::DownError,
    exec::ExecError, launch::LaunchError, netns::NamespaceError, up::UpError,
};

/// A command of the lab failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// The lab's file.
    #[error(transparent)]
    Config(#[from] ReadConfigError),
    /// Bringing up.
    #[error(transparent)]
    Up(#[from] UpError),
    /// Taking down.
    #[error(transparent)]
    Down(#[from] DownError),
    /// Objects.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Changes of objects.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Commands in pods.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Components.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// Connections between clusters.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Namespaces.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Packet captures.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The rig is not up.
    #[error("rig {rig} is not up; `tulle lab up` brings it up")]
    NotUp {
        /// The rig.
        rig: String,
    },
    /// The lab's file has no such cluster.
    #[error("the lab has no cluster `{name}`; it has {}", known.join(", "))]
    UnknownCluster {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The lab's file has no such node.
    #[error("the lab has no node `{name}`")]
    UnknownNode {
        /// What was asked for.
        name: String,
    },
    /// A link needs two ends.
    #[error("a link needs two different clusters, not `{name}` twice")]
    SameCluster {
        /// The cluster.
        name: String,
    },
    /// The kind is unknown.
    #[error("there is no kind `{name}`; there are {}", known.join(", "))]
    UnknownKind {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// There is no log of that name.
    #[error("there is no log of `{name}`")]
    NoLog {
        /// What was asked for.
        name: String,
    },
    /// Something did not become ready in time.
    #[error("{what} is not ready within {deadline:?}: {message}")]
    NotReady {
        /// What.
        what: String,
        /// How long it had.
        deadline: Duration,
        /// What it lacks.
        message: String,
    },
    /// Components are not healthy.
    #[error("not healthy: {}", faults.join("; "))]
    Unhealthy {
        /// Who, and why.
        faults: Vec<String>,
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
}

impl LabError {
    /// Whether the object that the command is about is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, LabError::Change(ChangeError::NotFound { .. }))
    }

    /// Whether a command in a pod could not be run because there is no such program.
    pub fn is_missing_program(&self) -> bool {
        match self {
            LabError::Exec(ExecError::Launch(error)) => matches!(
                &**error,
                LaunchError::Program { source, .. } if source.kind() == io::ErrorKind::NotFound
            ),
            _ => false,
        }
    }
}
