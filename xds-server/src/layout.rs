//! The keys and values in etcd: what one cluster publishes and others read.
//!
//! `/tulle/v1/<cluster>/` + `info`, `heartbeat`, `synced`, `bundle`, `services/<namespace>/<name>` and
//! `slices/<namespace>/<slice>`, which hold the workloads (up to layout 1 `workloads/<namespace>/<name>` held one each, which is
//! still read). Values are JSON of the model's types, so a newer reader takes an older writer's values.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tulle_model::{
    Change, ClusterId, ClusterName, NamespacedName, Service, TrustBundle, TrustDomain, Workload,
    WorkloadUid,
};

pub use self::{
    slice_value::ReadSliceError,
    slices::{SLICE_LEN_MAX, Slices},
};

mod slice_value;
mod slices;

/// What a cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInfo {
    /// Its name.
    pub name: ClusterName,
    /// Its id.
    pub id: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The layout that it writes.
    pub version: u32,
}

/// What one key of a cluster says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Who the cluster is.
    Info(ClusterInfo),
    /// A sign of life.
    Heartbeat(u64),
    /// The state is complete.
    Synced,
    /// Facts: these, and of what the key said before no others.
    Facts(Vec<Change>),
    /// A key of a later version.
    Unknown,
}

/// Why a value cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadEntryError {
    /// Not JSON of what the key stands for.
    #[error("the value of {key} is not readable")]
    Json {
        /// The key, the cluster's prefix left out.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Not a slice.
    #[error("the value of {key} is not readable")]
    Slice {
        /// The key, the cluster's prefix left out.
        key: String,
        /// Why.
        #[source]
        source: ReadSliceError,
    },
    /// The value speaks of another thing than the key.
    #[error("the value of {key} belongs to {belongs}")]
    OtherKey {
        /// The key, the cluster's prefix left out.
        key: String,
        /// Where it should be.
        belongs: String,
    },
}

/// The prefix of all keys of a cluster.
pub fn prefix(cluster: &ClusterName) -> String {
    format!("/tulle/v1/{cluster}/")
}

/// The key of a workload of layout 1: its uid without the cluster, with pods in the shortest form.
fn workload_key(uid: &WorkloadUid) -> String {
    let tail = uid
        .0
        .split_once('/')
        .map_or(&*uid.0, |(_cluster, tail)| tail);
    match tail.strip_prefix(POD_KIND) {
        Some(name) => format!("{WORKLOADS}{name}"),
        // `<group>/<kind>/<namespace>/<name>…` becomes `<namespace>/<kind>/<name>…`.
        None => match tail
            .strip_prefix(SLICE_KIND)
            .and_then(|t| t.split_once('/'))
        {
            Some((namespace, rest)) => format!("{WORKLOADS}{namespace}/EndpointSlice/{rest}"),
            None => format!("{WORKLOADS}{tail}"),
        },
    }
}

/// The key of a slice.
fn slice_key(namespace: &str, slice: &str) -> String {
    format!("{SLICES}{namespace}/{slice}")
}

/// The key of a service.
pub fn service_key(key: &NamespacedName) -> String {
    let name = key.name.split('.').next().unwrap_or_default();
    format!("{SERVICES}{}/{name}", key.namespace)
}

/// A value as JSON. The model's types have no map with keys that are not texts, so this cannot fail; if it did, the value
/// would be empty and no reader would take it.
pub fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .unwrap_or_default()
}

/// Reads one key (the cluster's prefix left out) with its value.
///
/// # Errors
///
/// When the value does not fit the key; other keys are not affected.
pub fn read_entry(key: &str, value: &[u8]) -> Result<Entry, ReadEntryError> {
    Ok(match key {
        INFO => Entry::Info(read(key, value)?),
        HEARTBEAT => Entry::Heartbeat(read(key, value)?),
        SYNCED => Entry::Synced,
        BUNDLE => {
            let bundle: TrustBundle = read(key, value)?;
            Entry::Facts(vec![Change::Bundle(Arc::new(bundle))])
        }
        _ if key.starts_with(SLICES) => Entry::Facts(read_slice(key, value)?),
        _ if key.starts_with(WORKLOADS) => {
            let workload: Workload = read(key, value)?;
            belongs(key, workload_key(&workload.uid))?;
            Entry::Facts(vec![Change::Workload(Arc::new(workload))])
        }
        _ if key.starts_with(SERVICES) => {
            let service: Service = read(key, value)?;
            belongs(key, service_key(&service.key()))?;
            Entry::Facts(vec![Change::Service(Arc::new(service))])
        }
        _ => Entry::Unknown,
    })
}

fn read_slice(key: &str, value: &[u8]) -> Result<Vec<Change>, ReadEntryError> {
    let workloads = slice_value::decode(value).map_err(|source| ReadEntryError::Slice {
        key: told(key),
        source,
    })?;
    let (namespace, slice) = key
        .strip_prefix(SLICES)
        .and_then(|k| k.split_once('/'))
        .unwrap_or_default();
    if let Some(stranger) = workloads.iter().find(|w| w.namespace != namespace) {
        belongs(key, slice_key(&stranger.namespace, slice))?;
    }
    let changes = workloads.into_iter().map(|w| Change::Workload(Arc::new(w)));
    Ok(changes.collect())
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, ReadEntryError> {
    serde_json::from_slice(value).map_err(|source| ReadEntryError::Json {
        key: told(key),
        source,
    })
}

fn belongs(key: &str, belongs: String) -> Result<(), ReadEntryError> {
    if key == belongs {
        Ok(())
    } else {
        Err(ReadEntryError::OtherKey {
            key: told(key),
            belongs: told(&belongs),
        })
    }
}

/// As much of a key as a message needs.
fn told(key: &str) -> String {
    key.chars().take(KEY_LEN_TOLD).collect()
}

/// The layout that this program writes, and the newest that it reads.
pub const VERSION: u32 = 2;
/// Who the cluster is.
pub const INFO: &str = "info";
/// A number that changes while the cluster lives.
pub const HEARTBEAT: &str = "heartbeat";
/// Present when everything was published at least once.
pub const SYNCED: &str = "synced";
/// The roots of the cluster's trust domain.
pub const BUNDLE: &str = "bundle";
const WORKLOADS: &str = "workloads/";
const SLICES: &str = "slices/";
const SERVICES: &str = "services/";
const POD_KIND: &str = "/Pod/";
const SLICE_KIND: &str = "discovery.k8s.io/EndpointSlice/";
const KEY_LEN_TOLD: usize = 256;

#[cfg(test)]
mod tests;
