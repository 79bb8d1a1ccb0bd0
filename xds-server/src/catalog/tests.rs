//! Objects in, facts out.

mod authorization;
mod choice;
mod order;
mod rules;
mod services;
mod workloads;

use serde_json::{Value, json};
use tulle_policy::{DefaultCluster, ReadSettings};

use super::*;

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
