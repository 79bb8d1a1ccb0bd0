//! Lets clusters read each other: each gets a file with the other's etcd and the read-only
//! certificate for it.

use std::{io, path::PathBuf};

use serde_json::json;
use thiserror::Error;

use crate::{
    api, component,
    config::{ClusterConfig, LabConfig},
    names::Places,
    pki::Holder,
};

/// Clusters could not be connected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A file operation failed.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A cluster is not up.
    #[error("cluster {cluster} is not up; `tulle lab up --cluster {cluster}` brings it up")]
    NotUp {
        /// The cluster.
        cluster: String,
    },
}

/// Lets two clusters read each other.
pub(crate) fn connect(
    places: &Places,
    a: &ClusterConfig,
    b: &ClusterConfig,
) -> Result<(), ConnectError> {
    for cluster in [a, b] {
        if !places.clusters_up().join(&cluster.name).exists() {
            return Err(ConnectError::NotUp {
                cluster: cluster.name.clone(),
            });
        }
    }
    for (reader, remote) in [(a, b), (b, a)] {
        let certificates = component::etcd_certificates(places, &remote.name);
        let port = component::ETCD_PORT;
        let text = serde_yaml_ng::to_string(&json!({
            "name": remote.name,
            "endpoints": [format!("https://{}:{port}", remote.control_plane())],
            "ca": certificates.ca(),
            "cert": certificates.certificate(Holder::Remote),
            "key": certificates.key(Holder::Remote),
        }))
        .unwrap_or_default();
        let path = remote_file(places, reader, remote);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == text) {
            continue;
        }
        api::write_whole(&path, text.as_bytes(), 0o600)
            .map_err(|(path, source)| ConnectError::Io { path, source })?;
    }
    Ok(())
}

/// Lets two clusters forget each other.
pub(crate) fn disconnect(
    places: &Places,
    a: &ClusterConfig,
    b: &ClusterConfig,
) -> Result<(), ConnectError> {
    for (reader, remote) in [(a, b), (b, a)] {
        let path = remote_file(places, reader, remote);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ConnectError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Connects every pair of clusters that are up.
pub(crate) fn connect_all(places: &Places, config: &LabConfig) -> Result<(), ConnectError> {
    let up = places.clusters_up();
    let clusters: Vec<&ClusterConfig> = config
        .clusters
        .iter()
        .filter(|cluster| up.join(&cluster.name).exists())
        .collect();
    for (index, a) in clusters.iter().enumerate() {
        for b in &clusters[index + 1..] {
            connect(places, a, b)?;
        }
    }
    Ok(())
}

fn remote_file(places: &Places, reader: &ClusterConfig, remote: &ClusterConfig) -> PathBuf {
    component::remotes_directory(places, &reader.name).join(format!("{}.yaml", remote.name))
}
