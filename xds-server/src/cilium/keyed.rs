//! The keys of a Cilium cluster: which there are, which kinds of them are complete, what their values must say.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use tulle_model::{ClusterId, ClusterName};

use super::{
    keys,
    labels::{LOCAL_MIN, split},
    values::{AddressIdentity, ClusterConfig, ClusterService, Node},
    view::View,
};
use crate::remotes::{KeyTable, Put, RemoteIdentity, Said};

/// What a Cilium cluster has published.
pub(crate) struct CiliumKeys {
    cluster: ClusterName,
    table: KeyTable,
    view: View,
    /// As it was when the cluster was taken in.
    config: Vec<u8>,
    id: u32,
    /// Bits of a number of labels that count within the cluster.
    split: u32,
    /// The cluster marks what is complete.
    canaries: bool,
    marked: BTreeSet<&'static str>,
    complete: BTreeSet<&'static str>,
    listing: bool,
}

/// Why a value is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum ReadValueError {
    #[error("the value of {key} is not readable")]
    Json {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the value of {key} belongs to {belongs}")]
    OtherKey { key: String, belongs: String },
    #[error("the value of {key} is of cluster id {found}: expected {wanted}")]
    OtherCluster {
        key: String,
        found: u32,
        wanted: u32,
    },
    #[error("the key {key} is no number of labels of cluster id {wanted}")]
    Number { key: String, wanted: u32 },
    #[error("the value of {key} is no text")]
    Text { key: String },
}

impl CiliumKeys {
    pub(crate) fn new(cluster: &ClusterName) -> Self {
        CiliumKeys {
            cluster: cluster.clone(),
            table: KeyTable::default(),
            view: View::new(cluster),
            config: Vec::new(),
            id: 0,
            split: split(0),
            canaries: false,
            marked: BTreeSet::new(),
            complete: BTreeSet::new(),
            listing: false,
        }
    }

    pub(crate) fn info_key(&self) -> String {
        keys::config(&self.cluster)
    }

    pub(crate) fn heartbeat_key(&self) -> String {
        keys::HEARTBEAT.to_owned()
    }

    /// Marks come first: what is written after its mark was read is only later than it had to be.
    pub(crate) fn prefixes(&self) -> Vec<String> {
        let mut prefixes = vec![format!("{}{}/", keys::SYNCED, self.cluster)];
        prefixes.extend(keys::published_prefixes(&self.cluster));
        prefixes
    }

    pub(crate) fn single_keys(&self) -> Vec<String> {
        vec![self.info_key(), self.heartbeat_key()]
    }

    pub(crate) fn identify(&mut self, info: &[u8]) -> Result<RemoteIdentity, String> {
        let name = &self.cluster;
        let refused = |why: String| format!("cluster {name} is refused: {why}");
        let config: ClusterConfig = serde_json::from_slice(info)
            .map_err(|e| refused(format!("its cluster-config is not readable: {e}")))?;
        let capabilities = &config.capabilities;
        let most = match capabilities.max_connected_clusters {
            0 => 255,
            most => most,
        };
        let id = u16::try_from(config.id)
            .ok()
            .filter(|id| u32::from(*id) <= most);
        let id = id.and_then(|id| ClusterId::try_from(id).ok());
        let id = id.ok_or_else(|| {
            refused(format!(
                "its cluster-config says id {}: expected 1-{most}",
                config.id
            ))
        })?;
        if capabilities.cached {
            return Err(refused(
                "its etcd holds KVStoreMesh's copy of another cluster; connect to that cluster's own etcd".to_owned(),
            ));
        }
        if capabilities.endpoint_slices_export_mode == SLICES_ONLY {
            return Err(refused(
                "it exports endpoints in slices only; set clustermesh-service-v2 to prefer-legacy or prefer-endpointslice there".to_owned(),
            ));
        }
        let trust_domain = format!("{name}.{UNPROVABLE}")
            .parse()
            .map_err(|e| refused(format!("no trust domain can be named after it: {e}")))?;
        self.canaries = capabilities.synced_canaries;
        self.split = split(most);
        self.id = config.id;
        self.config = info.to_vec();
        Ok(RemoteIdentity {
            name: name.clone(),
            id,
            trust_domain,
            bundle: None,
        })
    }

    pub(crate) fn begin_lists(&mut self) {
        self.table.mark_stale();
        self.marked.clear();
        self.complete.clear();
        self.listing = true;
    }

    pub(crate) fn finish_lists(&mut self, whole: bool, said: &mut Said) -> bool {
        self.listing = false;
        for kind in keys::KINDS {
            if !whole || (self.canaries && !self.marked.contains(kind)) {
                continue;
            }
            self.complete.insert(kind);
            for key in self.table.stale(&format!("{kind}/")) {
                self.delete(&key, said);
            }
        }
        self.is_complete()
    }

    pub(crate) fn put(&mut self, key: &str, value: &[u8], said: &mut Said) {
        if key == self.info_key() {
            said.restart |= value != self.config;
            return;
        }
        if let Some(mark) = key.strip_prefix(keys::SYNCED) {
            return self.put_mark(mark, said);
        }
        if key == keys::HEARTBEAT || self.table.is_same(key, value) {
            return;
        }
        match self.table.put(key, value, value.len()) {
            Put::Room => {}
            Put::NoRoom => {
                return said.fault_text(
                    "it publishes more keys than can be kept; the rest is not taken in".to_owned(),
                );
            }
        }
        if let Err(error) = self.take(key, value) {
            said.fault(&error);
        }
    }

