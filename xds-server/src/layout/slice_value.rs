//! The value of a slice: workloads of one namespace, what they share written once.
//!
//! JSON, so that `etcdctl get` shows it: a list of templates (workloads without what is each one's own), a list of nodes, and one
//! short line for each workload. A field that the model gains later belongs to the template by itself.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tulle_model::{Health, Locality, Text, Workload, WorkloadUid};

/// As it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SliceValue {
    /// Workloads without name, uid, addresses, node, locality, hostname, health and weight.
    templates: Vec<Workload>,
    /// Names and places.
    nodes: Vec<Node>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "l", default, skip_serializing_if = "is_default")]
    locality: Locality,
}

/// What is a workload's own.
#[derive(Debug, Serialize, Deserialize)]
struct Endpoint {
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
    /// Number of the template.
    #[serde(rename = "t", default, skip_serializing_if = "is_default")]
    template: usize,
    /// Number of the node.
    #[serde(rename = "d", default, skip_serializing_if = "is_default")]
    node: usize,
    /// Where it is not `<cluster>//Pod/<namespace>/<name>`.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(rename = "o", default, skip_serializing_if = "String::is_empty")]
    hostname: String,
    #[serde(rename = "h", default, skip_serializing_if = "is_default")]
    health: Health,
    #[serde(rename = "w", default = "one", skip_serializing_if = "is_one")]
    capacity: u32,
}

/// Why a slice cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadSliceError {
    /// Not JSON of a slice.
    #[error("it is no slice")]
    Json(#[source] serde_json::Error),
    /// An endpoint names a template or a node that is not there.
    #[error("the endpoint {name:?} names a template or node that is not there")]
    Reference {
        /// Which.
        name: String,
    },
    /// More than any writer writes.
    #[error("it has {found} endpoints: expected at most {SLICE_LEN_READ_MAX}")]
    TooLong {
        /// How many.
        found: usize,
    },
}

/// Writes a slice.
pub(super) fn encode<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Bytes {
    let mut slice = SliceValue::default();
    for workload in workloads {
        let blank = template_of(workload);
        let template = place(&mut slice.templates, blank);
        let node = Node {
            name: workload.node.clone().into(),
            locality: workload.locality.clone(),
        };
        let pod = WorkloadUid::of_pod(&workload.cluster, &workload.namespace, &workload.name);
        slice.endpoints.push(Endpoint {
            name: workload.name.clone(),
            addresses: workload.addresses.clone(),
            template,
            node: place(&mut slice.nodes, node),
            uid: (pod != workload.uid).then(|| workload.uid.0.to_string()),
            hostname: workload.hostname.clone().into(),
            health: workload.health,
            capacity: workload.capacity,
        });
    }
    super::encode(&slice)
}

/// Reads a slice.
pub(super) fn decode(value: &[u8]) -> Result<Vec<Workload>, ReadSliceError> {
    let slice: SliceValue = serde_json::from_slice(value).map_err(ReadSliceError::Json)?;
    if slice.endpoints.len() > SLICE_LEN_READ_MAX {
        return Err(ReadSliceError::TooLong {
            found: slice.endpoints.len(),
        });
    }
    let workload = |endpoint: Endpoint| {
        let parts = slice
            .templates
            .get(endpoint.template)
            .zip(slice.nodes.get(endpoint.node));
        let Some((template, node)) = parts else {
            let name = endpoint.name.chars().take(NAME_LEN_TOLD).collect();
            return Err(ReadSliceError::Reference { name });
        };
        let pod = || WorkloadUid::of_pod(&template.cluster, &template.namespace, &endpoint.name);
        let own_name = endpoint.name.clone();
        Ok(Workload {
            uid: endpoint.uid.map_or_else(pod, |uid| WorkloadUid(uid.into())),
            name: endpoint.name,
            addresses: endpoint.addresses,
            node: node.name.clone().into(),
            locality: node.locality.clone(),
            hostname: endpoint.hostname.into(),
            health: endpoint.health,
            capacity: endpoint.capacity,
            canonical_name: or_own(&template.canonical_name, &own_name),
            owner_name: or_own(&template.owner_name, &own_name),
            ..template.clone()
        })
    };
    slice.endpoints.into_iter().map(workload).collect()
}

fn template_of(workload: &Workload) -> Workload {
    // A pod that nobody owns is called by its own name everywhere.
    let unless_own = |name: &Text| match *name == workload.name {
        true => OWN_NAME.into(),
        false => name.clone(),
    };
    Workload {
        canonical_name: unless_own(&workload.canonical_name),
        owner_name: unless_own(&workload.owner_name),
        uid: WorkloadUid("".into()),
        name: String::new(),
        addresses: Vec::new(),
        node: Text::default(),
        locality: Locality::default(),
        hostname: Text::default(),
        health: Health::default(),
        capacity: 1,
        demoted: false,
        ..workload.clone()
    }
}

fn or_own(name: &Text, own: &str) -> Text {
    match name.as_str() {
        OWN_NAME => own.into(),
        _ => name.clone(),
    }
}

/// The number of an equal one, which is made if there is none. Lists are as short as a slice.
fn place<T: PartialEq>(list: &mut Vec<T>, wanted: T) -> usize {
    list.iter()
        .position(|one| *one == wanted)
        .unwrap_or_else(|| {
            list.push(wanted);
            list.len() - 1
        })
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> u32 {
    1
}

fn is_one(value: &u32) -> bool {
    *value == 1
}

/// Other writers may cut larger slices than this one, up to this.
const SLICE_LEN_READ_MAX: usize = 100;
/// In a template: the workload's own name. No Kubernetes object is called so.
const OWN_NAME: &str = "=";
const NAME_LEN_TOLD: usize = 64;
