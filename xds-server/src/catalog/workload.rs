//! Puts a workload together from its pod, its slices, its services, its node and the policies that select it.

use std::{collections::BTreeMap, sync::Arc};

use tulle_model::{
    Health, Locality, NamedPort, NamespacedName, PortMapping, SmallMap, TunnelProtocol, Workload,
    WorkloadKind, WorkloadUid,
};

use super::{
    Catalog, labels,
    pod::{MeshMode, PodFacts},
    slice::{SliceEndpoint, SliceFacts},
};

impl Catalog {
    /// The workload of a pod; none while it has no node or no address, and after its end.
    pub(super) fn workload_of_pod(
        &self,
        key: &NamespacedName,
        uid: &WorkloadUid,
    ) -> Option<Workload> {
        let pod = self.pods.get(key)?;
        if pod.finished || pod.node.is_empty() || pod.addresses.is_empty() {
            return None;
        }
        let mut services: BTreeMap<NamespacedName, Vec<PortMapping>> = BTreeMap::new();
        let mut slices_health = None;
        let mut weight = None;
        let mut hostname = pod.hostname.clone();
        for slice in self.slices_by_pod.get(key).into_iter().flatten() {
            let Some(slice) = self.slices.get(slice) else {
                continue;
            };
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|e| e.pod.as_ref() == Some(key))
            {
                if let Some((service, ports)) = self.served_by(slice, &pod.ports) {
                    merge_ports(services.entry(service).or_default(), ports);
                }
                slices_health = Some(worse(slices_health.unwrap_or_default(), endpoint.health));
                weight = weight.or(slice.weight);
                if hostname.is_empty() {
                    hostname.clone_from(&endpoint.hostname);
                }
            }
        }
        let namespace = self.namespaces.get(key.namespace.as_str());
        let namespace_out = namespace.is_some_and(|n| n.out_of_mesh);
        Some(Workload {
            uid: uid.clone(),
            name: key.name.clone().into(),
            namespace: key.namespace.clone(),
            service_account: pod.service_account.clone().into(),
            trust_domain: self.settings.trust_domain.clone(),
            cluster: self.settings.cluster.clone(),
            node: pod.node.clone().into(),
            addresses: pod.addresses.clone(),
            hostname: hostname.into(),
            labels: labels::shared(Some(&pod.labels)),
            namespace_labels: namespace.map(|n| Arc::clone(&n.labels)).unwrap_or_default(),
            named_ports: (pod.ports.iter())
                .map(|(name, port)| (name.into(), *port))
                .collect(),
            locality: self.locality_of(&pod.node).unwrap_or_default(),
            canonical_name: canonical_name(pod).into(),
            canonical_revision: canonical_revision(pod).into(),
            kind: pod.owner_kind,
            owner_name: pod.owner_name.clone().into(),
            tunnel_protocol: tunnel_protocol(pod, namespace_out),
            health: health(pod, slices_health),
            host_network: pod.host_network,
            services: services.into_iter().collect(),
            authorization_policies: self.policies_for(&key.namespace, &pod.labels),
            capacity: weight.unwrap_or(1),
            demoted: false,
        })
    }

    /// The workloads of a slice's endpoints behind which there is no pod.
    pub(super) fn workloads_of_slice(&self, key: &NamespacedName) -> Vec<Workload> {
        let Some(slice) = self.slices.get(key) else {
            return Vec::new();
        };
        let Some((service, ports)) = self.served_by(slice, &BTreeMap::new()) else {
            return Vec::new();
        };
        let podless = slice.endpoints.iter().filter(|e| e.pod.is_none());
        let workloads = podless.filter_map(|endpoint| {
            let services = BTreeMap::from([(service.clone(), ports.clone())]);
            let weight = slice.weight.unwrap_or(1);
            self.workload_of_endpoint(key, endpoint, services, weight)
        });
        let by_uid: BTreeMap<WorkloadUid, Workload> =
            workloads.map(|w| (w.uid.clone(), w)).collect();
        by_uid.into_values().collect()
    }

    fn workload_of_endpoint(
        &self,
        slice: &NamespacedName,
        endpoint: &SliceEndpoint,
        services: BTreeMap<NamespacedName, Vec<PortMapping>>,
        weight: u32,
    ) -> Option<Workload> {
        let address = endpoint.addresses.first()?;
        let of_node = self.locality_of(&endpoint.node);
        let locality = of_node.unwrap_or_else(|| Locality {
            zone: endpoint.zone.clone().into(),
            ..Locality::default()
        });
        let cluster = &self.settings.cluster;
        let (namespace, name) = (&slice.namespace, &slice.name);
        let uid = format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{address}");
        Some(Workload {
            uid: WorkloadUid(uid.into()),
            name: name.clone().into(),
            namespace: namespace.clone(),
            service_account: "default".into(),
            trust_domain: self.settings.trust_domain.clone(),
            cluster: cluster.clone(),
            node: endpoint.node.clone().into(),
            addresses: endpoint.addresses.clone(),
            hostname: endpoint.hostname.clone().into(),
            labels: SmallMap::new(),
            namespace_labels: Arc::default(),
            named_ports: SmallMap::new(),
            locality,
            canonical_name: name.clone(),
            canonical_revision: "latest".into(),
            kind: WorkloadKind::Pod,
            owner_name: name.clone(),
            tunnel_protocol: TunnelProtocol::None,
            health: endpoint.health,
            // Its address may be anybody's: it must never be taken for an identity (istiod does the same).
            host_network: true,
            services: services.into_iter().collect(),
            authorization_policies: Vec::new(),
            capacity: weight,
            demoted: false,
        })
    }

    /// The service that a slice serves and at which ports, matched by the ports' names as Kubernetes does.
    fn served_by(
        &self,
        slice: &SliceFacts,
        pod_ports: &BTreeMap<String, NamedPort>,
    ) -> Option<(NamespacedName, Vec<PortMapping>)> {
        let facts = self.services.get(slice.service.as_ref()?)?;
        let service = facts.service.as_ref()?;
        let mut ports = Vec::new();
        for port in &service.ports {
            let in_slice = slice
                .ports
                .iter()
                .find(|p| p.name == port.name && p.protocol == port.protocol);
            // The slice may be older than the service's newest port; the pod's own spec then names the target.
            let by_name = || {
                facts
                    .named_targets
                    .get(&(port.port, port.protocol))
                    .and_then(|n| pod_ports.get(n))
                    .map(|named| named.port)
            };
            let target_port = in_slice.map(|p| p.port).or_else(by_name);
            if let Some(target_port) = target_port {
                merge_ports(
                    &mut ports,
                    vec![PortMapping {
                        service_port: port.port,
                        target_port,
                        protocol: port.protocol,
                    }],
                );
            }
        }
        Some((service.key(), ports))
    }
}

