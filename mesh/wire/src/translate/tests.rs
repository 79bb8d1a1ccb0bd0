//! What the model says survives the wire, and no bytes make a reader panic.

mod defaults;
mod numbers;
mod rejects;
mod strategies;

use proptest::prelude::*;
use prost::Message;
use tulle_model::{Service, Workload};

use super::{
    DecodedAddress, decode_address, decode_authorization, decode_bundle, encode_authorization,
    encode_bundle, encode_service, encode_workload,
};
use crate::{resource_version, xds};
use strategies::{authorization, bundle, mutate, service, workload};

fn check_workload(model: &Workload) -> Result<(), TestCaseError> {
    let bytes = encode_workload(model).encode_to_vec();
    prop_assert_eq!(
        decode_address(&bytes),
        Ok(DecodedAddress::Workload(model.clone()))
    );
    Ok(())
}

fn check_service(model: &Service) -> Result<(), TestCaseError> {
    let bytes = encode_service(model).encode_to_vec();
    prop_assert_eq!(
        decode_address(&bytes),
        Ok(DecodedAddress::Service(model.clone()))
    );
    Ok(())
}

/// All readers of bytes from outside; the results do not matter, only that each comes back.
fn read_everything(bytes: &[u8]) {
    let address = decode_address(bytes);
    let policy = decode_authorization(bytes);
    let bundle = decode_bundle(bytes);
    for error in [address.err(), policy.err(), bundle.err()]
        .into_iter()
        .flatten()
    {
        assert!(!error.to_string().is_empty());
    }
    drop(xds::DeltaDiscoveryRequest::decode(bytes));
    drop(xds::DeltaDiscoveryResponse::decode(bytes));
    drop(xds::DiscoveryRequest::decode(bytes));
    drop(xds::DiscoveryResponse::decode(bytes));
    drop(crate::citadel::IstioCertificateRequest::decode(bytes));
    drop(crate::citadel::IstioCertificateResponse::decode(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn workload_survives(model in workload()) {
        check_workload(&model)?;
    }

    #[test]
    fn service_survives(model in service()) {
        check_service(&model)?;
    }

    #[test]
    fn authorization_survives(model in authorization()) {
        let bytes = encode_authorization(&model).encode_to_vec();
        prop_assert_eq!(decode_authorization(&bytes), Ok(model));
    }

    #[test]
    fn bundle_survives(model in bundle()) {
        let bytes = encode_bundle(&model).encode_to_vec();
        prop_assert_eq!(decode_bundle(&bytes), Ok(model));
    }

    /// Servers compare versions; equal facts must have equal bytes however their maps were filled.
    #[test]
    fn equal_models_have_equal_versions(model in workload()) {
        let again: Workload = Workload { labels: model.labels.clone().into_iter().rev().collect(), ..model.clone() };
        let version = |w: &Workload| resource_version(&encode_workload(w).encode_to_vec());
        prop_assert_eq!(version(&model), version(&again));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        read_everything(&bytes);
    }

    #[test]
    fn mutated_addresses_never_panic(model in workload(), edits in mutate()) {
        read_everything(&edits.apply(encode_workload(&model).encode_to_vec()));
    }

    #[test]
    fn mutated_services_never_panic(model in service(), edits in mutate()) {
        read_everything(&edits.apply(encode_service(&model).encode_to_vec()));
    }

    #[test]
    fn mutated_policies_never_panic(model in authorization(), edits in mutate()) {
        read_everything(&edits.apply(encode_authorization(&model).encode_to_vec()));
    }
}
