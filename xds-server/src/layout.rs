//! The keys and values in etcd: what one cluster publishes and others read.
//!
//! `/tulle/v1/<cluster>/` + `info`, `heartbeat`, `synced`, `bundle`, `workloads/<namespace>/<name>`,
//! `services/<namespace>/<name>`. Values are JSON of the model's types, so a newer reader takes an older writer's values.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tulle_model::{
    Change, ClusterId, ClusterName, NamespacedName, Service, TrustBundle, TrustDomain, Workload,
    WorkloadUid,
};

use crate::catalog::CLUSTER_DOMAIN;

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
    /// A fact.
    Fact(Change),
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
    /// The value speaks of another thing than the key.
    #[error("the value of {key} belongs to {belongs}")]
    OtherKey {
        /// The key, the cluster's prefix left out.
        key: String,
        /// Where it should be.
        belongs: String,
    },
    /// A key that stands for nothing.
    #[error("the key {key} names nothing")]
    Key {
        /// The key, the cluster's prefix left out.
        key: String,
    },
}

/// The prefix of all keys of a cluster.
pub fn prefix(cluster: &ClusterName) -> String {
    format!("/tulle/v1/{cluster}/")
}

/// The key of a workload: its uid without the cluster, with pods in the shortest form.
pub fn workload_key(uid: &WorkloadUid) -> String {
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
        BUNDLE => Entry::Fact(Change::Bundle(std::sync::Arc::new(read::<TrustBundle>(
            key, value,
        )?))),
        _ if key.starts_with(WORKLOADS) => {
            let workload: Workload = read(key, value)?;
            belongs(key, workload_key(&workload.uid))?;
            Entry::Fact(Change::Workload(std::sync::Arc::new(workload)))
        }
        _ if key.starts_with(SERVICES) => {
            let service: Service = read(key, value)?;
            belongs(key, service_key(&service.key()))?;
            Entry::Fact(Change::Service(std::sync::Arc::new(service)))
        }
        _ => Entry::Unknown,
    })
}

/// What the deletion of a key says; `None` for keys whose absence says nothing.
///
/// # Errors
///
/// When the key cannot be one of the layout.
pub fn read_deletion(cluster: &ClusterName, key: &str) -> Result<Option<Change>, ReadEntryError> {
    let bad = || ReadEntryError::Key {
        key: key.chars().take(256).collect(),
    };
    if let Some(name) = key.strip_prefix(WORKLOADS) {
        let (namespace, rest) = name.split_once('/').ok_or_else(bad)?;
        let uid = match rest.strip_prefix("EndpointSlice/") {
            Some(rest) => format!("{cluster}/{SLICE_KIND}{namespace}/{rest}"),
            None => format!("{cluster}/{POD_KIND}{name}"),
        };
        return Ok(Some(Change::WorkloadGone(WorkloadUid(uid.into()))));
    }
    if let Some(name) = key.strip_prefix(SERVICES) {
        let (namespace, name) = name.split_once('/').ok_or_else(bad)?;
        let hostname = format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}");
        return Ok(Some(Change::ServiceGone(NamespacedName::new(
            namespace, hostname,
        ))));
    }
    Ok(None)
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, ReadEntryError> {
    serde_json::from_slice(value).map_err(|source| ReadEntryError::Json {
        key: key.chars().take(256).collect(),
        source,
    })
}

fn belongs(key: &str, belongs: String) -> Result<(), ReadEntryError> {
    if key == belongs {
        Ok(())
    } else {
        Err(ReadEntryError::OtherKey {
            key: key.to_owned(),
            belongs,
        })
    }
}

/// The layout that this program writes.
pub const VERSION: u32 = 1;
/// Who the cluster is.
pub const INFO: &str = "info";
/// A number that changes while the cluster lives.
pub const HEARTBEAT: &str = "heartbeat";
/// Present when everything was published at least once.
pub const SYNCED: &str = "synced";
/// The roots of the cluster's trust domain.
pub const BUNDLE: &str = "bundle";
const WORKLOADS: &str = "workloads/";
const SERVICES: &str = "services/";
const POD_KIND: &str = "/Pod/";
const SLICE_KIND: &str = "discovery.k8s.io/EndpointSlice/";

#[cfg(test)]
mod tests;
