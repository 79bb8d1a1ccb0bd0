//! What the keys of a Cilium cluster mean together: an address, a node, labels and a service's backends make a workload.
//!
//! Each value that comes marks the workloads that it touches; `take_changes` computes those anew. The result does not depend on
//! the order in which the values came (`order_of_values_does_not_matter`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use tulle_model::{
    Affinity, Change, ClusterName, Health, Locality, NamespacedName, PortMapping, Protocol,
    Service, ServicePort, Sharing, SmallMap, Text, TrustDomain, TunnelProtocol, Workload,
    WorkloadKind, WorkloadUid,
};

use super::{
    labels::pod_labels,
    values::{AddressIdentity, ClusterService, Node, Ports},
};
use crate::catalog::CLUSTER_DOMAIN;

/// See the module's text.
#[derive(Debug)]
pub(super) struct View {
    cluster: ClusterName,
    services: BTreeMap<String, Backends>,
    nodes: HashMap<String, KnownNode>,
    node_by_address: HashMap<IpAddr, String>,
    labels: HashMap<u32, SmallMap<Text, Text>>,
    addresses: HashMap<IpAddr, PodAddress>,
    pods: HashMap<NamespacedName, BTreeSet<IpAddr>>,
    pods_by_labels: HashMap<u32, BTreeSet<NamespacedName>>,
    pods_by_host: HashMap<IpAddr, BTreeSet<NamespacedName>>,
    /// The services that an address serves.
    serving: HashMap<IpAddr, BTreeSet<String>>,
    dirty: BTreeSet<Owner>,
    told: HashMap<Owner, Arc<Workload>>,
    changes: Vec<Change>,
}

/// What a workload is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Owner {
    Pod(NamespacedName),
    /// A backend of which no pod is known.
    Address(IpAddr),
}

#[derive(Debug)]
struct Backends {
    service: NamespacedName,
    mappings: BTreeMap<IpAddr, Vec<PortMapping>>,
    hostnames: BTreeMap<IpAddr, String>,
    zones: BTreeMap<IpAddr, String>,
}

#[derive(Debug)]
struct KnownNode {
    name: String,
    addresses: Vec<IpAddr>,
    locality: Locality,
}

#[derive(Debug)]
struct PodAddress {
    pod: NamespacedName,
    service_account: String,
    host: Option<IpAddr>,
    labels: u32,
}

