//! Numbers of discovery and certificates.

use prost::Message;

use super::{any, check, map_entry, one_entry, raw, raw_any};
use crate::{Duration, citadel, xds};

#[test]
fn node_and_status_fields() {
    let number = |field: u64, value| raw().number(field, value);
    let build = xds::BuildVersion {
        version: Some(xds::SemanticVersion {
            major_number: 1,
            minor_number: 2,
            patch: 3,
        }),
        metadata: None,
    };
    let node = xds::Node {
        id: "id".into(),
        cluster: "cluster".into(),
        metadata: Some(crate::Struct::default()),
        locality: Some(xds::Locality {
            region: "r".into(),
            zone: "z".into(),
            sub_zone: "s".into(),
        }),
        user_agent_name: "agent".into(),
        user_agent_version: Some(xds::UserAgentVersion::Build(build)),
        client_features: vec!["f".into()],
        dynamic_parameters: one_entry("k", "v"),
    };
    let made = raw()
        .bytes(1, "id")
        .bytes(2, "cluster")
        .bytes(3, [])
        .message(4, raw().bytes(1, "r").bytes(2, "z").bytes(3, "s"))
        .bytes(6, "agent")
        .message(8, raw().message(1, number(1, 1).number(2, 2).number(3, 3)))
        .bytes(10, "f")
        .message(12, map_entry("k", "v"));
    check(made, node);
    let text = xds::UserAgentVersion::Text("1".into());
    check(
        raw().bytes(7, "1"),
        xds::Node {
            user_agent_version: Some(text),
            ..Default::default()
        },
    );
    let status = xds::Status {
        code: 13,
        message: "m".into(),
        details: vec![any("t")],
    };
    check(
        raw().number(1, 13).bytes(2, "m").message(3, raw_any("t")),
        status,
    );
}

#[test]
fn delta_fields() {
    let request = xds::DeltaDiscoveryRequest {
        node: Some(xds::Node {
            id: "n".into(),
            ..Default::default()
        }),
        type_url: "t".into(),
        resource_names_subscribe: vec!["s".into()],
        resource_names_unsubscribe: vec!["u".into()],
        initial_resource_versions: one_entry("name", "version"),
        response_nonce: "nonce".into(),
        error_detail: Some(xds::Status {
            message: "bad".into(),
            ..Default::default()
        }),
    };
    let made = raw()
        .message(1, raw().bytes(1, "n"))
        .bytes(2, "t")
        .bytes(3, "s")
        .bytes(4, "u")
        .message(5, map_entry("name", "version"))
        .bytes(6, "nonce")
        .message(7, raw().bytes(2, "bad"));
    check(made, request);
    let resource = xds::Resource {
        version: "v".into(),
        resource: Some(any("t")),
        name: "n".into(),
        aliases: vec!["a".into()],
        ttl: Some(Duration {
            seconds: 3,
            nanos: 4,
        }),
        cache_control: Some(xds::CacheControl { do_not_cache: true }),
    };
    let response = xds::DeltaDiscoveryResponse {
        system_version_info: "sys".into(),
        resources: vec![resource],
        type_url: "t".into(),
        nonce: "nonce".into(),
        removed_resources: vec!["gone".into()],
        control_plane: Some(xds::ControlPlane {
            identifier: "i".into(),
        }),
        is_continued: true,
    };
    let raw_resource = raw()
        .bytes(1, "v")
        .message(2, raw_any("t"))
        .bytes(3, "n")
        .bytes(4, "a")
        .message(6, raw().number(1, 3).number(2, 4))
        .message(7, raw().number(1, 1));
    let made = raw()
        .bytes(1, "sys")
        .message(2, raw_resource)
        .bytes(4, "t")
        .bytes(5, "nonce")
        .bytes(6, "gone")
        .message(7, raw().bytes(1, "i"))
        .number(1000, 1);
    check(made, response);
}

#[test]
fn state_of_the_world_fields() {
    let request = xds::DiscoveryRequest {
        version_info: "v".into(),
        node: Some(xds::Node {
            id: "n".into(),
            ..Default::default()
        }),
        resource_names: vec!["r".into()],
        type_url: "t".into(),
        response_nonce: "nonce".into(),
        error_detail: Some(xds::Status {
            code: 1,
            ..Default::default()
        }),
    };
    let made = raw()
        .bytes(1, "v")
        .message(2, raw().bytes(1, "n"))
        .bytes(3, "r")
        .bytes(4, "t")
        .bytes(5, "nonce")
        .message(6, raw().number(1, 1));
    check(made, request);
    let response = xds::DiscoveryResponse {
        version_info: "v".into(),
        resources: vec![any("t")],
        canary: true,
        type_url: "t".into(),
        nonce: "nonce".into(),
        control_plane: Some(xds::ControlPlane {
            identifier: "i".into(),
        }),
    };
    let made = raw()
        .bytes(1, "v")
        .message(2, raw_any("t"))
        .number(3, 1)
        .bytes(4, "t")
        .bytes(5, "nonce")
        .message(6, raw().bytes(1, "i"));
    check(made, response);
}

#[test]
fn certificate_fields() {
    let mut request = citadel::IstioCertificateRequest {
        csr: "csr".into(),
        validity_duration: 3600,
        metadata: None,
    };
    request.impersonate("spiffe://td/ns/a/sa/b");
    // Struct{fields=1: map<string, Value>}, Value{string_value=3}.
    let entry = raw()
        .bytes(1, "ImpersonatedIdentity")
        .message(2, raw().bytes(3, "spiffe://td/ns/a/sa/b"));
    let made = raw()
        .bytes(1, "csr")
        .number(3, 3600)
        .message(4, raw().message(1, entry));
    check(made, request.clone());
    assert_eq!(
        request.impersonated_identity(),
        Some("spiffe://td/ns/a/sa/b")
    );
    let response = citadel::IstioCertificateResponse {
        cert_chain: vec!["leaf".into(), "root".into()],
    };
    check(raw().bytes(1, "leaf").bytes(1, "root"), response);
}

/// A number where a text is due in `ImpersonatedIdentity` must not pass for a request in the caller's own name.
#[test]
fn an_impersonation_that_is_no_text_is_still_one() {
    let entry = raw()
        .bytes(1, "ImpersonatedIdentity")
        .message(2, raw().number(4, 1));
    let made = raw().message(4, raw().message(1, entry));
    let request = citadel::IstioCertificateRequest::decode(made.0.as_slice()).unwrap();
    assert_eq!(request.impersonated_identity(), Some(""));
    assert_eq!(
        citadel::IstioCertificateRequest::default().impersonated_identity(),
        None
    );
}
