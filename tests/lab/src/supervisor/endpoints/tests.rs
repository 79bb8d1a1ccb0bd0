use serde_json::{Value, json};

use super::slices;
use crate::{config::LabConfig, object::Object, supervisor::controller::Objects};

fn pod(name: &str, host: u8, ready: bool, ending: bool, ports: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "a"}},
        "spec": {"nodeName": "koornacht-worker2",
            "containers": [{"name": "c", "image": "nginx:1", "ports": ports}]},
        "status": {"phase": "Running",
            "podIPs": [{"ip": format!("10.1.2.{host}")}, {"ip": format!("fd00:10:1:2::{host}")}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    if ending {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "namespace": "default", "uid": "s"}, "spec": spec})
}

fn compute(objects: Vec<Value>) -> Vec<Value> {
    let lab = LabConfig::built_in().unwrap();
    let objects: Objects = objects
        .into_iter()
        .map(|value| Object::from_value(value).unwrap())
        .map(|object| (object.key.clone(), object))
        .collect();
    slices(lab.cluster("koornacht").unwrap(), &objects)
        .into_values()
        .collect()
}

#[test]
fn conditions_follow_the_pod() {
    let spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80}]});
    let found = compute(vec![
        service(spec),
        pod("p1", 2, true, false, json!([])),
        pod("p2", 3, false, false, json!([])),
        pod("p3", 4, true, true, json!([])),
    ]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["addressType"], "IPv4");
    assert_eq!(
        found[0]["metadata"]["labels"]["kubernetes.io/service-name"],
        "s"
    );
    let conditions: Vec<&Value> = found[0]["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["conditions"])
        .collect();
    assert_eq!(
        conditions,
        [
            &json!({"ready": true, "serving": true, "terminating": false}),
            &json!({"ready": false, "serving": false, "terminating": false}),
            &json!({"ready": false, "serving": true, "terminating": true}),
        ]
    );
    let first = &found[0]["endpoints"][0];
    assert_eq!(first["addresses"], json!(["10.1.2.2"]));
    assert_eq!(
        (&first["nodeName"], &first["zone"]),
        (&json!("koornacht-worker2"), &json!("koornacht-b"))
    );
    assert_eq!(first["targetRef"]["name"], "p1");
}

#[test]
fn both_families_have_slices() {
    let spec =
        json!({"selector": {"app": "a"}, "ports": [{"port": 80}], "ipFamilies": ["IPv6", "IPv4"]});
    let found = compute(vec![service(spec), pod("p", 2, true, false, json!([]))]);
    let mut addresses: Vec<String> = found
        .iter()
        .map(|slice| slice["endpoints"][0]["addresses"][0].to_string())
        .collect();
    addresses.sort();
    assert_eq!(addresses, ["\"10.1.2.2\"", "\"fd00:10:1:2::2\""]);
}

#[test]
fn named_ports_are_looked_up_in_each_pod() {
    let spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80, "name": "w", "targetPort": "web"}]});
    let port = |number: u16| json!([{"name": "web", "containerPort": number}]);
    let found = compute(vec![
        service(spec),
        pod("p1", 2, true, false, port(8080)),
        pod("p2", 3, true, false, port(9090)),
        pod("p3", 4, true, false, port(8080)),
    ]);
    let mut summary: Vec<(Value, usize)> = found
        .iter()
        .map(|slice| {
            (
                slice["ports"][0]["port"].clone(),
                slice["endpoints"].as_array().unwrap().len(),
            )
        })
        .collect();
    summary.sort_by_key(|(port, _)| port.as_u64());
    assert_eq!(summary, [(json!(8080), 2), (json!(9090), 1)]);
}

#[test]
fn slice_names_stay_when_pods_come_and_go() {
    let spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80}]});
    let name = |slices: &[Value]| slices[0]["metadata"]["name"].clone();
    let empty = compute(vec![service(spec.clone())]);
    let full = compute(vec![service(spec), pod("p", 2, true, false, json!([]))]);
    assert_eq!((empty.len(), full.len()), (1, 1));
    assert_eq!(name(&empty), name(&full));
    assert_eq!(empty[0]["endpoints"], json!([]));
}

#[test]
fn publish_not_ready_and_no_selector() {
    let spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80}], "publishNotReadyAddresses": true,
        "clusterIP": "None"});
    let found = compute(vec![service(spec), pod("p", 2, false, false, json!([]))]);
    assert_eq!(found[0]["endpoints"][0]["conditions"]["ready"], json!(true));
    assert!(compute(vec![service(json!({"ports": [{"port": 80}]}))]).is_empty());
}

#[test]
fn large_services_have_several_slices() {
    let spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80}]});
    let mut objects = vec![service(spec)];
    objects.extend((0..250u8).map(|host| pod(&format!("p{host}"), host, true, false, json!([]))));
    let counts: Vec<usize> = compute(objects)
        .iter()
        .map(|slice| slice["endpoints"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 250);
    assert_eq!(counts.len(), 3);
}