impl View {
    pub(super) fn new(cluster: &ClusterName) -> Self {
        View {
            cluster: cluster.clone(),
            services: BTreeMap::new(),
            nodes: HashMap::new(),
            node_by_address: HashMap::new(),
            labels: HashMap::new(),
            addresses: HashMap::new(),
            pods: HashMap::new(),
            pods_by_labels: HashMap::new(),
            pods_by_host: HashMap::new(),
            serving: HashMap::new(),
            dirty: BTreeSet::new(),
            told: HashMap::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn put_service(&mut self, key: &str, value: ClusterService) {
        let name = format!("{}.{}.svc.{CLUSTER_DOMAIN}", value.name, value.namespace);
        let service = service_of(&value, &name);
        let ports = service.ports.clone();
        let by_address = |ip: &String| ip.parse::<IpAddr>().ok();
        let backends = Backends {
            service: service.key(),
            mappings: value
                .backends
                .iter()
                .filter_map(|(ip, backend)| Some((by_address(ip)?, mappings_of(&ports, backend))))
                .collect(),
            hostnames: value
                .hostnames
                .iter()
                .filter_map(|(ip, name)| Some((by_address(ip)?, name.clone())))
                .collect(),
            zones: value
                .zones
                .iter()
                .filter_map(|(ip, zone)| Some((by_address(ip)?, zone.zone.clone())))
                .collect(),
        };
        self.forget_backends(key);
        for ip in backends.mappings.keys() {
            self.serving.entry(*ip).or_default().insert(key.to_owned());
            self.dirty.insert(owner_of(&self.addresses, *ip));
        }
        self.services.insert(key.to_owned(), backends);
        self.changes.push(Change::Service(Arc::new(service)));
    }

    pub(super) fn remove_service(&mut self, key: &str) {
        self.forget_backends(key);
        if let Some(gone) = self.services.remove(key) {
            self.changes.push(Change::ServiceGone(gone.service));
        }
    }

    fn forget_backends(&mut self, key: &str) {
        let Some(old) = self.services.get(key) else {
            return;
        };
        for ip in old.mappings.keys() {
            if let Some(services) = self.serving.get_mut(ip) {
                services.remove(key);
                if services.is_empty() {
                    self.serving.remove(ip);
                }
            }
            self.dirty.insert(owner_of(&self.addresses, *ip));
        }
    }

    pub(super) fn put_node(&mut self, key: &str, value: Node) {
        self.remove_node(key);
        let label = |name: &str| value.labels.get(name).cloned().unwrap_or_default();
        let node = KnownNode {
            locality: Locality {
                region: label("topology.kubernetes.io/region").into(),
                zone: label("topology.kubernetes.io/zone").into(),
                subzone: label("topology.istio.io/subzone").into(),
            },
            addresses: value
                .addresses
                .iter()
                .filter_map(|a| a.ip.parse().ok())
                .collect(),
            name: value.name,
        };
        for ip in &node.addresses {
            self.node_by_address.insert(*ip, key.to_owned());
            self.mark_host(*ip);
        }
        self.nodes.insert(key.to_owned(), node);
    }

    pub(super) fn remove_node(&mut self, key: &str) {
        let Some(old) = self.nodes.remove(key) else {
            return;
        };
        for ip in old.addresses {
            if self.node_by_address.get(&ip).is_some_and(|k| k == key) {
                self.node_by_address.remove(&ip);
            }
            self.mark_host(ip);
        }
    }

    fn mark_host(&mut self, host: IpAddr) {
        let pods = self.pods_by_host.get(&host).into_iter().flatten();
        self.dirty.extend(pods.cloned().map(Owner::Pod));
    }

    pub(super) fn put_labels(&mut self, number: u32, text: &str) {
        self.labels.insert(number, pod_labels(text));
        self.mark_labels(number);
    }

    pub(super) fn remove_labels(&mut self, number: u32) {
        self.labels.remove(&number);
        self.mark_labels(number);
    }

    fn mark_labels(&mut self, number: u32) {
        let pods = self.pods_by_labels.get(&number).into_iter().flatten();
        self.dirty.extend(pods.cloned().map(Owner::Pod));
    }

    pub(super) fn put_address(&mut self, name: &str, value: AddressIdentity) {
        self.remove_address(name);
        let Ok(ip) = name.parse::<IpAddr>() else {
            return;
        };
        if value.mask.is_some() || value.pod_name.is_empty() || value.namespace.is_empty() {
            return;
        }
        let address = PodAddress {
            pod: NamespacedName::new(value.namespace, value.pod_name),
            service_account: value.service_account,
            host: value.host_ip.parse().ok(),
            labels: value.id,
        };
        let pod = &address.pod;
        self.pods.entry(pod.clone()).or_default().insert(ip);
        let of_labels = self.pods_by_labels.entry(address.labels).or_default();
        of_labels.insert(pod.clone());
        if let Some(host) = address.host {
            self.pods_by_host
                .entry(host)
                .or_default()
                .insert(pod.clone());
        }
        self.dirty.insert(Owner::Pod(pod.clone()));
        self.dirty.insert(Owner::Address(ip));
        self.addresses.insert(ip, address);
    }

    pub(super) fn remove_address(&mut self, name: &str) {
        let Some((ip, old)) = name
            .parse::<IpAddr>()
            .ok()
            .and_then(|ip| Some((ip, self.addresses.remove(&ip)?)))
        else {
            return;
        };
        let left = self.pods.get_mut(&old.pod).is_some_and(|ips| {
            ips.remove(&ip);
            !ips.is_empty()
        });
        if !left {
            self.pods.remove(&old.pod);
            remove_from(&mut self.pods_by_labels, &old.labels, &old.pod);
            if let Some(host) = old.host {
                remove_from(&mut self.pods_by_host, &host, &old.pod);
            }
        }
        self.dirty.insert(Owner::Pod(old.pod));
        self.dirty.insert(Owner::Address(ip));
    }

    /// What changed since the last call.
    pub(super) fn take_changes(&mut self, out: &mut Vec<Change>) {
        out.append(&mut self.changes);
        for owner in std::mem::take(&mut self.dirty) {
            let now = match &owner {
                Owner::Pod(pod) => self.workload_of_pod(pod),
                Owner::Address(ip) => self.workload_of_address(*ip),
            };
            match (self.told.get(&owner), now) {
                (old, Some(new)) if old.is_none_or(|old| **old != new) => {
                    let new = Arc::new(new);
                    out.push(Change::Workload(Arc::clone(&new)));
                    self.told.insert(owner, new);
                }
                (Some(old), None) => {
                    out.push(Change::WorkloadGone(old.uid.clone()));
                    self.told.remove(&owner);
                }
                (Some(_) | None, _) => {}
            }
        }
    }

    pub(super) fn nodes_len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn labels_len(&self) -> usize {
        self.labels.len()
    }

    fn workload_of_pod(&self, pod: &NamespacedName) -> Option<Workload> {
        let ips = self.pods.get(pod)?;
        let first = self.addresses.get(ips.first()?)?;
        let node = first.host.and_then(|host| {
            let key = self.node_by_address.get(&host)?;
            self.nodes.get(key)
        });
        let mut workload = Workload {
            uid: WorkloadUid::of_pod(&self.cluster, &pod.namespace, &pod.name),
            name: pod.name.clone().into(),
            namespace: pod.namespace.clone(),
            service_account: first.service_account.clone().into(),
            labels: self.labels.get(&first.labels).cloned().unwrap_or_default(),
            node: node.map(|n| n.name.clone()).unwrap_or_default().into(),
            locality: node.map(|n| n.locality.clone()).unwrap_or_default(),
            addresses: ips.iter().copied().collect(),
            ..self.blank()?
        };
        for ip in ips {
            self.add_services(&mut workload, *ip);
        }
        Some(workload)
    }

    /// A backend without a pod: of the host's network, or outside of the cluster.
    fn workload_of_address(&self, ip: IpAddr) -> Option<Workload> {
        if self.addresses.contains_key(&ip) {
            return None;
        }
        let key = self.serving.get(&ip)?.first()?;
        let namespace = self.services.get(key)?.service.namespace.clone();
        let node = self
            .node_by_address
            .get(&ip)
            .and_then(|key| self.nodes.get(key));
        let mut workload = Workload {
            uid: WorkloadUid(format!("{}/cilium/Backend/{ip}", self.cluster).into()),
            name: ip.to_string(),
            namespace,
            node: node.map(|n| n.name.clone()).unwrap_or_default().into(),
            locality: node.map(|n| n.locality.clone()).unwrap_or_default(),
            addresses: vec![ip],
            host_network: node.is_some(),
            ..self.blank()?
        };
        self.add_services(&mut workload, ip);
        Some(workload)
    }

    fn add_services(&self, workload: &mut Workload, ip: IpAddr) {
        let serving = self.serving.get(&ip).into_iter().flatten();
        for backends in serving.filter_map(|key| self.services.get(key)) {
            let Some(mappings) = backends.mappings.get(&ip) else {
                continue;
            };
            let service = backends.service.clone();
            if workload.services.get(&service).is_none() {
                workload.services.insert(service, mappings.clone());
            }
            if let Some(name) = backends.hostnames.get(&ip) {
                workload.hostname = name.into();
            }
            if let Some(zone) = backends.zones.get(&ip)
                && workload.locality.zone.is_empty()
            {
                workload.locality.zone = zone.into();
            }
        }
    }

    /// Reached in plain; its identity cannot be proven.
    fn blank(&self) -> Option<Workload> {
        let trust_domain: TrustDomain = format!("{}.cilium", self.cluster).parse().ok()?;
        Some(Workload {
            uid: WorkloadUid("".into()),
            name: String::new(),
            namespace: Text::default(),
            service_account: Text::default(),
            trust_domain,
            cluster: self.cluster.clone(),
            node: Text::default(),
            addresses: Vec::new(),
            hostname: Text::default(),
            labels: SmallMap::new(),
            locality: Locality::default(),
            canonical_name: Text::default(),
            canonical_revision: Text::default(),
            kind: WorkloadKind::Pod,
            owner_name: Text::default(),
            tunnel_protocol: TunnelProtocol::None,
            health: Health::Healthy,
            host_network: false,
            services: SmallMap::new(),
            authorization_policies: Vec::new(),
            capacity: 1,
            namespace_labels: Arc::default(),
            named_ports: SmallMap::new(),
            demoted: false,
        })
    }
}

fn owner_of(addresses: &HashMap<IpAddr, PodAddress>, ip: IpAddr) -> Owner {
    match addresses.get(&ip) {
        Some(address) => Owner::Pod(address.pod.clone()),
        None => Owner::Address(ip),
    }
}

fn service_of(value: &ClusterService, hostname: &str) -> Service {
    // A headless service has no frontends; its ports are those of its backends.
    let headless = value.frontends.is_empty();
    let sources = if headless {
        &value.backends
    } else {
        &value.frontends
    };
    let mut ports: Vec<ServicePort> = Vec::new();
    for (name, address) in sources.values().flatten() {
        let Some(protocol) = protocol_of(&address.protocol) else {
            continue;
        };
        let known = |p: &ServicePort| p.name == *name && p.protocol == protocol;
        if !ports.iter().any(known) {
            ports.push(ServicePort {
                name: name.clone(),
                port: address.port,
                target_port: if headless { address.port } else { 0 },
                protocol,
                app_protocol: tulle_model::AppProtocol::Unknown,
            });
        }
    }
    Service {
        name: value.name.clone(),
        namespace: value.namespace.clone(),
        hostname: hostname.to_owned(),
        addresses: value
            .frontends
            .keys()
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        ports,
        // Only global services are published at all.
        sharing: Sharing {
            global: true,
            shared: value.shared,
            affinity: Affinity::None,
        },
        ..Service::default()
    }
}

fn mappings_of(ports: &[ServicePort], backend: &Ports) -> Vec<PortMapping> {
    let mapping = |port: &ServicePort| {
        let served = backend.get(&port.name)?;
        (protocol_of(&served.protocol) == Some(port.protocol)).then_some(PortMapping {
            service_port: port.port,
            target_port: served.port,
            protocol: port.protocol,
        })
    };
    ports.iter().filter_map(mapping).collect()
}

fn protocol_of(text: &str) -> Option<Protocol> {
    match text {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

fn remove_from<K>(index: &mut HashMap<K, BTreeSet<NamespacedName>>, key: &K, pod: &NamespacedName)
where
    K: Eq + std::hash::Hash,
{
    if let Some(pods) = index.get_mut(key) {
        pods.remove(pod);
        if pods.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
