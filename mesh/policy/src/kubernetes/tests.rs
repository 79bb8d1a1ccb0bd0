//! NetworkPolicies, as people write them, against the rules, written short.

use super::*;
use crate::testing::{settings, show, yaml};

fn policy(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    ))
}

fn read(spec: &str, default_cluster: DefaultCluster) -> ReadRules {
    read_network_policy(&policy(spec), &settings(default_cluster)).expect(spec)
}

fn check(spec: &str, expected: &[&str]) {
    let read = read(spec, DefaultCluster::Any);
    assert_eq!(show(&read.rules), expected.join("\n"), "{spec}");
    assert_eq!(read.rules.key.to_string(), "kubernetes/shop/p");
}

/// The lines behind the selector, for a policy that picks all of its namespace.
fn check_all(spec: &str, expected: &[&str]) {
    check(
        &format!("{{podSelector: {{}}, {spec}}}"),
        &[&["[k8s:NS=shop]"], expected].concat(),
    );
}

fn check_refused(spec: &str, expected: &str) {
    let manifest = policy(&format!("{{podSelector: {{}}, {spec}}}"));
    let error = read_network_policy(&manifest, &settings(DefaultCluster::Any)).expect_err(spec);
    assert_eq!(
        error.to_string(),
        format!("NetworkPolicy shop/p: field {expected}"),
        "{spec}"
    );
}

#[test]
fn directions_are_those_of_the_types() {
    check_all("ingress: []", &["ingress!"]);
    check("{podSelector: {}}", &["[k8s:NS=shop]", "ingress!"]);
    check("{}", &["[k8s:NS=shop]", "ingress!"]);
    check_all("egress: []", &["ingress!"]);
    check_all(
        "egress: [{}]",
        &["ingress!", "egress!", "+ spec.egress[0]: anyone"],
    );
    check_all("policyTypes: [Egress]", &["egress!"]);
    check_all("policyTypes: [Ingress, Egress]", &["ingress!", "egress!"]);
    check_all(
        "policyTypes: [], egress: [{}]",
        &["ingress!", "egress!", "+ spec.egress[0]: anyone"],
    );
    check_all(
        "policyTypes: [Ingress], ingress: [{}]",
        &["ingress!", "+ spec.ingress[0]: anyone"],
    );
    let read = read(
        "{podSelector: {}, policyTypes: [Ingress], egress: [{}]}",
        DefaultCluster::Any,
    );
    assert_eq!(show(&read.rules), "[k8s:NS=shop]\ningress!");
    assert_eq!(
        read.warnings,
        ["spec.egress says nothing, since spec.policyTypes does not name Egress"]
    );
    check_refused(
        "policyTypes: [Both]",
        "spec.policyTypes[0] holds \"Both\", expected Ingress or Egress",
    );
}

#[test]
fn subjects_are_pods_of_the_namespace() {
    check(
        "{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: NotIn, values: [x]}]}}",
        &["[k8s:app=web k8s:tier!=x k8s:NS=shop]", "ingress!"],
    );
    let manifest = policy("{podSelector: {matchLabels: {'k8s:app': web}}}");
    let error = read_network_policy(&manifest, &settings(DefaultCluster::Any)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "NetworkPolicy shop/p: field spec.podSelector.matchLabels holds the key \"k8s:app\", expected a label's key, such as app or example.com/app"
    );
}

#[test]
fn far_ends_are_alternatives_of_selectors_and_blocks() {
    check_all("ingress: [{}]", &["ingress!", "+ spec.ingress[0]: anyone"]);
    check_all(
        "ingress: [{from: []}]",
        &["ingress!", "+ spec.ingress[0]: anyone"],
    );
    check_all(
        "ingress: [{from: [{podSelector: {}}]}]",
        &["ingress!", "+ spec.ingress[0]: [k8s:NS=shop]"],
    );
    check_all(
        "ingress: [{from: [{podSelector: {matchLabels: {a: b}}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}}]}]",
        &[
            "ingress!",
            "+ spec.ingress[0]: [k8s:a=b k8s:NS=shop] or [k8s:NS k8s:NS/kubernetes.io/metadata.name=x]",
        ],
    );
    // One item: both must hold.
    check_all(
        "egress: [{to: [{podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}]}]",
        &["ingress!", "egress!", "+ spec.egress[0]: [k8s:a=b k8s:NS]"],
    );
    check_all(
        "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]",
        &[
            "ingress!",
            "+ spec.ingress[0]: 10.0.0.0/8 but 10.1.0.0/16 with pods",
        ],
    );
    let read = read(
        "{ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}]}]}",
        DefaultCluster::Local,
    );
    assert!(
        show(&read.rules)
            .ends_with("[k8s:NS=shop k8s:CLUSTER=koornacht] or [k8s:NS k8s:CLUSTER=koornacht]")
    );
}

#[test]
fn wrong_far_ends_are_refused() {
    check_refused(
        "ingress: [{from: [{}]}]",
        "spec.ingress[0].from[0] holds {}, expected at least one of podSelector, namespaceSelector and ipBlock",
    );
    check_refused(
        "ingress: [{from: [null]}]",
        "spec.ingress[0].from[0] holds null, expected an item that is not null",
    );
    check_refused(
        "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]",
        "spec.ingress[0].from[0].ipBlock holds {\"cidr\":\"10.0.0.0/8\"}, expected no ipBlock beside selectors; write an item of its own",
    );
    check_refused(
        "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]",
        "spec.ingress[0].from[0].ipBlock.except[0] holds \"10.0.0.0/8\", expected a smaller block that lies in cidr",
    );
    check_refused(
        "ingress: [{to: []}]",
        "spec.ingress[0].to holds a value, expected no field of this name",
    );
    check_refused(
        "egress: [{from: []}]",
        "spec.egress[0].from holds a value, expected no field of this name",
    );
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    check_all(
        "ingress: [{ports: [{}, {port: 80}, {protocol: UDP, port: 1, endPort: 65535}, {port: http, protocol: SCTP}, {protocol: UDP}]}]",
        &[
            "ingress!",
            "+ spec.ingress[0]: anyone at tcp,tcp/80,udp/1-65535,sctp/http,udp",
        ],
    );
    let port = "expected a port of 1–65535, or a port's name";
    let check_port = |text: &str, expected: &str| {
        check_refused(
            &format!("ingress: [{{ports: [{text}]}}]"),
            &format!("spec.ingress[0].ports[0]{expected}"),
        );
    };
    check_port("{port: 0}", &format!(".port holds 0, {port}"));
    check_port("{port: 65536}", &format!(".port holds 65536, {port}"));
    check_port("{port: '80'}", &format!(".port holds \"80\", {port}"));
    check_port("{port: HTTP}", &format!(".port holds \"HTTP\", {port}"));
    check_port(
        "{port: 80, endPort: 79}",
        ".endPort holds 79, expected a port of 80–65535, not below `port`",
    );
    check_port(
        "{port: http, endPort: 79}",
        ".endPort holds 79, expected no endPort beside a port's name",
    );
    check_port(
        "{endPort: 79}",
        ".endPort holds 79, expected a port beside endPort",
    );
    check_port(
        "{port: 80, protocol: ANY}",
        ".protocol holds \"ANY\", expected TCP, UDP or SCTP",
    );
}
