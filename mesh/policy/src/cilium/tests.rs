//! Cilium's objects, as people write them, against the rules, written short; and what is refused, against the whole sentence.

mod l3;
mod l4;
mod seed;
mod shape;

use serde_json::Value;

use super::read_cilium_policy;
use crate::{
    read::{DefaultCluster, ReadRules},
    testing::{settings, show, yaml},
};

/// A CiliumNetworkPolicy called `shop/p` with this spec, written in YAML's flow form.
fn policy(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    ))
}

fn clusterwide(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
    ))
}

fn read(manifest: &Value, default_cluster: DefaultCluster) -> ReadRules {
    read_cilium_policy(manifest, &settings(default_cluster)).unwrap_or_else(|error| {
        panic!("{manifest}: {error}");
    })
}

fn check_object(manifest: &Value, expected: &[&str]) {
    let read = read(manifest, DefaultCluster::Any);
    assert_eq!(show(&read.rules), expected.join("\n"), "{manifest}");
    // What was read must survive the way to the node proxies.
    let text = serde_json::to_string(&read.rules).unwrap();
    assert_eq!(
        serde_json::from_str::<tulle_model::NetworkRules>(&text).unwrap(),
        read.rules
    );
}

/// The lines behind the selector, for a policy that picks all of its namespace.
fn check(spec: &str, expected: &[&str]) {
    let spec = format!("{{endpointSelector: {{}}, {spec}}}");
    let lines = [&["[k8s:NS=shop]"], expected].concat();
    check_object(&policy(&spec), &lines);
}

fn check_refused_object(manifest: &Value, expected: &str) {
    let error = read_cilium_policy(manifest, &settings(DefaultCluster::Any))
        .expect_err(&manifest.to_string());
    assert_eq!(error.to_string(), expected, "{manifest}");
}

fn check_refused(spec: &str, expected: &str) {
    let expected = format!("CiliumNetworkPolicy shop/p: field {expected}");
    check_refused_object(
        &policy(&format!("{{endpointSelector: {{}}, {spec}}}")),
        &expected,
    );
}
