//! Objects in, facts out.

mod choice;
mod rules;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use tulle_model::{
    Affinity, Directory, Health, PortMapping, Sharing, TunnelProtocol, WorkloadKind,
};
use tulle_policy::{DefaultCluster, ReadSettings};

use super::{service::annotations::sharing_of, *};

fn catalog() -> Catalog {
    Catalog::new(CatalogSettings {
        cluster: "koornacht".parse().unwrap(),
        trust_domain: "koornacht.tulle".parse().unwrap(),
        namespaces_global: true,
    })
}

/// An object from JSON, by way of its kind.
fn put(value: Value) -> ObjectChange {
    let text = |path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let kind = text("/kind").unwrap();
    let (name, namespace) = (text("/metadata/name").unwrap(), text("/metadata/namespace"));
    let from = |v: &Value| v.clone();
    let (kind, object) = match kind.as_str() {
        "Node" => (
            ObjectKind::Node,
            Object::Node(serde_json::from_value(from(&value)).unwrap()),
        ),
        "Namespace" => (
            ObjectKind::Namespace,
            Object::Namespace(serde_json::from_value(from(&value)).unwrap()),
        ),
        "Pod" => (
            ObjectKind::Pod,
            Object::Pod(serde_json::from_value(from(&value)).unwrap()),
        ),
        "Service" => (
            ObjectKind::Service,
            Object::Service(serde_json::from_value(from(&value)).unwrap()),
        ),
        "EndpointSlice" => (
            ObjectKind::EndpointSlice,
            Object::EndpointSlice(serde_json::from_value(from(&value)).unwrap()),
        ),
        "AuthorizationPolicy" => policy(ObjectKind::AuthorizationPolicy, &value),
        "PeerAuthentication" => policy(ObjectKind::PeerAuthentication, &value),
        "NetworkPolicy" => policy(ObjectKind::NetworkPolicy, &value),
        "CiliumNetworkPolicy" => policy(ObjectKind::CiliumNetworkPolicy, &value),
        "CiliumClusterwideNetworkPolicy" => {
            policy(ObjectKind::CiliumClusterwideNetworkPolicy, &value)
        }
        other => panic!("{other}"),
    };
    let namespaced = !matches!(
        kind,
        ObjectKind::Node | ObjectKind::Namespace | ObjectKind::CiliumClusterwideNetworkPolicy
    );
    let namespace = namespace.filter(|_| namespaced).unwrap_or_default();
    ObjectChange::Put(
        ObjectKey {
            kind,
            namespace,
            name,
        },
        Arc::new(object),
    )
}

fn policy(kind: ObjectKind, value: &Value) -> (ObjectKind, Object) {
    let settings = ReadSettings {
        cluster: "koornacht".parse().unwrap(),
        default_cluster: DefaultCluster::Any,
    };
    let policy = SourcePolicy::parse(kind, value, &settings).unwrap();
    (kind, Object::Policy(Box::new(policy)))
}

fn gone(change: &ObjectChange) -> ObjectChange {
    match change {
        ObjectChange::Put(key, _) | ObjectChange::Gone(key) => ObjectChange::Gone(key.clone()),
    }
}

fn node(name: &str, zone: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}})
}

fn pod(name: &str, node: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}], "serviceAccountName": "web"},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service(name: &str, annotations: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"clusterIPs": ["172.20.1.5"], "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}})
}

