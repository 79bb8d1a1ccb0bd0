//! A few seconds of each target with every run of the tests, and all that ever broke a promise.

use std::time::Duration;

use tulle_fuzz::{Limits, find, fuzz};

fn smoke(name: &str) {
    let limits = Limits {
        time: Duration::from_secs(5),
        seed: 7,
        findings: env!("CARGO_TARGET_TMPDIR").into(),
    };
    let report =
        find(name).map(|target| fuzz(target, &limits).map_err(|failure| failure.to_string()));
    assert!(
        matches!(&report, Some(Ok(report)) if report.inputs > 100),
        "{name}: {report:?}"
    );
}

#[test]
fn files_of_policies() {
    smoke("policy_file");
}

#[test]
fn policies_of_cilium() {
    smoke("cilium");
}

#[test]
fn policies_of_kubernetes() {
    smoke("kubernetes");
}

#[test]
fn policies_of_istio() {
    smoke("istio");
}

#[test]
fn patterns_of_names() {
    smoke("name_pattern");
}

#[test]
fn expressions_for_http() {
    smoke("http_rule");
}

#[test]
fn requests_that_istios_policies_speak_of() {
    smoke("istio_request");
}

#[test]
fn resources_of_xds() {
    smoke("wire");
}

#[test]
fn entries_of_etcd() {
    smoke("layout");
}

#[test]
fn values_of_ciliums_cluster_mesh() {
    smoke("cilium_values");
}

#[test]
fn questions_to_the_resolver() {
    smoke("dns_question");
}

#[test]
fn authorities_of_tunnels() {
    smoke("authority");
}

#[test]
fn heads_and_chunks_of_http() {
    smoke("http_request");
}

#[test]
fn first_messages_of_tls() {
    smoke("tls_hello");
}

#[test]
fn prefaces_of_lanes() {
    smoke("lane_preface");
}
