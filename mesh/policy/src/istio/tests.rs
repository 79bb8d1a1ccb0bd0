//! Istio's objects, as people write them, against the compiled form, written short.

mod authorization_policy;
mod levels;
mod peer_authentication;
mod shape;

use serde_json::Value;
use tulle_model::{
    AddressRange, Authorization, AuthorizationAction, AuthorizationMatch, AuthorizationRule,
    HeaderCondition, PathMatch, StringMatch,
};

use super::{ReadPolicyError, from_istio_yaml};

fn yaml(text: &str) -> Value {
    serde_yaml_ng::from_str(text).expect(text)
}

/// An object of `kind` called `shop/p` with this spec, written in YAML's flow form.
fn object(kind: &str, spec: &str) -> Value {
    object_in("shop", kind, spec)
}

fn object_in(namespace: &str, kind: &str, spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: security.istio.io/v1, kind: {kind}, metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}"
    ))
}

/// Rules by `|`, clauses by `&`, matches by `or`, fields by `,`, values by blank; `true` = nothing to hold.
fn show(policy: &Authorization) -> String {
    let action = match policy.action {
        AuthorizationAction::Allow => "ALLOW",
        AuthorizationAction::Deny => "DENY",
        AuthorizationAction::Audit => "AUDIT",
    };
    let rules: Vec<String> = policy.rules.iter().map(show_rule).collect();
    let dry = if policy.dry_run { " (dry run)" } else { "" };
    format!(
        "{action} {:?} {}{dry}: {}",
        policy.scope,
        policy.key(),
        rules.join(" | ")
    )
}

fn show_rule(rule: &AuthorizationRule) -> String {
    if rule.clauses.is_empty() {
        return "true".to_owned();
    }
    let clause = |matches: &Vec<AuthorizationMatch>| {
        let matches: Vec<String> = matches.iter().map(show_match).collect();
        format!("[{}]", matches.join(" or "))
    };
    let clauses: Vec<String> = rule.clauses.iter().map(|c| clause(&c.matches)).collect();
    clauses.join(" & ")
}

fn show_match(of: &AuthorizationMatch) -> String {
    let account =
        |a: &tulle_model::ServiceAccountMatch| format!("{}/{}", a.namespace, a.service_account);
    let fields = [
        (
            "ns",
            of.namespaces.iter().map(show_string).collect::<Vec<_>>(),
        ),
        ("!ns", of.not_namespaces.iter().map(show_string).collect()),
        ("principal", of.principals.iter().map(show_string).collect()),
        (
            "!principal",
            of.not_principals.iter().map(show_string).collect(),
        ),
        ("src", of.source_ips.iter().map(show_range).collect()),
        ("!src", of.not_source_ips.iter().map(show_range).collect()),
        ("dst", of.destination_ips.iter().map(show_range).collect()),
        (
            "!dst",
            of.not_destination_ips.iter().map(show_range).collect(),
        ),
        (
            "port",
            of.destination_ports
                .iter()
                .map(ToString::to_string)
                .collect(),
        ),
        (
            "!port",
            of.not_destination_ports
                .iter()
                .map(ToString::to_string)
                .collect(),
        ),
        ("sa", of.service_accounts.iter().map(account).collect()),
        ("!sa", of.not_service_accounts.iter().map(account).collect()),
    ];
    let set = fields.into_iter().filter(|(_, values)| !values.is_empty());
    let set: Vec<String> = set
        .map(|(name, values)| format!("{name}={}", values.join(" ")))
        .collect();
    if set.is_empty() {
        "never".to_owned()
    } else {
        set.join(", ")
    }
}

fn show_string(of: &StringMatch) -> String {
    match of {
        StringMatch::Exact(text) => text.clone(),
        StringMatch::Prefix(text) => format!("{text}..."),
        StringMatch::Suffix(text) => format!("...{text}"),
        StringMatch::Presence => "any".to_owned(),
    }
}

fn show_range(of: &AddressRange) -> String {
    format!("{}/{}", of.address, of.prefix_len)
}

fn check_refused(manifest: &Value, field: &str) {
    let error = from_istio_yaml(manifest.clone()).expect_err(&manifest.to_string());
    assert_eq!(error.field_path(), Some(field), "{error}");
    assert!(error.to_string().contains(field), "{error}");
}

#[test]
fn other_kinds_and_versions_are_refused() {
    for text in [
        "{}",
        "[]",
        "7",
        "{apiVersion: v1, kind: Service, metadata: {name: p}}",
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: p}}",
        "{apiVersion: security.istio.io/v2, kind: AuthorizationPolicy, metadata: {name: p}}",
        "{apiVersion: cilium.io/v2, kind: AuthorizationPolicy, metadata: {name: p}}",
    ] {
        let error = from_istio_yaml(yaml(text)).expect_err(text);
        assert!(
            matches!(error, ReadPolicyError::Kind { .. }),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn metadata_must_name_the_object() {
    let with = |metadata: &str| {
        yaml(&format!(
            "{{apiVersion: security.istio.io/v1beta1, kind: AuthorizationPolicy, metadata: {metadata}}}"
        ))
    };
    check_refused(&with("{}"), "metadata.name");
    check_refused(&with("{name: ''}"), "metadata.name");
    check_refused(&with("{name: a/b}"), "metadata.name");
    check_refused(&with("{name: p, namespace: 7}"), "metadata.namespace");
    check_refused(
        &with("{name: p, annotations: {x: 1}}"),
        "metadata.annotations.x",
    );
    check_refused(&with("[]"), "metadata");
    assert_eq!(
        from_istio_yaml(with("{name: p}"))
            .unwrap()
            .key()
            .to_string(),
        "default/p"
    );
}
