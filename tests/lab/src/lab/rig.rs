//! The methods about the rig's own parts: components, links, logs, health.

use std::path::{Path, PathBuf};

use super::Lab;
use crate::{
    apply::ChangeError,
    capture::Capture,
    cgroup,
    component::{Component, Programs},
    connect,
    error::LabError,
    kind::Kind,
    names, network,
    object::{DEFAULT_NAMESPACE, ObjectKey},
    status,
};

impl Lab {
    /// Cuts (`false`) or joins (`true`) the wire between two clusters. Packets vanish silently when
    /// it is cut.
    ///
    /// # Errors
    /// If a cluster is unknown or the router refuses.
    pub fn set_link(&self, a: &str, b: &str, up: bool) -> Result<(), LabError> {
        if a == b {
            return Err(LabError::SameCluster { name: a.to_owned() });
        }
        Ok(network::set_link(
            &self.places,
            self.cluster(a)?,
            self.cluster(b)?,
            up,
        )?)
    }

    /// Lets two clusters read each other, as `up` does with `connect: auto`.
    ///
    /// # Errors
    /// If one of them is not up.
    pub fn connect(&self, a: &str, b: &str) -> Result<(), LabError> {
        Ok(connect::connect(
            &self.places,
            self.cluster(a)?,
            self.cluster(b)?,
        )?)
    }

    /// Lets two clusters forget each other.
    ///
    /// # Errors
    /// If a cluster is unknown.
    pub fn disconnect(&self, a: &str, b: &str) -> Result<(), LabError> {
        Ok(connect::disconnect(
            &self.places,
            self.cluster(a)?,
            self.cluster(b)?,
        )?)
    }

    /// Starts a component and waits until it is healthy.
    ///
    /// # Errors
    /// If it does not become healthy.
    pub fn start(&self, component: &str) -> Result<(), LabError> {
        let component = Component::parse(&self.config, component)?;
        let programs = Programs::find(self.binaries.as_deref());
        Ok(component.start(&self.places, &self.config, &programs)?)
    }

    /// Asks a component to end (SIGTERM) and waits for it. It stays ended until [`Lab::start`].
    ///
    /// # Errors
    /// If there is no such component.
    pub fn stop(&self, component: &str) -> Result<(), LabError> {
        Ok(Component::parse(&self.config, component)?.stop(&self.places)?)
    }

    /// Kills a component (SIGKILL), or a pod's programs (`pod/NAME`), which the supervisor then
    /// starts again.
    ///
    /// # Errors
    /// If there is no such component or pod.
    pub fn kill(&self, component: &str) -> Result<(), LabError> {
        match component.split_once("pod/") {
            Some((cluster, name)) => self.kill_pod(cluster.trim_end_matches('/'), name),
            None => Ok(Component::parse(&self.config, component)?.kill(&self.places)?),
        }
    }

    fn kill_pod(&self, cluster: &str, name: &str) -> Result<(), LabError> {
        for config in &self.config.clusters {
            if !cluster.is_empty() && config.name != cluster {
                continue;
            }
            let Ok(api) = self.api(&config.name) else {
                continue;
            };
            let found = api
                .list(Kind::Pod)?
                .into_iter()
                .find(|pod| pod.key.name == name);
            let Some(pod) = found else { continue };
            let node = pod.text(&["spec", "nodeName"]).unwrap_or_default();
            let key = names::pod_key(&pod.key.namespace, &pod.key.name);
            let cgroup = self.places.pods_cgroup(&config.name, node).join(key);
            for process in cgroup::processes_below(&cgroup) {
                if let Some(pid) = rustix::process::Pid::from_raw(process) {
                    // It may have ended by itself in this moment.
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            return Ok(());
        }
        let key = ObjectKey::new(Kind::Pod, DEFAULT_NAMESPACE, name);
        Err(ChangeError::NotFound { key }.into())
    }

    /// The process of a component, if it runs.
    ///
    /// # Errors
    /// If there is no such component.
    pub fn process(&self, component: &str) -> Result<Option<i32>, LabError> {
        Ok(Component::parse(&self.config, component)?.process(&self.places))
    }

    /// Captures what passes the link of a cluster into a pcap file, until the answer is dropped or
    /// stopped.
    ///
    /// # Errors
    /// If the capture does not begin.
    pub fn capture_link(&self, cluster: &str, file: &Path) -> Result<Capture, LabError> {
        let cluster = self.cluster(cluster)?;
        Ok(Capture::start(
            &self.places,
            &names::bridge(cluster.id),
            file,
        )?)
    }

    /// The log files of a component or pod, by `COMPONENT` or `pod/NAME`.
    ///
    /// # Errors
    /// If there is no log of that name.
    pub fn logs(&self, component: &str) -> Result<Vec<PathBuf>, LabError> {
        status::log_files(&self.places, component).ok_or_else(|| LabError::NoLog {
            name: component.to_owned(),
        })
    }

    /// The state of the rig, as a table.
    pub fn status(&self) -> String {
        status::status(&self.places, &self.config)
    }

    /// Whether every component of every cluster that is up does its work, and if not, who does not
    /// and why.
    ///
    /// # Errors
    /// With one line per component that is not healthy.
    pub fn health(&self) -> Result<(), LabError> {
        let faults = status::unhealthy(&self.places, &self.config);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(LabError::Unhealthy { faults })
        }
    }
}
