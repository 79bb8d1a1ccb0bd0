//! What the kubelet of the lab writes down about a running pod, so that a later supervisor, `exec`
//! and `kill` find its processes.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{api, cgroup};

/// A pod's notes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodNotes {
    /// Whose notes these are: a pod of the same name may come again.
    pub(crate) uid: String,
    /// The last part of its addresses.
    pub(crate) host: u8,
    /// Its containers that were started, by name.
    pub(crate) containers: BTreeMap<String, ContainerNotes>,
}

/// A container's notes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerNotes {
    /// Its first process.
    pub(crate) process: i32,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// When it was started, as Kubernetes writes it.
    pub(crate) started_at: String,
    /// The environment that its programs get.
    pub(crate) environment: Vec<(String, String)>,
}

impl PodNotes {
    /// Reads the notes in a pod's directory.
    pub(crate) fn read(directory: &Path) -> Option<PodNotes> {
        let text = fs::read_to_string(directory.join(FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the notes.
    pub(crate) fn write(&self, directory: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self)?;
        api::write_whole(&directory.join(FILE), &text, 0o644).map_err(|(_, error)| error)
    }
}

/// The first process of a container, if it lives: the noted one, or else any in the container's
/// cgroup.
pub(crate) fn live_process(container_cgroup: &Path, noted: Option<i32>) -> Option<i32> {
    let processes = cgroup::processes(container_cgroup);
    noted
        .filter(|noted| processes.contains(noted))
        .or_else(|| processes.first().copied())
}

const FILE: &str = "notes.json";
