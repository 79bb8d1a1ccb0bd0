//! Messages to model and back.
//!
//! Decides which resources are refused (as ztunnel refuses them, so that a server sees the same NACKs) and what an empty
//! field means. **Invariant:** what the model can say survives `decode(encode(x))` unchanged; the property tests in
//! `translate/tests.rs` hold it. Not decided here: what a fact means for a connection.

mod authorization;
mod bundle;
mod error;
mod field;
mod labels;
mod rules;
mod service;
mod workload;

use prost::Message;
use tulle_model::{Service, Workload};

pub use authorization::{decode_authorization, encode_authorization};
pub use bundle::{decode_bundle, encode_bundle};
pub use error::DecodeResourceError;
pub use rules::{decode_rules, encode_rules};
pub use service::encode_service;
pub use workload::encode_workload;

use crate::workload::{Address, AddressType};

/// What a resource of type `istio.workload.Address` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodedAddress {
    /// A workload.
    Workload(Workload),
    /// A service.
    Service(Service),
}

/// Reads a resource of type `istio.workload.Address`.
///
/// Empty fields get ztunnel's defaults: trust domain `cluster.local`, service account `default`, cluster `Kubernetes`,
/// capacity 1. Parts that Tulle has no notion of (waypoints, networks, tunnels of the application) are checked and left out.
///
/// # Errors
///
/// The bytes are not such a message, or a field holds what it must not: an unknown enum value, an address that is not of
/// 4 or 16 bytes, a port above 65535, a service key without `/`, a gateway without destination, a legacy tunnel.
pub fn decode_address(bytes: &[u8]) -> Result<DecodedAddress, DecodeResourceError> {
    match Address::decode(bytes)?.r#type {
        Some(AddressType::Workload(workload)) => {
            workload::read_workload(*workload).map(DecodedAddress::Workload)
        }
        Some(AddressType::Service(service)) => {
            service::read_service(*service).map(DecodedAddress::Service)
        }
        None => Err(DecodeResourceError::field(
            "type",
            "nothing",
            "a workload or a service",
        )),
    }
}

#[cfg(test)]
mod tests;