fn slice(name: &str, service: &str, pods: &[(&str, &str, Value)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(pod, ip, conditions)| {
            json!({"addresses": [ip], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod, "namespace": "shop"}})
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
}

fn web_key() -> NamespacedName {
    NamespacedName::new("shop", "web.shop.svc.cluster.local")
}

/// The only workload after these objects.
fn workload(objects: impl IntoIterator<Item = Value>) -> Workload {
    let facts = catalog().apply(objects.into_iter().map(put));
    let mut workloads = facts.into_iter().filter_map(|f| match f {
        Change::Workload(w) => Some((*w).clone()),
        _ => None,
    });
    let first = workloads.next().expect("no workload");
    assert_eq!(workloads.next(), None);
    first
}

#[test]
fn pod_becomes_a_workload_with_everything() {
    let mut value = pod("web-6d4cf56db6-abcde", "n1", "10.1.1.5");
    value["metadata"]["labels"] =
        json!({"pod-template-hash": "6d4cf56db6", "app": "web", "version": "v2"});
    value["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4cf56db6", "uid": "u", "controller": true}]);
    value["status"]["podIPs"] = json!([{"ip": "10.1.1.5"}, {"ip": "fd00::5"}]);
    let w = workload([
        node("n1", "z1"),
        value,
        service("web", json!({})),
        slice(
            "web-1",
            "web",
            &[("web-6d4cf56db6-abcde", "10.1.1.5", json!({"ready": true}))],
        ),
    ]);
    assert_eq!(&*w.uid.0, "koornacht//Pod/shop/web-6d4cf56db6-abcde");
    assert_eq!(
        w.identity().to_string(),
        "spiffe://koornacht.tulle/ns/shop/sa/web"
    );
    assert_eq!(w.locality.zone, "z1");
    assert_eq!(
        (w.kind, w.owner_name.as_str()),
        (WorkloadKind::Deployment, "web")
    );
    assert_eq!(
        (w.canonical_name.as_str(), w.canonical_revision.as_str()),
        ("web", "v2")
    );
    assert_eq!(w.addresses.len(), 2);
    assert_eq!(
        (w.tunnel_protocol, w.health),
        (TunnelProtocol::Hbone, Health::Healthy)
    );
    let ports = vec![PortMapping {
        service_port: 80,
        target_port: 8080,
        ..PortMapping::default()
    }];
    assert_eq!(w.services, [(web_key(), ports)].into_iter().collect());
}

#[test]
fn owners_are_named_as_people_name_them() {
    let check = |owner: Option<(&str, &str)>, expected: (WorkloadKind, &str)| {
        let mut value = pod("p", "n1", "10.1.1.5");
        if let Some((kind, name)) = owner {
            value["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
        }
        let w = workload([value]);
        assert_eq!((w.kind, w.owner_name.as_str()), expected, "{owner:?}");
    };
    check(None, (WorkloadKind::Pod, "p"));
    check(
        Some(("ReplicaSet", "web-6d4cf56db6")),
        (WorkloadKind::Deployment, "web"),
    );
    check(
        Some(("ReplicaSet", "web")),
        (WorkloadKind::Deployment, "web"),
    );
    check(
        Some(("Deployment", "web")),
        (WorkloadKind::Deployment, "web"),
    );
    check(Some(("StatefulSet", "db")), (WorkloadKind::Pod, "db"));
    check(
        Some(("Job", "backup-28417890")),
        (WorkloadKind::CronJob, "backup"),
    );
    check(
        Some(("Job", "backup-once")),
        (WorkloadKind::Job, "backup-once"),
    );
}

#[test]
fn pods_that_serve_nobody_are_no_workloads() {
    let check = |pointer: &str, value: Value| {
        let mut object = pod("p", "n1", "10.1.1.5");
        *object.pointer_mut(pointer).unwrap() = value;
        assert!(catalog().apply([put(object)]).is_empty(), "{pointer}");
    };
    check("/status/phase", json!("Succeeded"));
    check("/status/phase", json!("Failed"));
    check("/spec/nodeName", json!(null));
    check("/status/podIPs", json!([]));
    check("/status", json!(null));
}

#[test]
fn tunnel_protocol_follows_pod_and_namespace() {
    let namespace = |mode: Option<&str>| {
        let labels = mode.map(|m| json!({"istio.io/dataplane-mode": m}));
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})
    };
    let check =
        |ns: Option<&str>, label: Option<&str>, annotation: Option<&str>, host: bool, expected| {
            let mut value = pod("p", "n1", "10.1.1.5");
            if let Some(mode) = label {
                value["metadata"]["labels"]["istio.io/dataplane-mode"] = json!(mode);
            }
            if let Some(mode) = annotation {
                value["metadata"]["annotations"] = json!({"istio.io/dataplane-mode": mode});
            }
            value["spec"]["hostNetwork"] = json!(host);
            let w = workload([value, namespace(ns)]);
            assert_eq!(
                (w.tunnel_protocol, w.host_network),
                (expected, host),
                "{ns:?} {label:?} {annotation:?}"
            );
        };
    check(None, None, None, false, TunnelProtocol::Hbone);
    check(None, Some("none"), None, false, TunnelProtocol::None);
    check(None, None, Some("none"), false, TunnelProtocol::None);
    check(Some("none"), None, None, false, TunnelProtocol::None);
    check(
        Some("none"),
        Some("ambient"),
        None,
        false,
        TunnelProtocol::Hbone,
    );
    check(Some("ambient"), None, None, true, TunnelProtocol::None);
}

