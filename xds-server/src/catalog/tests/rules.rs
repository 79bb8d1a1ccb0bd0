//! What policies need to know beside pods, and the policies themselves.

use tulle_model::{NamedPort, Protocol, RulesKey};

use super::*;

fn namespace(labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})
}

fn network_policy(ports: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": [{"ports": ports}]}})
}

fn everywhere() -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "web"},
        "spec": {"endpointSelector": {}, "ingress": [{}]}})
}

#[test]
fn a_pod_carries_the_labels_of_its_namespace_and_the_names_of_its_ports() {
    let found = workload([
        pod("web-1", "n1", "10.1.0.1"),
        namespace(json!({"team": "red"})),
    ]);
    let labels: Vec<_> = found.namespace_labels.iter().collect();
    assert_eq!(labels, [(&"team".into(), &"red".into())]);
    let http = NamedPort {
        port: 8080,
        protocol: Protocol::Tcp,
    };
    assert_eq!(found.named_ports.get("http"), Some(&http));
}

#[test]
fn new_labels_of_a_namespace_reach_its_pods() {
    let mut catalog = catalog();
    let first = [
        put(pod("web-1", "n1", "10.1.0.1")),
        put(namespace(json!({"team": "red"}))),
    ];
    let _before = catalog.apply(first);
    let facts = catalog.apply([put(namespace(json!({"team": "blue"})))]);
    let [Change::Workload(changed)] = facts.as_slice() else {
        panic!("{facts:?}");
    };
    assert_eq!(changed.namespace_labels.get("team").unwrap(), "blue");
    assert_eq!(catalog.apply([put(namespace(json!({"team": "blue"})))]), []);
}

#[test]
fn a_node_with_an_address_is_a_workload_of_its_own() {
    let mut value = node("n1", "a");
    value["status"] = json!({"addresses": [
        {"type": "InternalIP", "address": "172.18.1.2"},
        {"type": "InternalIP", "address": "fd00::2"},
        {"type": "Hostname", "address": "n1"},
    ]});
    let mut catalog = catalog();
    let facts = catalog.apply([put(value.clone())]);
    let [Change::Workload(found)] = facts.as_slice() else {
        panic!("{facts:?}");
    };
    assert!(found.uid.is_node() && found.host_network);
    let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["172.18.1.2", "fd00::2"]);
    assert_eq!(found.locality.zone, "a");
    let facts = catalog.apply([gone(&put(value))]);
    assert_eq!(facts, [Change::WorkloadGone(found.uid.clone())]);
}

#[test]
fn rules_are_told_when_they_come_change_and_go() {
    let mut catalog = catalog();
    let key: RulesKey = "kubernetes/shop/web".parse().unwrap();
    let facts = catalog.apply([put(network_policy(json!([{"port": 80}])))]);
    assert!(matches!(facts.as_slice(), [Change::Rules(rules)] if rules.key() == key));
    assert_eq!(
        catalog.apply([put(network_policy(json!([{"port": 80}])))]),
        []
    );
    let changed = put(network_policy(json!([{"port": 81}])));
    let facts = catalog.apply([changed.clone()]);
    assert!(matches!(facts.as_slice(), [Change::Rules(_)]));
    let facts = catalog.apply([gone(&changed)]);
    assert_eq!(facts, [Change::RulesGone(key)]);
}

/// Objects of the whole cluster and of a namespace are of one language, so their names must not meet.
#[test]
fn rules_of_the_whole_cluster_have_no_namespace() {
    let facts = catalog().apply([put(everywhere())]);
    let [Change::Rules(rules)] = facts.as_slice() else {
        panic!("{facts:?}");
    };
    assert_eq!(rules.key().to_string(), "cilium//web");
}
