//! The layout of the saved view: records of a length, a checksum and bytes.
//!
//! The first record says whose view it is, an empty one ends the file, and each between them is a `DeltaDiscoveryResponse`.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use tulle_model::{NamespacedName, RulesKey, TrustDomain, WorkloadUid};
use tulle_wire::{
    Message, encode_authorization, encode_bundle, encode_rules, encode_service, encode_workload,
    pack, resource_version,
    xds::{DeltaDiscoveryResponse, Resource},
};

use super::super::{ResourceKind, View, XdsSettings};

/// Whose view it is, and which build wrote it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) build: String,
    pub(super) cluster: String,
    pub(super) node: String,
    pub(super) trust_domain: String,
}

impl Header {
    pub(super) fn of(settings: &XdsSettings) -> Self {
        Header {
            format: FORMAT,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: settings.cluster.to_string(),
            node: settings.node.clone(),
            trust_domain: settings.trust_domain.to_string(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes)
            .ok()
            .filter(|header: &Header| header.format == FORMAT)
    }

    pub(super) fn is_of_same_node(&self, other: &Header) -> bool {
        let key = |h: &Header| (h.cluster.clone(), h.node.clone(), h.trust_domain.clone());
        key(self) == key(other)
    }
}

/// The whole view, a few hundred resources at a time.
pub(super) fn view_records(view: &View) -> impl Iterator<Item = Vec<u8>> {
    ResourceKind::ALL.into_iter().flat_map(move |kind| {
        let mut resources = view
            .versions(kind)
            .filter_map(move |(name, version)| resource(view, kind, name, version));
        std::iter::from_fn(move || {
            let batch: Vec<Resource> = resources.by_ref().take(BATCH).collect();
            (!batch.is_empty()).then(|| {
                let response = DeltaDiscoveryResponse {
                    type_url: kind.type_url().to_owned(),
                    resources: batch,
                    ..DeltaDiscoveryResponse::default()
                };
                response.encode_to_vec()
            })
        })
    })
}

/// What a record holds; `None` if it is no response of a known type.
pub(super) fn decode_record(bytes: &[u8]) -> Option<(ResourceKind, DeltaDiscoveryResponse)> {
    let response = DeltaDiscoveryResponse::decode(bytes).ok()?;
    Some((ResourceKind::of_type_url(&response.type_url)?, response))
}

fn resource(view: &View, kind: ResourceKind, name: &str, version: &str) -> Option<Resource> {
    let directory = view.directory();
    let url = kind.type_url();
    let body = match kind {
        ResourceKind::Address => match directory.workload(&WorkloadUid(name.into())) {
            Some(workload) => pack(url, &encode_workload(workload)),
            None => {
                let key = name.parse::<NamespacedName>().ok()?;
                pack(url, &encode_service(directory.service(&key)?))
            }
        },
        ResourceKind::Authorization => {
            let key = name.parse::<NamespacedName>().ok()?;
            pack(url, &encode_authorization(directory.policy(&key)?))
        }
        ResourceKind::Rules => {
            let key = name.parse::<RulesKey>().ok()?;
            pack(url, &encode_rules(directory.rules_of(&key)?))
        }
        ResourceKind::TrustBundle => {
            let domain = name.parse::<TrustDomain>().ok()?;
            let bundle = directory
                .bundles()
                .find(|bundle| bundle.trust_domain == domain)?;
            pack(url, &encode_bundle(bundle))
        }
    };
    Some(Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(body),
        ..Resource::default()
    })
}

/// Writes the length (4 bytes, little endian), the checksum (16 bytes) and the record.
pub(super) fn write_record(to: &mut impl Write, record: &[u8]) -> io::Result<()> {
    let len = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(resource_version(record).as_bytes())?;
    to.write_all(record)
}

/// Reads one record; an empty one is the end.
pub(super) fn read_record(from: &mut impl Read) -> Result<Vec<u8>, ReadRecordError> {
    let mut len = [0; 4];
    read_all(from, &mut len)?;
    let mut checksum = [0; 16];
    read_all(from, &mut checksum)?;
    let len = u32::from_le_bytes(len);
    if len > RECORD_LEN_MAX {
        return Err(ReadRecordError::Damaged);
    }
    let mut record = Vec::new();
    from.take(u64::from(len))
        .read_to_end(&mut record)
        .map_err(ReadRecordError::Read)?;
    let whole = u32::try_from(record.len()) == Ok(len);
    if whole && resource_version(&record).as_bytes() == checksum {
        Ok(record)
    } else {
        Err(ReadRecordError::Damaged)
    }
}

fn read_all(from: &mut impl Read, buffer: &mut [u8]) -> Result<(), ReadRecordError> {
    from.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadRecordError::Damaged,
        _ => ReadRecordError::Read(error),
    })
}

/// A record cannot be read.
#[derive(Debug)]
pub(super) enum ReadRecordError {
    /// The file fails.
    Read(io::Error),
    /// The content is cut or changed.
    Damaged,
}

const FORMAT: u32 = 1;
/// Keeps a record far below its limit, with resources of any usual size.
const BATCH: usize = 500;
/// A policy may be long, 500 of them longer.
const RECORD_LEN_MAX: u32 = 64 * 1024 * 1024;
