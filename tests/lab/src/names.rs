//! Every name and path of a rig, derived from the rig's name alone, so that `down` needs no memory
//! of what `up` did.

use std::path::{Path, PathBuf};

use crate::cgroup::{self, CgroupError};

/// A rig's name and the places that follow from it.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    rig: String,
    cgroup_root: PathBuf,
}

impl Places {
    /// The places of the rig of that name on this machine.
    pub(crate) fn of(rig: &str) -> Result<Places, CgroupError> {
        let cgroup_root = cgroup::mount_point()?.join(CGROUP_DIR);
        Ok(Places {
            rig: rig.to_owned(),
            cgroup_root,
        })
    }

    /// The rig's name.
    pub(crate) fn rig(&self) -> &str {
        &self.rig
    }

    /// The directory of the rig's files.
    pub(crate) fn state(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.rig)
    }

    /// The lab's file that the rig was built from.
    pub(crate) fn config(&self) -> PathBuf {
        self.state().join("lab.yaml")
    }

    /// One file for each cluster that is up.
    pub(crate) fn clusters_up(&self) -> PathBuf {
        self.state().join("clusters")
    }

    /// The directory of a cluster's files.
    pub(crate) fn cluster(&self, cluster: &str) -> PathBuf {
        self.state().join(cluster)
    }

    /// What the API server would hold.
    pub(crate) fn manifests(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).join("manifests")
    }

    /// The directory of a node's files.
    pub(crate) fn node(&self, cluster: &str, node: &str) -> PathBuf {
        self.cluster(cluster).join(node)
    }

    /// The pod files of a node, which its proxy watches.
    pub(crate) fn pod_files(&self, cluster: &str, node: &str) -> PathBuf {
        self.node(cluster, node).join("pods")
    }

    /// What the kubelet of the lab keeps for a pod: volumes, generated files, its notes.
    pub(crate) fn pod(&self, cluster: &str, node: &str, pod: &str) -> PathBuf {
        self.node(cluster, node).join("kubelet").join(pod)
    }

    /// The log of a component or container.
    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.state().join("logs").join(format!("{component}.log"))
    }

    /// The cgroup of the whole rig.
    pub(crate) fn cgroup(&self) -> PathBuf {
        self.cgroup_root.join(&self.rig)
    }

    /// The cgroup under which all rigs lie.
    pub(crate) fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// The cgroup of one program of a cluster's control plane.
    pub(crate) fn control_plane_cgroup(&self, cluster: &str, program: &str) -> PathBuf {
        self.cgroup()
            .join(cluster)
            .join("control-plane")
            .join(program)
    }

    /// The cgroup of all pods of a node: what the node's proxy captures.
    pub(crate) fn pods_cgroup(&self, cluster: &str, node: &str) -> PathBuf {
        self.cgroup().join(cluster).join(node).join("pods")
    }

    /// The cgroup of a node's proxy.
    pub(crate) fn proxy_cgroup(&self, cluster: &str, node: &str) -> PathBuf {
        self.cgroup().join(cluster).join(node).join("proxy")
    }

    /// The cgroup of the supervisor.
    pub(crate) fn supervisor_cgroup(&self) -> PathBuf {
        self.cgroup().join("supervisor")
    }

    /// The cgroup of helpers that somebody started beside the rig, such as a packet capture.
    pub(crate) fn helpers_cgroup(&self) -> PathBuf {
        self.cgroup().join("helpers")
    }

    /// The directory of a node's pinned maps and programs.
    pub(crate) fn pins(&self, node: &str) -> PathBuf {
        self.pins_of_rig().join(node)
    }

    /// The directory of the rig's pinned maps and programs.
    pub(crate) fn pins_of_rig(&self) -> PathBuf {
        Path::new(BPFFS).join(PINS_DIR).join(&self.rig)
    }

    /// What the names of all the rig's network namespaces start with.
    pub(crate) fn namespace_prefix(&self) -> String {
        format!("tl-{}-", self.rig)
    }

    /// The namespace of the router that joins nodes and clusters.
    pub(crate) fn router_namespace(&self) -> String {
        format!("{}router", self.namespace_prefix())
    }

    /// The namespace of a cluster's control plane.
    pub(crate) fn control_plane_namespace(&self, cluster: &str) -> String {
        format!("{}{cluster}.control-plane", self.namespace_prefix())
    }

    /// The namespace of a node.
    pub(crate) fn node_namespace(&self, cluster: &str, node: &str) -> String {
        format!("{}{cluster}.{node}", self.namespace_prefix())
    }

    /// The namespace of a pod.
    pub(crate) fn pod_namespace(&self, cluster: &str, pod: &str) -> String {
        format!("{}{cluster}.pod.{pod}", self.namespace_prefix())
    }

    /// What the names of a cluster's network namespaces start with.
    pub(crate) fn cluster_namespace_prefix(&self, cluster: &str) -> String {
        format!("{}{cluster}.", self.namespace_prefix())
    }
}

/// The router's bridge for a cluster: the link between that cluster and the others.
pub(crate) fn bridge(cluster_id: u8) -> String {
    format!("br-{cluster_id}")
}

/// A pod's name in files, cgroups and namespaces.
pub(crate) fn pod_key(namespace: &str, name: &str) -> String {
    format!("{namespace}_{name}")
}

/// The directory in which [`STATE_ROOT`] lies, and which stays.
pub(crate) const STATE_ROOT_PARENT: &str = "/run";
/// Where all rigs keep their files.
pub(crate) const STATE_ROOT: &str = "/run/tulle-lab";
/// Where the file system of pinned BPF objects is mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// The directory of all rigs' pins on that file system.
pub(crate) const PINS_DIR: &str = "tulle-lab";
const CGROUP_DIR: &str = "tulle-lab";