    fn put_mark(&mut self, mark: &str, said: &mut Said) {
        let of_this = mark
            .split_once('/')
            .filter(|(name, _)| *name == self.cluster.as_str());
        let kind = of_this.and_then(|(_, path)| {
            let named = |kind: &&str| path == *kind || path.starts_with(&format!("{kind}/"));
            keys::KINDS.into_iter().find(|kind| named(kind))
        });
        let Some(kind) = kind else { return };
        // Only a list can tell what is gone.
        said.restart |= !self.listing && !self.complete.contains(kind);
        self.marked.insert(kind);
    }

    fn take(&mut self, key: &str, value: &[u8]) -> Result<(), ReadValueError> {
        if let Some(name) = tail(key, keys::SERVICES) {
            let service: ClusterService = read(key, value)?;
            let belongs = format!("{}/{}/{}", service.cluster, service.namespace, service.name);
            self.check(key, name, &belongs, service.cluster_id)?;
            self.view.put_service(key, service);
        } else if let Some(name) = tail(key, keys::NODES) {
            let node: Node = read(key, value)?;
            let belongs = format!("{}/{}", node.cluster, node.name);
            self.check(key, name, &belongs, node.cluster_id)?;
            self.view.put_node(key, node);
        } else if let Some(number) = tail(key, keys::IDENTITIES) {
            let number = number
                .strip_prefix("id/")
                .and_then(|n| n.parse::<u32>().ok());
            let local = |n: u32| n & !(u32::MAX << self.split);
            let own =
                |n: &u32| local(*n) >= LOCAL_MIN && n.checked_shr(self.split) == Some(self.id);
            let number = number.filter(own).ok_or_else(|| ReadValueError::Number {
                key: told(key),
                wanted: self.id,
            })?;
            let text = std::str::from_utf8(value);
            let text = text.map_err(|_| ReadValueError::Text { key: told(key) })?;
            self.view.put_labels(number, text);
        } else if let Some(address) = tail(key, keys::ADDRESSES) {
            let pair: AddressIdentity = read(key, value)?;
            let name = address.strip_prefix("default/").unwrap_or(address);
            let of_range = pair.mask.is_some();
            if !of_range && name != pair.ip {
                return Err(other(key, &pair.ip));
            }
            let number = pair.id;
            if !pair.pod_name.is_empty() && number.checked_shr(self.split) != Some(self.id) {
                return Err(ReadValueError::OtherCluster {
                    key: told(key),
                    found: number.checked_shr(self.split).unwrap_or(0),
                    wanted: self.id,
                });
            }
            self.view.put_address(name, pair);
        }
        Ok(())
    }

    fn check(
        &self,
        key: &str,
        name: &str,
        belongs: &str,
        cluster_id: u32,
    ) -> Result<(), ReadValueError> {
        if name != belongs || !name.starts_with(&format!("{}/", self.cluster)) {
            return Err(other(key, belongs));
        }
        if cluster_id != self.id {
            return Err(ReadValueError::OtherCluster {
                key: told(key),
                found: cluster_id,
                wanted: self.id,
            });
        }
        Ok(())
    }

    pub(crate) fn keep(&mut self, key: &str) {
        self.table.keep(key);
    }

    pub(crate) fn delete(&mut self, key: &str, _said: &mut Said) {
        self.table.remove(key);
        if tail(key, keys::SERVICES).is_some() {
            self.view.remove_service(key);
        } else if tail(key, keys::NODES).is_some() {
            self.view.remove_node(key);
        } else if let Some(number) = tail(key, keys::IDENTITIES) {
            let number = number.strip_prefix("id/").and_then(|n| n.parse().ok());
            number.into_iter().for_each(|n| self.view.remove_labels(n));
        } else if let Some(address) = tail(key, keys::ADDRESSES) {
            let name = address.strip_prefix("default/").unwrap_or(address);
            self.view.remove_address(name);
        }
    }

    pub(crate) fn settle(&mut self, said: &mut Said) {
        self.view.take_changes(&mut said.changes);
    }

    pub(crate) fn clear(&mut self) {
        self.table.clear();
        self.view = View::new(&self.cluster);
    }

    fn is_complete(&self) -> bool {
        self.complete.len() == keys::KINDS.len()
    }

    pub(crate) fn synced(&self) -> BTreeMap<&'static str, bool> {
        let of = |kind| self.complete.contains(kind);
        BTreeMap::from([
            ("services", of(keys::SERVICES)),
            ("endpoints", of(keys::ADDRESSES)),
            ("identities", of(keys::IDENTITIES)),
            ("nodes", of(keys::NODES)),
        ])
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        BTreeMap::from([
            ("keys", self.table.len()),
            ("nodes", self.view.nodes_len()),
            ("identities", self.view.labels_len()),
        ])
    }
}

fn tail<'a>(key: &'a str, kind: &str) -> Option<&'a str> {
    key.strip_prefix(kind)?.strip_prefix('/')
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, ReadValueError> {
    serde_json::from_slice(value).map_err(|source| ReadValueError::Json {
        key: told(key),
        source,
    })
}

fn other(key: &str, belongs: &str) -> ReadValueError {
    ReadValueError::OtherKey {
        key: told(key),
        belongs: told(belongs),
    }
}

fn told(key: &str) -> String {
    key.chars().take(KEY_LEN_TOLD).collect()
}

const SLICES_ONLY: &str = "endpointslices-only";
/// Below the cluster's name: nobody signs for it.
const UNPROVABLE: &str = "cilium";
const KEY_LEN_TOLD: usize = 256;

#[cfg(test)]
mod tests;
