//! Keeps one pod: its namespace, its capture by the node's proxy, its containers, and its orderly
//! end.
//!
//! One thread per pod. It works from the specification it was given; what it sees, the controller
//! writes down.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::json;
use thiserror::Error;

use super::{
    container,
    view::{Shared, State},
    volumes::{self, FillVolumeError},
};
use crate::{
    api::{self, ApiError, ClusterApi},
    cgroup::{self, CgroupError},
    config::{ClusterConfig, LabConfig, Mesh, NodeConfig},
    kind::Kind,
    names::{self, Places},
    netns::{self, NamespaceError},
    network,
    notes::PodNotes,
    object::ObjectKey,
    wait,
};

/// Everything that a pod's threads need to know.
pub(super) struct PodRun {
    pub(super) places: Places,
    pub(super) config: Arc<LabConfig>,
    pub(super) cluster: ClusterConfig,
    pub(super) node: NodeConfig,
    pub(super) api: ClusterApi,
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) spec: PodSpec,
    /// What the pod says of the sockmap, by annotation.
    pub(super) sockmap: Option<String>,
    pub(super) host: u8,
    pub(super) shared: Arc<Shared>,
}

/// A pod cannot be made ready to run (yet).
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum PreparePodError {
    #[error("serviceaccount \"{name}\" not found")]
    NoServiceAccount { name: String },
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Volume(#[from] FillVolumeError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the proxy of {node} refuses the pod: {message}")]
    Refused { node: String, message: String },
    #[error("the proxy of {node} has not captured the pod within {deadline:?}")]
    NotCaptured { node: String, deadline: Duration },
}

impl PodRun {
    /// The pod's name in files, cgroups and namespaces.
    pub(super) fn file_key(&self) -> String {
        names::pod_key(&self.key.namespace, &self.key.name)
    }

    /// The kubelet's directory of the pod.
    pub(super) fn directory(&self) -> PathBuf {
        self.places
            .pod(&self.cluster.name, &self.node.name, &self.file_key())
    }

    /// The cgroup of the pod.
    pub(super) fn cgroup(&self) -> PathBuf {
        self.places
            .pods_cgroup(&self.cluster.name, &self.node.name)
            .join(self.file_key())
    }

    /// The pod's network namespace.
    pub(super) fn namespace(&self) -> String {
        self.places
            .pod_namespace(&self.cluster.name, &self.file_key())
    }

    /// The pod's addresses, IPv4 first.
    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        [
            self.cluster.pod_address(&self.node, self.host).into(),
            self.cluster.pod_address_v6(&self.node, self.host).into(),
        ]
    }

    /// How long its containers may take to end.
    pub(super) fn grace(&self) -> Duration {
        let seconds = self.spec.termination_grace_period_seconds;
        seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DEFAULT_GRACE, |seconds| {
                Duration::from_secs(seconds.min(GRACE_SECONDS_MAX))
            })
    }

    /// Keeps the pod until it is stopped and gone.
    pub(super) fn keep(&self) {
        let adopted = self.adopt();
        if adopted.is_none() {
            self.shared.change(|state| state.view.forget_runs());
        }
        if self.make_ready(adopted.is_some()) {
            self.shared.change(|state| state.view.sandbox_ready = true);
            let notes = adopted.unwrap_or_else(|| PodNotes {
                uid: self.uid.clone(),
                host: self.host,
                ..PodNotes::default()
            });
            let notes = std::sync::Mutex::new(notes);
            thread::scope(|scope| {
                for index in 0..self.spec.containers.len() {
                    let notes = &notes;
                    scope.spawn(move || container::keep(self, index, notes));
                }
                self.attend();
            });
        }
        self.tear_down();
        self.shared.change(|state| state.finished = true);
    }

    /// The notes of an earlier supervisor, if its pod still runs.
    fn adopt(&self) -> Option<PodNotes> {
        let notes = PodNotes::read(&self.directory())?;
        let alive = notes.uid == self.uid
            && notes.host == self.host
            && netns::exists(&self.namespace())
            && cgroup::is_populated(&self.cgroup());
        alive.then_some(notes)
    }

    /// Tries until everything stands that containers need; says false if the pod is stopped before.
    fn make_ready(&self, adopted: bool) -> bool {
        let mut built = adopted;
        loop {
            if self.shared.look().stopping && !adopted {
                return false;
            }
            match self.prepare(&mut built) {
                Ok(()) => {
                    self.shared.change(|state| state.view.trouble = None);
                    return true;
                }
                Err(error) => {
                    let reason = match &error {
                        PreparePodError::Volume(_) => "CreateContainerConfigError",
                        PreparePodError::NotCaptured { .. } | PreparePodError::Refused { .. } => {
                            "NotCaptured"
                        }
                        _ => "FailedCreatePodSandBox",
                    };
                    let message = crate::describe(&error);
                    self.shared.change(|state| {
                        state.view.trouble = Some((reason.to_owned(), message));
                    });
                }
            }
            let revision = self.shared.look().config_revision;
            let again = Instant::now() + PREPARE_PAUSE;
            self.shared.wait_until(Some(again), |state| {
                state.stopping || state.config_revision != revision
            });
        }
    }

    fn prepare(&self, built: &mut bool) -> Result<(), PreparePodError> {
        let name = self
            .spec
            .service_account_name
            .as_deref()
            .unwrap_or(DEFAULT_SERVICE_ACCOUNT);
        let account = ObjectKey::new(Kind::ServiceAccount, &self.key.namespace, name);
        if self.api.get(&account)?.is_none() {
            return Err(PreparePodError::NoServiceAccount {
                name: name.to_owned(),
            });
        }
        if !*built {
            self.build()?;
            *built = true;
        }
        volumes::fill(
            &self.api,
            &self.key.namespace,
            &self.spec,
            &self.directory(),
        )?;
        self.wait_for_capture()
    }

    fn build(&self) -> Result<(), PreparePodError> {
        let directory = self.directory();
        // Whatever a pod of this name left behind belongs to another pod.
        self.remove_leftovers()?;
        cgroup::create(&self.cgroup())?;
        for (name, text) in [("resolv.conf", self.resolv_conf()), ("hosts", self.hosts())] {
            self.write(directory.join(name), text.as_bytes())?;
        }
        network::create_pod(
            &self.places,
            &self.cluster,
            &self.node,
            &self.file_key(),
            self.host,
        )?;
        self.write(self.pod_file("json"), self.pod_file_text().as_bytes())
    }

    fn write(&self, path: PathBuf, text: &[u8]) -> Result<(), PreparePodError> {
        api::write_whole(&path, text, 0o644)
            .map_err(|(path, source)| PreparePodError::Write { path, source })
    }

    fn pod_file(&self, extension: &str) -> PathBuf {
        let directory = self.places.pod_files(&self.cluster.name, &self.node.name);
        directory.join(format!("{}.{extension}", self.file_key()))
    }

    /// What the node's proxy has to know, as a CNI plugin would tell it.
    fn pod_file_text(&self) -> String {
        let account = self
            .spec
            .service_account_name
            .as_deref()
            .unwrap_or(DEFAULT_SERVICE_ACCOUNT);
        let mut text = json!({
            "uid": self.uid,
            "name": self.key.name,
            "namespace": self.key.namespace,
            "serviceAccount": account,
            "addresses": self.addresses(),
            "netns": netns::path(&self.namespace()),
            "nameservers": [self.cluster.dns()],
            "search": self.search(),
        });
        // What it means, and whether it means anything, the proxy decides.
        if let Some(sockmap) = &self.sockmap {
            text["sockmap"] = json!(sockmap);
        }
        text.to_string()
    }

    fn search(&self) -> Vec<String> {
        vec![
            format!("{}.svc.{CLUSTER_DOMAIN}", self.key.namespace),
            format!("svc.{CLUSTER_DOMAIN}"),
            CLUSTER_DOMAIN.to_owned(),
        ]
    }

    fn resolv_conf(&self) -> String {
        format!(
            "nameserver {}\nsearch {}\noptions ndots:5\n",
            self.cluster.dns(),
            self.search().join(" ")
        )
    }

    fn hosts(&self) -> String {
        let mut text =
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        for address in self.addresses() {
            text += &format!("{address}\t{}\n", self.key.name);
        }
        text
    }

    /// Whatever the node's proxy is, a pod starts when it has been taken in.
    fn wait_for_capture(&self) -> Result<(), PreparePodError> {
        if self.config.mesh == Mesh::None {
            return Ok(());
        }
        let (captured, refused) = (self.pod_file("captured"), self.pod_file("error"));
        let deadline = Instant::now() + CAPTURE_DEADLINE;
        wait::until(deadline, || {
            captured.exists() || refused.exists() || self.shared.look().stopping
        });
        let node = self.node.name.clone();
        if captured.exists() {
            Ok(())
        } else if let Ok(message) = fs::read_to_string(&refused) {
            Err(PreparePodError::Refused {
                node,
                message: message.trim().to_owned(),
            })
        } else {
            Err(PreparePodError::NotCaptured {
                node,
                deadline: CAPTURE_DEADLINE,
            })
        }
    }

    /// While the containers run: brings changed ConfigMaps in; returns when the containers have
    /// been told to end.
    fn attend(&self) {
        let mut revision = self.shared.look().config_revision;
        loop {
            self.shared.wait_until(None, |state: &State| {
                state.stopping || state.config_revision != revision
            });
            let state = self.shared.look();
            let (stopping, now) = (state.stopping, state.config_revision);
            drop(state);
            if stopping {
                break;
            }
            revision = now;
            let filled = volumes::fill(
                &self.api,
                &self.key.namespace,
                &self.spec,
                &self.directory(),
            );
            let trouble = filled
                .err()
                .map(|error| ("FailedMount".to_owned(), crate::describe(&error)));
            self.shared.change(|state| state.view.trouble = trouble);
        }
        // The endpoints are marked by now; nodes of all clusters get a moment to hear of it.
        self.shared
            .wait_until(Some(Instant::now() + self.config.stop_delay), |_| false);
        self.shared.change(|state| state.terminating = true);
    }

    /// Removes everything of the pod, again and again until it is gone.
    fn tear_down(&self) {
        while let Err(error) = self.remove_leftovers() {
            let message = crate::describe(&error);
            self.shared.change(|state| {
                state.view.trouble = Some(("FailedKillPod".to_owned(), message));
            });
            self.shared
                .wait_until(Some(Instant::now() + PREPARE_PAUSE), |_| false);
        }
    }

    fn remove_leftovers(&self) -> Result<(), PreparePodError> {
        let io = |path: PathBuf, result: std::io::Result<()>| match result {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(PreparePodError::Write { path, source })
            }
            _ => Ok(()),
        };
        let cgroup = self.cgroup();
        cgroup::kill(&cgroup, KILL_DEADLINE)?;
        cgroup::remove(&cgroup)?;
        let pod_file = self.pod_file("json");
        if pod_file.exists() {
            io(pod_file.clone(), fs::remove_file(&pod_file))?;
            let captured = self.pod_file("captured");
            if self.config.mesh != Mesh::None {
                // The proxy lets go of the namespace first; a dead proxy does not, and that must
                // not keep the pod.
                wait::until(Instant::now() + RELEASE_DEADLINE, || !captured.exists());
            }
            for extension in ["captured", "error"] {
                let path = self.pod_file(extension);
                io(path.clone(), fs::remove_file(&path))?;
            }
        }
        network::remove_pod(
            &self.places,
            &self.cluster,
            &self.node,
            &self.file_key(),
            Some(self.host),
        )?;
        let directory = self.directory();
        io(directory.clone(), fs::remove_dir_all(&directory))
    }
}

/// The service account of a pod that names none.
pub(super) const DEFAULT_SERVICE_ACCOUNT: &str = "default";
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Shorter than Kubernetes' 30 s: a lab's programs have nothing to save.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
const GRACE_SECONDS_MAX: u64 = 300;
const PREPARE_PAUSE: Duration = Duration::from_secs(1);
const CAPTURE_DEADLINE: Duration = Duration::from_secs(10);
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);
const KILL_DEADLINE: Duration = Duration::from_secs(10);
