//! What the controller finds on the nodes: addresses in use, and leftovers of pods that are no
//! objects any more.

use std::{path::Path, time::Duration};

use super::Controller;
use crate::{
    cgroup, config::NodeConfig, kind::Kind, names, netns, notes::PodNotes, object::ObjectKey,
};

impl Controller {
    /// The last part of the pod's addresses: the one it has, or a free one.
    pub(super) fn host_for(&mut self, key: &ObjectKey, uid: &str, node: &NodeConfig) -> Option<u8> {
        let file_key = names::pod_key(&key.namespace, &key.name);
        let directory = self.places.pod(&self.cluster.name, &node.name, &file_key);
        if let Some(notes) = PodNotes::read(&directory).filter(|notes| notes.uid == uid) {
            return Some(notes.host);
        }
        let taken: Vec<u8> = self
            .pods
            .values()
            .filter(|keeper| keeper.node == node.index)
            .map(|keeper| keeper.host)
            .chain(self.noted_hosts(node))
            .collect();
        let first = self.next_host.get(&node.index).copied().unwrap_or(HOST_MIN);
        let host = (first..=HOST_MAX)
            .chain(HOST_MIN..first)
            .find(|host| !taken.contains(host))?;
        let next = if host >= HOST_MAX { HOST_MIN } else { host + 1 };
        self.next_host.insert(node.index, next);
        Some(host)
    }

    /// Addresses of pods that an earlier supervisor started and this one has not yet taken over.
    fn noted_hosts(&self, node: &NodeConfig) -> Vec<u8> {
        let directory = self.places.pod(&self.cluster.name, &node.name, "");
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| PodNotes::read(&entry.path()))
            .map(|notes| notes.host)
            .collect()
    }

    /// Removes what belongs to pods that are no objects any more: an earlier supervisor was killed
    /// at a bad moment.
    pub(super) fn remove_strays(&self) {
        let known: Vec<String> = self
            .names(Kind::Pod)
            .map(|key| names::pod_key(&key.namespace, &key.name))
            .collect();
        let prefix = self.places.pod_namespace(&self.cluster.name, "");
        for name in netns::list(&prefix) {
            let stray = name
                .strip_prefix(&prefix)
                .is_some_and(|pod| !known.iter().any(|key| key == pod));
            if stray && let Err(error) = netns::delete(&name) {
                self.log(&crate::describe(&error));
            }
        }
        for node in &self.cluster.nodes {
            for directory in [
                self.places.pods_cgroup(&self.cluster.name, &node.name),
                self.places.pod(&self.cluster.name, &node.name, ""),
                self.places.pod_files(&self.cluster.name, &node.name),
            ] {
                self.remove_stray_entries(&directory, &known);
            }
        }
    }

    fn remove_stray_entries(&self, directory: &Path, known: &[String]) {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let stem = path
                .file_stem()
                .map(|name| name.to_string_lossy().into_owned());
            if stem.is_none_or(|stem| known.contains(&stem)) {
                continue;
            }
            if path.starts_with(self.places.cgroup_root()) {
                let removed =
                    cgroup::kill(&path, STRAY_DEADLINE).and_then(|()| cgroup::remove(&path));
                if path.is_dir()
                    && let Err(error) = removed
                {
                    self.log(&crate::describe(&error));
                }
            } else {
                let removed = if path.is_dir() {
                    std::fs::remove_dir_all(&path)
                } else {
                    std::fs::remove_file(&path)
                };
                if let Err(error) = removed {
                    self.log(&format!("cannot remove {}: {error}", path.display()));
                }
            }
        }
    }
}

const HOST_MIN: u8 = 2;
const HOST_MAX: u8 = 254;
const STRAY_DEADLINE: Duration = Duration::from_secs(5);