#[test]
fn health_needs_pod_and_slice() {
    let check =
        |pod_ready: Option<&str>, conditions: Option<Value>, deleted: bool, expected: Health| {
            let mut value = pod("p", "n1", "10.1.1.5");
            value["status"]["conditions"] = match pod_ready {
                Some(status) => json!([{"type": "Ready", "status": status}]),
                None => json!([]),
            };
            if deleted {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let mut objects = vec![value, service("web", json!({}))];
            objects.extend(
                conditions
                    .clone()
                    .map(|c| slice("s", "web", &[("p", "10.1.1.5", c)])),
            );
            let w = workload(objects);
            assert_eq!(w.health, expected, "{pod_ready:?} {conditions:?} {deleted}");
        };
    check(Some("True"), None, false, Health::Healthy);
    check(Some("False"), None, false, Health::Unhealthy);
    check(None, None, false, Health::Unhealthy);
    check(None, Some(json!({"ready": true})), false, Health::Healthy);
    check(None, Some(json!({})), false, Health::Healthy);
    check(
        Some("True"),
        Some(json!({"ready": false})),
        false,
        Health::Unhealthy,
    );
    check(
        Some("False"),
        Some(json!({"ready": true})),
        false,
        Health::Unhealthy,
    );
    check(
        Some("True"),
        Some(json!({"ready": false, "serving": true, "terminating": true})),
        false,
        Health::Terminating,
    );
    check(
        Some("True"),
        Some(json!({"ready": false, "serving": false, "terminating": true})),
        false,
        Health::Unhealthy,
    );
    // Without a word about serving, not ready is not serving.
    check(
        Some("True"),
        Some(json!({"ready": false, "terminating": true})),
        false,
        Health::Unhealthy,
    );
    check(
        Some("True"),
        Some(json!({"ready": true})),
        true,
        Health::Terminating,
    );
    check(Some("True"), None, true, Health::Terminating);
    check(Some("False"), None, true, Health::Unhealthy);
}

#[test]
fn slice_without_pods_becomes_plain_workloads() {
    let mut value = slice("manual", "web", &[]);
    value["endpoints"] = json!([
        {"addresses": ["192.0.2.7"], "nodeName": "n1"},
        {"addresses": ["192.0.2.8"], "zone": "z9", "conditions": {"ready": false}},
    ]);
    let mut catalog = catalog();
    let objects = [
        put(node("n1", "z1")),
        put(service("web", json!({}))),
        put(value.clone()),
    ];
    let facts = catalog.apply(objects);
    let workloads: Vec<_> = facts
        .iter()
        .filter_map(|f| match f {
            Change::Workload(w) => Some(w),
            _ => None,
        })
        .collect();
    assert_eq!(workloads.len(), 2);
    let w = workloads[0];
    assert_eq!(
        &*w.uid.0,
        "koornacht/discovery.k8s.io/EndpointSlice/shop/manual/192.0.2.7"
    );
    assert_eq!(
        (w.tunnel_protocol, w.host_network),
        (TunnelProtocol::None, true)
    );
    assert_eq!(
        (w.locality.zone.as_str(), w.health),
        ("z1", Health::Healthy)
    );
    let w = workloads[1];
    assert_eq!(
        (w.locality.zone.as_str(), w.health),
        ("z9", Health::Unhealthy)
    );
    value["endpoints"] =
        json!([{"addresses": ["192.0.2.8"], "zone": "z9", "conditions": {"ready": false}}]);
    let facts = catalog.apply([put(value.clone())]);
    assert!(
        matches!(&facts[..], [Change::WorkloadGone(uid)] if uid.0.ends_with("192.0.2.7")),
        "{facts:?}"
    );
    let facts = catalog.apply([gone(&put(value))]);
    assert!(
        matches!(&facts[..], [Change::WorkloadGone(uid)] if uid.0.ends_with("192.0.2.8")),
        "{facts:?}"
    );
}

/// `annotations` as `key=value` words, keys shortened to their last part; the older spelling begins with `old-`.
fn check_sharing(words: &str, global: bool, shared: bool, affinity: Affinity, warned: usize) {
    let annotations: BTreeMap<String, String> = words
        .split_whitespace()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap();
            let key = match key.strip_prefix("old-") {
                Some(old) => format!("io.cilium/{old}"),
                None => format!("service.cilium.io/{key}"),
            };
            (key, value.to_owned())
        })
        .collect();
    let mut warnings = Vec::new();
    let sharing = sharing_of(&annotations, &mut warnings);
    assert_eq!(
        sharing,
        Sharing {
            global,
            shared,
            affinity
        },
        "{words}"
    );
    assert_eq!(warnings.len(), warned, "{words}: {warnings:?}");
}

