//! The EndpointSlices of a cluster's services: pure, from its objects.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};

use super::{
    controller::Objects,
    deployments::{is_ending, is_ready},
};
use crate::{
    config::ClusterConfig,
    kind::Kind,
    manifest,
    object::{Object, ObjectKey},
    random,
};

/// Whether the lab computes this slice; others belong to whoever wrote them.
pub(super) fn is_ours(slice: &Object) -> bool {
    slice
        .labels()
        .any(|label| label == (MANAGED_BY_LABEL, MANAGED_BY))
}

/// The slices that all services with a selector should have.
pub(super) fn slices(cluster: &ClusterConfig, objects: &Objects) -> BTreeMap<ObjectKey, Value> {
    let mut slices = BTreeMap::new();
    for service in objects
        .values()
        .filter(|object| object.key.kind == Kind::Service)
    {
        // Of thousands of services without a selector, each pass would otherwise read all of the type.
        if service.field(&["spec", "selector"]).is_none() {
            continue;
        }
        let Some(view) = service.view::<Service>() else {
            continue;
        };
        let spec = view.spec.unwrap_or_default();
        let Some(selector) = spec.selector.filter(|selector| !selector.is_empty()) else {
            continue;
        };
        let ports = spec.ports.unwrap_or_default();
        let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
        let families = spec.ip_families.unwrap_or_else(|| vec!["IPv4".to_owned()]);
        let pods = selected(objects, service, &selector);
        for family in families {
            // Pods whose named ports differ go to slices of their own.
            let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
            for (object, pod) in &pods {
                let numbers = port_values(&ports, pod);
                let group = groups.entry(json!(numbers).to_string()).or_default();
                group.0 = numbers;
                group.1.extend(endpoint(
                    cluster,
                    objects,
                    object,
                    pod,
                    &family,
                    publish_not_ready,
                ));
            }
            if groups.is_empty() {
                groups.insert(String::new(), (Vec::new(), Vec::new()));
            }
            for (group, (ports, endpoints)) in groups.into_values().enumerate() {
                let chunks: Vec<&[Value]> = if endpoints.is_empty() {
                    vec![&[]]
                } else {
                    endpoints.chunks(ENDPOINTS_PER_SLICE_MAX).collect()
                };
                for (index, chunk) in chunks.into_iter().enumerate() {
                    let (key, value) = slice(service, &family, (group, index), &ports, chunk);
                    slices.insert(key, value);
                }
            }
        }
    }
    slices
}

fn selected<'o>(
    objects: &'o Objects,
    service: &Object,
    selector: &BTreeMap<String, String>,
) -> Vec<(&'o Object, Pod)> {
    objects
        .values()
        .filter(|object| object.key.kind == Kind::Pod)
        .filter(|object| object.key.namespace == service.key.namespace)
        .filter(|object| {
            selector.iter().all(|wanted| {
                object
                    .labels()
                    .any(|(key, value)| key == wanted.0 && value == wanted.1)
            })
        })
        .filter_map(|object| Some((object, object.view::<Pod>()?)))
        .filter(|(_, pod)| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        })
        .collect()
}

fn endpoint(
    cluster: &ClusterConfig,
    objects: &Objects,
    object: &Object,
    pod: &Pod,
    family: &str,
    publish_not_ready: bool,
) -> Option<Value> {
    let addresses = pod.status.as_ref()?.pod_ips.as_ref()?;
    let address = addresses
        .iter()
        .filter_map(|address| address.ip.parse::<IpAddr>().ok())
        .find(|address| address.is_ipv4() == (family == "IPv4"))?;
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.as_deref()?;
    let (ready, ending) = (is_ready(object), is_ending(object));
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {
            "ready": publish_not_ready || (ready && !ending),
            "serving": ready,
            "terminating": ending,
        },
        "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": object.key.namespace, "name": object.key.name,
            "uid": object.uid()},
    });
    if let Some(zone) = zone(cluster, objects, node) {
        endpoint["zone"] = json!(zone);
    }
    if let (Some(hostname), Some(_)) = (&spec.hostname, &spec.subdomain) {
        endpoint["hostname"] = json!(hostname);
    }
    Some(endpoint)
}

fn zone(cluster: &ClusterConfig, objects: &Objects, node: &str) -> Option<String> {
    let configured = cluster.nodes.iter().find(|config| config.name == node);
    let object = objects.get(&ObjectKey::new(Kind::Node, "", node));
    let label = object
        .and_then(|object| object.labels().find(|(key, _)| *key == ZONE_LABEL))
        .map(|(_, zone)| zone.to_owned());
    label.or_else(|| configured?.labels.get(ZONE_LABEL).cloned())
}

fn port_values(ports: &[ServicePort], pod: &Pod) -> Vec<Value> {
    let containers = pod
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let resolve = |port: &ServicePort| match &port.target_port {
        None => u16::try_from(port.port).ok(),
        Some(target @ IntOrString::Int(_)) => containers
            .first()
            .and_then(|container| manifest::container_port(container, target)),
        Some(target @ IntOrString::String(_)) => containers
            .iter()
            .find_map(|container| manifest::container_port(container, target)),
    };
    ports
        .iter()
        .filter_map(|port| {
            let mut value = json!({
                "name": port.name.clone().unwrap_or_default(),
                "port": resolve(port)?,
                "protocol": port.protocol.as_deref().unwrap_or("TCP"),
            });
            if let Some(protocol) = &port.app_protocol {
                value["appProtocol"] = json!(protocol);
            }
            Some(value)
        })
        .collect()
}

fn slice(
    service: &Object,
    family: &str,
    number: (usize, usize),
    ports: &[Value],
    endpoints: &[Value],
) -> (ObjectKey, Value) {
    let service_name = &service.key.name;
    let namespace = &service.key.namespace;
    // The same service gets slices of the same names, so that a change is a change and not a new
    // object.
    let seed = format!("{namespace}/{service_name}/{family}/{number:?}");
    let name = format!("{service_name}-{}", random::name_hash(&seed, NAME_HASH_LEN));
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {SERVICE_LABEL: service_name, MANAGED_BY_LABEL: MANAGED_BY},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": service_name,
                "uid": service.uid(), "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    });
    (ObjectKey::new(Kind::EndpointSlice, namespace, &name), value)
}

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const ENDPOINTS_PER_SLICE_MAX: usize = 100;
const NAME_HASH_LEN: usize = 5;

#[cfg(test)]
mod tests;
