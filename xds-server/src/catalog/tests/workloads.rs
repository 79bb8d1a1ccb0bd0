//! What pods, nodes, namespaces and slices make of a workload.

use tulle_model::{Health, PortMapping, TunnelProtocol, WorkloadKind};

use super::*;

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