#[test]
fn global_and_shared_in_both_spellings() {
    let check = |words: &str, global, shared, warned| {
        check_sharing(words, global, shared, Affinity::None, warned);
    };
    check("", false, false, 0);
    check("global=true", true, true, 0);
    check("global=True", true, true, 0);
    check("old-global-service=true", true, true, 0);
    check("global=false old-global-service=true", false, false, 0);
    check("global=yes", false, false, 1);
    check("global=true shared=false", true, false, 0);
    check("global=true old-shared-service=false", true, false, 0);
    check(
        "global=true shared=true old-shared-service=false",
        true,
        true,
        0,
    );
    check("global=true shared=no", true, false, 1);
    check("shared=true", false, false, 0);
}

#[test]
fn affinity_in_both_spellings() {
    let check = |words: &str, affinity, warned| {
        check_sharing(
            &format!("global=true {words}"),
            true,
            true,
            affinity,
            warned,
        );
    };
    check("affinity=none", Affinity::None, 0);
    check("affinity=", Affinity::None, 0);
    check("affinity=local", Affinity::Local, 0);
    check("affinity=local-cluster", Affinity::Local, 0);
    check("affinity=Remote", Affinity::Remote, 0);
    check("old-service-affinity=remote", Affinity::Remote, 0);
    check("affinity=local-node", Affinity::LocalNode, 0);
    check(
        "affinity=none old-service-affinity=local",
        Affinity::None,
        0,
    );
    check("affinity=nearest", Affinity::None, 1);
}

#[test]
fn warnings_name_the_service() {
    let mut catalog = catalog();
    catalog.apply([put(service(
        "web",
        json!({"service.cilium.io/affinity": "nearest"}),
    ))]);
    let warnings = catalog.warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].object, "Service shop/web");
    assert!(warnings[0].message.contains("\"nearest\""));
}

#[test]
fn services_of_every_form() {
    let check = |spec: Value, expected: Option<(usize, usize, u16)>| {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "shop"}, "spec": spec});
        let facts = catalog().apply([put(value)]);
        let found = facts.first().map(|f| match f {
            Change::Service(s) => (
                s.addresses.len(),
                s.ports.len(),
                s.ports.first().map_or(0, |p| p.target_port),
            ),
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected, "{spec}");
    };
    check(
        json!({"clusterIP": "172.20.1.5", "ports": [{"port": 80}]}),
        Some((1, 1, 80)),
    );
    check(
        json!({"clusterIP": "172.20.1.5", "clusterIPs": ["172.20.1.5", "fd00::5"], "ports": [{"port": 80, "targetPort": 8080}]}),
        Some((2, 1, 8080)),
    );
    check(
        json!({"clusterIP": "None", "ports": [{"port": 80, "targetPort": "http"}]}),
        Some((0, 1, 0)),
    );
    check(
        json!({"clusterIP": "172.20.1.5", "ports": [{"port": 80}, {"port": 70000}, {"port": 9, "protocol": "SCTP"}]}),
        Some((1, 1, 80)),
    );
    check(
        json!({"type": "ExternalName", "externalName": "example.org"}),
        Some((0, 0, 0)),
    );
    check(json!({"type": "ExternalName"}), None);
    check(
        json!({"type": "ExternalName", "externalName": "no such name"}),
        None,
    );
    check(json!(null), Some((0, 0, 0)));
}

