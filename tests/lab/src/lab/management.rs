//! What an operator needs to manage the clusters of a rig, as `tulle` does.

use std::path::PathBuf;

use super::Lab;
use crate::{component, config::Mesh, names, netns};

/// The management API of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagementAccess {
    /// The cluster.
    pub cluster: String,
    /// Its address: `https://host:port`.
    pub server: String,
    /// The file of the root that the server is verified with.
    pub ca: PathBuf,
    /// The file of the operator's token.
    pub token: PathBuf,
    /// The network namespace from which it is reached.
    pub namespace: PathBuf,
}

impl Lab {
    /// The names of the rigs on this machine, the half built ones included.
    pub fn running() -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(names::STATE_ROOT) else {
            return Vec::new();
        };
        let rigs = entries
            .flatten()
            .filter(|e| e.path().join("lab.yaml").exists());
        let mut rigs: Vec<String> = rigs
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        rigs.sort();
        rigs
    }

    /// The management APIs of the clusters that are up.
    pub fn management(&self) -> Vec<ManagementAccess> {
        if self.config.mesh == Mesh::None {
            return Vec::new();
        }
        let up = self.places.clusters_up();
        let clusters = self.config.clusters.iter();
        let clusters = clusters.filter(|cluster| up.join(&cluster.name).exists());
        clusters
            .map(|cluster| ManagementAccess {
                cluster: cluster.name.clone(),
                server: component::management_url(cluster),
                ca: component::ca_directory(&self.places, &cluster.name).join("root-cert.pem"),
                token: component::operator_token_file(&self.places, &cluster.name),
                namespace: netns::path(&self.places.control_plane_namespace(&cluster.name)),
            })
            .collect()
    }
}
