//! Runs a command in a pod's container, as `kubectl exec` does.

use std::{ffi::OsString, path::PathBuf, process::Child};

use k8s_openapi::api::core::v1::Pod;
use thiserror::Error;

use crate::{
    api::{ApiError, ClusterApi},
    config::ClusterConfig,
    kind::Kind,
    launch::{Files, Launch, LaunchError, Streams},
    names::{self, Places},
    notes::{PodNotes, live_process},
    object::{DEFAULT_NAMESPACE, Object, ObjectKey},
    supervisor::{is_ready, owner},
};

/// A command could not be run in a pod.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The target is of no kind that has pods.
    #[error("`{target}` is not deployment/NAME, pod/NAME or a pod's name")]
    BadTarget {
        /// What was asked for.
        target: String,
    },
    /// The target has no pod that runs.
    #[error("{target} has no running pod in {cluster}")]
    NoPod {
        /// What was asked for.
        target: String,
        /// Where.
        cluster: String,
    },
    /// The pod has no such container.
    #[error("pod {pod} has no container `{container}`; it has {}", known.join(", "))]
    NoContainer {
        /// The pod.
        pod: String,
        /// What was asked for.
        container: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The container has no process now.
    #[error("container {container} of pod {pod} does not run")]
    NotRunning {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// No command was given.
    #[error("there is no command to run")]
    NoCommand,
    /// The cluster's objects could not be read.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The command could not be started.
    #[error(transparent)]
    Launch(Box<LaunchError>),
    /// What the command wrote could not be read.
    #[error("cannot read what `{command}` writes")]
    Read {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A command to be run in a pod.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// `deployment/NAME`, `pod/NAME`, or a pod's name.
    pub target: String,
    /// The pod's namespace; `default` if not given.
    pub namespace: Option<String>,
    /// The container; the first one if not given.
    pub container: Option<String>,
    /// The user to run as; the container's if not given.
    pub user: Option<u32>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// How a command is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// To the caller's own streams.
    Inherit,
    /// By pipes.
    Piped,
}

/// The pod that a target means: by name, or the first ready one of a deployment.
pub(crate) fn find_pod(
    api: &ClusterApi,
    target: &str,
    namespace: Option<&str>,
) -> Result<Object, ExecError> {
    let bad = || ExecError::BadTarget {
        target: target.to_owned(),
    };
    let (kind, name) = match target.split_once('/') {
        Some((kind, name)) => (Kind::from_argument(kind).ok_or_else(bad)?, name),
        None => (Kind::Pod, target),
    };
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    let no_pod = || ExecError::NoPod {
        target: target.to_owned(),
        cluster: api.cluster().to_owned(),
    };
    match kind {
        Kind::Pod => api
            .get(&ObjectKey::new(Kind::Pod, namespace, name))?
            .ok_or_else(no_pod),
        Kind::Deployment => {
            let mut pods = pods_of(api, namespace, name)?;
            pods.retain(|pod| pod.text(&["status", "phase"]) == Some("Running"));
            // Among equals the first by name, so that the same question gets the same answer.
            pods.into_iter()
                .min_by_key(|pod| !is_ready(pod))
                .ok_or_else(no_pod)
        }
        _ => Err(bad()),
    }
}

/// The pods of a deployment that nobody has asked to end, by name.
pub(crate) fn pods_of(
    api: &ClusterApi,
    namespace: &str,
    deployment: &str,
) -> Result<Vec<Object>, ApiError> {
    let mut pods = api.list(Kind::Pod)?;
    pods.retain(|pod| {
        pod.key.namespace == namespace
            && owner(pod).is_some_and(|(name, _)| name == deployment)
            && pod.field(&["metadata", "deletionTimestamp"]).is_none()
    });
    Ok(pods)
}

/// Prepares the command to run where the request says.
pub(crate) fn prepare(
    places: &Places,
    cluster: &ClusterConfig,
    api: &ClusterApi,
    request: &ExecRequest,
    connection: Connection,
) -> Result<Launch, ExecError> {
    if request.command.is_empty() {
        return Err(ExecError::NoCommand);
    }
    let pod = find_pod(api, &request.target, request.namespace.as_deref())?;
    let no_pod = || ExecError::NoPod {
        target: request.target.clone(),
        cluster: cluster.name.clone(),
    };
    let spec = pod
        .view::<Pod>()
        .and_then(|pod| pod.spec)
        .ok_or_else(no_pod)?;
    let node = spec.node_name.as_deref().ok_or_else(no_pod)?;
    let known = || {
        spec.containers
            .iter()
            .map(|container| container.name.clone())
            .collect()
    };
    let container = match &request.container {
        None => spec.containers.first(),
        Some(name) => spec
            .containers
            .iter()
            .find(|container| container.name == *name),
    };
    let container = container.ok_or_else(|| ExecError::NoContainer {
        pod: pod.key.name.clone(),
        container: request.container.clone().unwrap_or_default(),
        known: known(),
    })?;
    let key = names::pod_key(&pod.key.namespace, &pod.key.name);
    let cgroup = places
        .pods_cgroup(&cluster.name, node)
        .join(&key)
        .join(&container.name);
    let notes = PodNotes::read(&places.pod(&cluster.name, node, &key)).unwrap_or_default();
    let noted = notes
        .containers
        .get(&container.name)
        .cloned()
        .unwrap_or_default();
    let process =
        live_process(&cgroup, Some(noted.process)).ok_or_else(|| ExecError::NotRunning {
            pod: pod.key.name.clone(),
            container: container.name.clone(),
        })?;
    let own_user = container
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user)
        .and_then(|user| u32::try_from(user).ok());
    Ok(Launch {
        command: request.command.clone(),
        environment: Some(noted.environment.into_iter().chain(terminal()).collect()),
        cgroup,
        namespace: Some(places.pod_namespace(&cluster.name, &key)),
        files: Files::Of(process),
        directory: PathBuf::from(container.working_dir.as_deref().unwrap_or("/")),
        user: request.user.or(own_user),
        new_session: false,
        streams: match connection {
            Connection::Inherit => Streams::Inherit,
            Connection::Piped => Streams::Piped,
        },
    })
}

/// Starts the command.
pub(crate) fn spawn(launch: Launch) -> Result<Child, ExecError> {
    launch
        .spawn()
        .map_err(|error| ExecError::Launch(Box::new(error)))
}

/// The kind of the caller's terminal, which programs in the pod need to know.
fn terminal() -> Option<(String, String)> {
    Some(("TERM".to_owned(), std::env::var("TERM").ok()?))
}