#[test]
fn one_ready_flag_changes_one_workload() {
    let mut catalog = catalog();
    let pods: Vec<Value> = (1..=50)
        .map(|n| pod(&format!("p{n}"), "n1", &format!("10.1.1.{n}")))
        .collect();
    let names: Vec<(String, String)> = (1..=50)
        .map(|n| (format!("p{n}"), format!("10.1.1.{n}")))
        .collect();
    let ready = |down: usize| {
        let endpoints: Vec<(&str, &str, Value)> = names
            .iter()
            .enumerate()
            .map(|(n, (pod, ip))| (pod.as_str(), ip.as_str(), json!({"ready": n != down})))
            .collect();
        slice("s", "web", &endpoints)
    };
    catalog.apply(
        pods.into_iter()
            .chain([service("web", json!({})), ready(99)])
            .map(put),
    );
    let facts = catalog.apply([put(ready(7))]);
    assert!(
        matches!(&facts[..], [Change::Workload(w)] if w.name == "p8" && w.health == Health::Unhealthy),
        "{facts:?}"
    );
    assert!(catalog.apply([put(ready(7))]).is_empty());
}

#[test]
fn placements_count_pods_on_nodes() {
    let mut catalog = catalog();
    let placement = |node: &str| Placement {
        node: node.to_owned(),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
    };
    let (a, b) = (
        put(pod("a", "n1", "10.1.1.1")),
        put(pod("b", "n1", "10.1.1.2")),
    );
    catalog.apply([a, b.clone()]);
    assert_eq!(catalog.placements().get(&placement("n1")), Some(&2));
    catalog.apply([put(pod("b", "n2", "10.1.1.2"))]);
    assert_eq!(catalog.placements().get(&placement("n1")), Some(&1));
    assert_eq!(catalog.placements().get(&placement("n2")), Some(&1));
    // A finished pod's identity is no longer in use, one without an address is.
    let mut finished = pod("a", "n1", "10.1.1.1");
    finished["status"]["phase"] = json!("Failed");
    catalog.apply([put(finished)]);
    assert_eq!(catalog.placements().get(&placement("n1")), None);
    let mut starting = pod("a", "n1", "10.1.1.1");
    starting["status"] = json!({"phase": "Pending"});
    catalog.apply([put(starting), gone(&b)]);
    assert_eq!(catalog.placements().len(), 1);
}

#[test]
fn selectors_bind_workloads() {
    let policy = |name: &str, app: Option<&str>| {
        let selector = app.map(|a| json!({"matchLabels": {"app": a}}));
        let mut spec = json!({"rules": [{}]});
        if let Some(selector) = selector {
            spec["selector"] = selector;
        }
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    };
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
    let mut catalog = catalog();
    let mut directory = Directory::default();
    let mut apply = |changes: Vec<ObjectChange>| {
        catalog
            .apply(changes)
            .into_iter()
            .for_each(|c| directory.apply(c));
        let bound: Vec<String> = directory
            .workloads()
            .flat_map(|w| w.authorization_policies.clone())
            .collect();
        let known: Vec<String> = directory.policies().map(|p| p.key().to_string()).collect();
        (bound, known)
    };
    let chosen = put(policy("web-only", Some("web")));
    let (bound, known) = apply(vec![
        put(pod("p", "n1", "10.1.1.1")),
        chosen.clone(),
        put(policy("other", Some("db"))),
        put(policy("all", None)),
    ]);
    assert_eq!(bound, ["shop/web-only"]);
    assert_eq!(known, ["shop/all", "shop/other", "shop/web-only"]);
    let (bound, known) = apply(vec![put(strict.clone())]);
    assert_eq!(
        bound,
        [
            "istio-system/istio_converted_static_strict",
            "shop/web-only"
        ]
    );
    assert!(known.contains(&"istio-system/istio_converted_static_strict".to_owned()));
    let (bound, known) = apply(vec![gone(&chosen), gone(&put(strict))]);
    assert_eq!(bound, [""; 0]);
    assert_eq!(known, ["shop/all", "shop/other"]);
}

