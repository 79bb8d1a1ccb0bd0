//! Where the cluster's objects come from.
//!
//! A source delivers whole Kubernetes objects and says which of them are gone; what they mean for the mesh is decided in
//! `catalog`. The directory of manifests is the first source; the Kubernetes API comes behind the same trait.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{directory_watch::WatchDirectoryError, policy_source::SourcePolicy};

pub mod manifests;

/// A stream of whole-object changes.
#[async_trait]
pub trait Source: Send {
    /// Runs until `stop` is cancelled or the receiver is gone.
    ///
    /// The first events carry everything that exists; then `SourceEvent::Synced` follows, once.
    ///
    /// # Errors
    ///
    /// Only for what no retry can mend; anything that may pass is reported as a `Problem` and tried again.
    async fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        stop: CancellationToken,
    ) -> Result<(), RunSourceError>;
}

/// What a source tells.
#[derive(Debug)]
pub enum SourceEvent {
    /// Objects that are new, different or gone; applied together.
    Changes(Vec<ObjectChange>),
    /// All that is wrong now; replaces what was told before.
    Problems(Vec<Problem>),
    /// Everything that existed at the start has been delivered.
    Synced,
}

/// One object's change.
#[derive(Debug, Clone)]
pub enum ObjectChange {
    /// New or different.
    Put(ObjectKey, Arc<Object>),
    /// No longer there.
    Gone(ObjectKey),
}

/// The name of an object: unique in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// What it is.
    pub kind: ObjectKind,
    /// Its namespace; empty for kinds that have none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// The kinds that the mesh reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// `v1 ServiceAccount`.
    ServiceAccount,
    /// `v1 Pod`.
    Pod,
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `security.istio.io AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `security.istio.io PeerAuthentication`.
    PeerAuthentication,
    /// `networking.k8s.io NetworkPolicy`.
    NetworkPolicy,
    /// `cilium.io CiliumNetworkPolicy`.
    CiliumNetworkPolicy,
    /// `cilium.io CiliumClusterwideNetworkPolicy`.
    CiliumClusterwideNetworkPolicy,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An object's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// `v1 Namespace`.
    Namespace(Box<Namespace>),
    /// `v1 Node`.
    Node(Box<Node>),
    /// `v1 ServiceAccount`.
    ServiceAccount(Box<ServiceAccount>),
    /// `v1 Pod`.
    Pod(Box<Pod>),
    /// `v1 Service`.
    Service(Box<Service>),
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice(Box<EndpointSlice>),
    /// A policy of any language, already translated.
    Policy(Box<SourcePolicy>),
}

/// Something that the operator should mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The file (or directory) at fault.
    pub path: PathBuf,
    /// The line, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The field, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// One sentence.
    pub message: String,
}

/// Why a source cannot run at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunSourceError {
    /// The kernel refuses to watch.
    #[error(transparent)]
    Watch(#[from] WatchDirectoryError),
    /// The thread that reads files died.
    #[error("the reader of {} stopped unexpectedly", path.display())]
    Reader {
        /// The directory.
        path: PathBuf,
        /// What tokio says.
        #[source]
        source: tokio::task::JoinError,
    },
}