/// One mapping for each service port and protocol, sorted; the first that was found stays.
fn merge_ports(into: &mut Vec<PortMapping>, more: Vec<PortMapping>) {
    let key = |m: &PortMapping| (m.service_port, m.protocol);
    for mapping in more {
        if let Err(at) = into.binary_search_by_key(&key(&mapping), key) {
            into.insert(at, mapping);
        }
    }
}

fn tunnel_protocol(pod: &PodFacts, namespace_out: bool) -> TunnelProtocol {
    let out = match pod.mesh_mode {
        MeshMode::In => false,
        MeshMode::Out => true,
        MeshMode::Unset => namespace_out,
    };
    if out || pod.host_network {
        TunnelProtocol::None
    } else {
        TunnelProtocol::Hbone
    }
}

/// Healthy = the pod says so, and no slice knows better. A slice of a service that publishes unready addresses always says
/// ready, so it never makes a pod look better than it is.
///
/// A pod that is being deleted serves as long as its probe says so: Kubernetes keeps `Ready` up to date until the end.
fn health(pod: &PodFacts, slices: Option<Health>) -> Health {
    let of_pod = match (pod.ready, slices) {
        (Some(true), _) | (None, Some(_)) if pod.terminating => Health::Terminating,
        (Some(true), _) | (None, Some(_)) => Health::Healthy,
        (Some(false), _) | (None, None) => Health::Unhealthy,
    };
    worse(of_pod, slices.unwrap_or_default())
}

fn worse(a: Health, b: Health) -> Health {
    match (a, b) {
        (Health::Unhealthy, _) | (_, Health::Unhealthy) => Health::Unhealthy,
        (Health::Terminating, _) | (_, Health::Terminating) => Health::Terminating,
        (Health::Healthy, Health::Healthy) => Health::Healthy,
    }
}

fn canonical_name(pod: &PodFacts) -> String {
    first_label(
        pod,
        &[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ],
    )
    .unwrap_or_else(|| pod.owner_name.clone())
}

fn canonical_revision(pod: &PodFacts) -> String {
    first_label(
        pod,
        &[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ],
    )
    .unwrap_or_else(|| "latest".to_owned())
}

fn first_label(pod: &PodFacts, keys: &[&str]) -> Option<String> {
    keys.iter()
        .find_map(|k| pod.labels.get(*k))
        .filter(|v| !v.is_empty())
        .cloned()
}