#[test]
fn a_policy_that_speaks_of_requests_travels_in_full_beside_its_form_for_l4() {
    let policy = |operation: serde_json::Value| {
        put(
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"rules": [{"to": [{"operation": operation}]}]}}),
        )
    };
    let mut catalog = catalog();
    let mut directory = Directory::default();
    let mut apply = |change: ObjectChange| {
        let facts = catalog.apply([change]);
        facts.into_iter().for_each(|c| directory.apply(c));
        let rules = directory.rules().map(|rules| rules.key().to_string());
        (directory.policies().count(), rules.collect::<Vec<_>>())
    };
    let with_requests = policy(json!({"methods": ["GET"]}));
    let full = vec!["istio/shop/p".to_owned()];
    assert_eq!(apply(with_requests.clone()), (1, full.clone()));
    assert_eq!(apply(policy(json!({"ports": ["80"]}))), (1, vec![]));
    assert_eq!(apply(with_requests.clone()), (1, full));
    assert_eq!(apply(gone(&with_requests)), (0, vec![]));
}

/// A small world of objects that touch each other.
fn objects() -> Vec<ObjectChange> {
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}}});
    let mut moved = pod("p1", "n2", "10.1.2.1");
    moved["status"]["conditions"][0]["status"] = json!("False");
    let mut manual = slice("manual", "web", &[]);
    manual["endpoints"] = json!([{"addresses": ["192.0.2.7"], "nodeName": "n1"}]);
    [
        node("n1", "z1"),
        node("n1", "z2"),
        node("n2", "z1"),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "none"}}}),
        pod("p1", "n1", "10.1.1.1"),
        moved,
        pod("p2", "n1", "10.1.1.2"),
        service("web", json!({})),
        service("web", json!({"service.cilium.io/global": "true"})),
        slice("s1", "web", &[("p1", "10.1.1.1", json!({"ready": true})), ("p2", "10.1.1.2", json!({"ready": false}))]),
        slice("s1", "web", &[("p2", "10.1.1.2", json!({"ready": true}))]),
        slice("s2", "other", &[("p1", "10.1.1.1", json!({"ready": true}))]),
        manual,
        strict,
    ]
    .into_iter()
    .map(put)
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Any history of puts and removals ends in the facts of a catalog that sees only the final objects, in any order.
    #[test]
    fn order_of_objects_does_not_matter(steps in prop::collection::vec((0..14usize, any::<bool>(), any::<bool>()), 1..40)) {
        let all = objects();
        let mut catalog = catalog();
        let mut facts = Directory::default();
        let mut last: BTreeMap<ObjectKey, ObjectChange> = BTreeMap::new();
        let mut batch = Vec::new();
        for (which, remove, flush) in steps {
            let change = if remove { gone(&all[which]) } else { all[which].clone() };
            let (ObjectChange::Put(key, _) | ObjectChange::Gone(key)) = &change;
            last.insert(key.clone(), change.clone());
            batch.push(change);
            if flush {
                catalog.apply(std::mem::take(&mut batch)).into_iter().for_each(|c| facts.apply(c));
            }
        }
        catalog.apply(batch).into_iter().for_each(|c| facts.apply(c));
        let mut fresh = self::catalog();
        let mut expected = Directory::default();
        for change in last.into_values().rev() {
            fresh.apply([change]).into_iter().for_each(|c| expected.apply(c));
        }
        prop_assert_eq!(sorted(&facts), sorted(&expected));
        prop_assert_eq!(catalog.placements(), fresh.placements());
        prop_assert_eq!(catalog.warnings(), fresh.warnings());
    }
}

fn sorted(directory: &Directory) -> (Vec<Workload>, Vec<String>, Vec<String>) {
    let workloads: BTreeMap<_, _> = directory
        .workloads()
        .map(|w| (w.uid.clone(), (**w).clone()))
        .collect();
    let services: BTreeSet<String> = directory.services().map(|s| format!("{s:?}")).collect();
    let policies = directory.policies().map(|p| format!("{p:?}")).collect();
    (
        workloads.into_values().collect(),
        services.into_iter().collect(),
        policies,
    )
}
