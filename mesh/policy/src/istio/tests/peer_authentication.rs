//! One PeerAuthentication.

use super::*;
use crate::istio::{MtlsMode, PeerAuthentication};

const KIND: &str = "PeerAuthentication";
const NAME: &str = "converted_peer_authentication_p";

fn check(namespace: &str, spec: &str, expected: &str) {
    let policy = from_istio_yaml(object_in(namespace, KIND, spec)).expect(spec);
    assert_eq!(show(&policy), expected, "{spec}");
}

fn check_nothing(namespace: &str, spec: &str) {
    let error = from_istio_yaml(object_in(namespace, KIND, spec)).expect_err(spec);
    assert!(
        matches!(error, ReadPolicyError::NotForNodeProxies { .. }),
        "{spec}: {error}"
    );
}

#[test]
fn strict_refuses_plain_text_in_its_scope() {
    let strict = "{mtls: {mode: STRICT}}";
    check(
        "istio-system",
        strict,
        &format!("DENY Global istio-system/{NAME}: [!principal=any]"),
    );
    check(
        "shop",
        strict,
        &format!("DENY Namespace shop/{NAME}: [!principal=any]"),
    );
    let selected = "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}}";
    check(
        "shop",
        selected,
        &format!("DENY WorkloadSelector shop/{NAME}: [!principal=any]"),
    );
}

#[test]
fn ports_make_exceptions() {
    let spec = |mode: &str, ports: &str| {
        format!(
            "{{selector: {{matchLabels: {{app: db}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {ports}}}"
        )
    };
    let shown = |rules: &str| format!("DENY WorkloadSelector shop/{NAME}: {rules}");
    let mixed = "{80: {mode: PERMISSIVE}, 81: {mode: DISABLE}, 82: {mode: STRICT}, 83: {mode: UNSET}, 84: {}}";
    check(
        "shop",
        &spec("STRICT", mixed),
        &shown("[!principal=any] & [!port=80] & [!port=81]"),
    );
    let two = "{80: {mode: STRICT}, 81: {mode: STRICT}, 82: {mode: PERMISSIVE}}";
    let each = shown("[!principal=any, port=80] | [!principal=any, port=81]");
    check("shop", &spec("PERMISSIVE", two), &each);
    check("shop", &spec("DISABLE", two), &each);
    check("shop", &spec("UNSET", two), &each);
    check_nothing("shop", &spec("PERMISSIVE", "{80: {mode: PERMISSIVE}}"));
}

#[test]
fn what_refuses_nothing_is_passed_over() {
    for spec in [
        "{}",
        "null",
        "{mtls: {}}",
        "{mtls: {mode: UNSET}}",
        "{mtls: {mode: PERMISSIVE}}",
        "{mtls: {mode: DISABLE}}",
    ] {
        check_nothing("shop", spec);
        check_nothing("istio-system", spec);
    }
    // Istio ignores a selector in the root namespace.
    check_nothing(
        "istio-system",
        "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}}",
    );
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let selector = "selector: {matchLabels: {a: b}}";
    for (spec, field) in [
        ("{mtls: {mode: strict}}".to_owned(), "spec.mtls.mode"),
        ("{mtls: STRICT}".to_owned(), "spec.mtls"),
        ("{mtls: {mod: STRICT}}".to_owned(), "spec.mtls.mod"),
        ("{more: 1}".to_owned(), "spec.more"),
        (
            "{portLevelMtls: {80: {mode: STRICT}}}".to_owned(),
            "spec.portLevelMtls",
        ),
        (
            format!("{{{selector}, portLevelMtls: {{'65536': {{mode: STRICT}}}}}}"),
            "spec.portLevelMtls",
        ),
        (
            format!("{{{selector}, portLevelMtls: {{'0': {{mode: STRICT}}}}}}"),
            "spec.portLevelMtls",
        ),
        (
            format!("{{{selector}, portLevelMtls: {{http: {{mode: STRICT}}}}}}"),
            "spec.portLevelMtls",
        ),
        (
            format!("{{{selector}, portLevelMtls: {{'80': {{mode: on}}}}}}"),
            "spec.portLevelMtls.80.mode",
        ),
    ] {
        check_refused(&object(KIND, &spec), field);
    }
}

#[test]
fn all_parts_are_read() {
    let mut manifest = object(
        KIND,
        "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: DISABLE}}}",
    );
    manifest["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    let read = PeerAuthentication::read(&manifest).unwrap();
    assert_eq!(read.key.to_string(), "shop/p");
    assert_eq!(read.created, "2026-01-01T00:00:00Z");
    assert_eq!(read.selector, [("app".to_owned(), "db".to_owned())].into());
    assert_eq!(
        (read.mode, &read.ports),
        (MtlsMode::Strict, &[(80, MtlsMode::Disable)].into())
    );
    let other = object("AuthorizationPolicy", "{}");
    assert!(matches!(
        PeerAuthentication::read(&other),
        Err(ReadPolicyError::Kind { .. })
    ));
}
