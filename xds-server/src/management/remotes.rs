//! The files of the remote clusters, as far as the management API writes them.
//!
//! One file for each cluster, named after it. A file that somebody else wrote is never overwritten.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokio::sync::Mutex;
use tulle_model::ClusterName;
use tulle_wire::management::RemoteCluster;

use super::{answer::Refusal, files};
use crate::remotes::is_https;

/// The directory of the files.
#[derive(Debug)]
pub struct RemoteFiles {
    root: PathBuf,
    own: ClusterName,
    /// One change at a time.
    turn: Mutex<()>,
}

impl RemoteFiles {
    /// The files of the cluster `own`.
    pub fn new(root: PathBuf, own: ClusterName) -> Self {
        RemoteFiles {
            root,
            own,
            turn: Mutex::default(),
        }
    }

    /// Lets the server read another cluster in this way; says whether that is new.
    pub(super) async fn put(
        &self,
        name: &ClusterName,
        remote: RemoteCluster,
    ) -> Result<bool, Refusal> {
        self.check(name, &remote)?;
        let text = serde_yaml_ng::to_string(&remote)
            .map_err(|error| Refusal::failed("write the remote cluster as YAML", &error))?;
        let text = format!("{WRITTEN_BY_US}\n{text}");
        let _turn = self.turn.lock().await;
        let (root, path) = (self.root.clone(), self.path(name));
        let (target, wanted) = (path.clone(), name.clone());
        let known = files::run(move || look(&root, &target, &wanted))
            .await
            .map_err(|error| Refusal::failed("read the remote clusters", &error))?;
        match known {
            Known::Elsewhere(file) => Err(Refusal::conflict(format!(
                "cluster {name} is already configured in {}, which was not written here; remove it first",
                file.display()
            ))),
            Known::Here(old) if old == text => Ok(false),
            Known::Here(_) | Known::Nowhere => {
                let written = files::replace(path, text.into_bytes()).await;
                written.map_err(|error| Refusal::failed("write the remote cluster", &error))?;
                Ok(true)
            }
        }
    }

    /// Lets the server forget a cluster; says whether it knew it.
    pub(super) async fn remove(&self, name: &ClusterName) -> Result<bool, Refusal> {
        let _turn = self.turn.lock().await;
        let (root, path) = (self.root.clone(), self.path(name));
        let (target, wanted) = (path.clone(), name.clone());
        let known = files::run(move || look(&root, &target, &wanted))
            .await
            .map_err(|error| Refusal::failed("read the remote clusters", &error))?;
        if let Known::Elsewhere(file) = known {
            // The operator asks for the cluster to be forgotten, whoever made it known.
            let removed = files::remove(file).await;
            return removed.map_err(|error| Refusal::failed("remove the remote cluster", &error));
        }
        let removed = files::remove(path).await;
        removed.map_err(|error| Refusal::failed("remove the remote cluster", &error))
    }

    fn check(&self, name: &ClusterName, remote: &RemoteCluster) -> Result<(), Refusal> {
        let refuse = |sentence: String| Err(Refusal::bad_request(sentence));
        if remote.name != name.as_str() {
            return refuse(format!(
                "the address names cluster {name}, the content cluster {}",
                remote.name.chars().take(64).collect::<String>()
            ));
        }
        if *name == self.own {
            return Err(Refusal::conflict(format!(
                "cluster {name} cannot be connected with itself"
            )));
        }
        if !matches!(remote.kind.as_deref(), None | Some("tulle" | "cilium")) {
            return refuse("kind must be tulle or cilium".to_owned());
        }
        if let Some(bad) = remote.endpoints.iter().find(|e| !is_https(e)) {
            return refuse(format!(
                "{bad:?} is not an endpoint: expected https://host:port"
            ));
        }
        if remote.endpoints.is_empty() || remote.endpoints.len() > ENDPOINTS_MAX {
            return refuse(format!(
                "there are {} endpoints, expected 1 to {ENDPOINTS_MAX}",
                remote.endpoints.len()
            ));
        }
        for (what, text, label) in [
            ("ca", &remote.ca, "CERTIFICATE"),
            ("cert", &remote.cert, "CERTIFICATE"),
            ("key", &remote.key, "PRIVATE KEY"),
        ] {
            // A path would be read by the server on the caller's behalf.
            if !text.trim_start().starts_with("-----BEGIN ") || !text.contains(label) {
                return refuse(format!("{what} is not PEM with a section {label}"));
            }
        }
        Ok(())
    }

    fn path(&self, name: &ClusterName) -> PathBuf {
        self.root.join(format!("{name}.yaml"))
    }
}

/// Where a cluster is configured.
enum Known {
    Nowhere,
    /// In our file, with this content.
    Here(String),
    /// In a file of somebody else.
    Elsewhere(PathBuf),
}

fn look(root: &Path, target: &Path, name: &ClusterName) -> io::Result<Known> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    for entry in fs::read_dir(root)?.take(FILES_MAX) {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        let Some(text) = is_yaml.then(|| fs::read_to_string(&path).ok()).flatten() else {
            continue;
        };
        let ours = path == target && text.starts_with(WRITTEN_BY_US);
        if ours {
            return Ok(Known::Here(text));
        }
        let named = serde_yaml_ng::from_str::<Named>(&text).is_ok_and(|n| n.name == name.as_str());
        if named || path == target {
            return Ok(Known::Elsewhere(path));
        }
    }
    Ok(Known::Nowhere)
}

const WRITTEN_BY_US: &str = "# Written by the management API; `tulle clustermesh` changes it.";
const ENDPOINTS_MAX: usize = 16;
/// Twice as many as clusters can be connected.
const FILES_MAX: usize = 1024;
