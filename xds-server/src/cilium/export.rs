//! The own cluster in Cilium's layout: global and shared services with their ready endpoints, pods' addresses, their labels as
//! numbers, nodes.
//!
//! Each fact that changes marks the keys that it touches; `take_changed` writes those anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use bytes::Bytes;
use k8s_openapi::api::core::v1 as core;
use serde::Serialize;
use tulle_model::{
    Change, ClusterName, Directory, Health, NamespacedName, Protocol, Service, Workload,
    WorkloadUid,
};

use super::{
    keys,
    labels::{Numbers, labels_text},
    values::{
        AddressIdentity, BackendZone, Capabilities, ClusterConfig, ClusterService, IpNet,
        L4Address, Node, NodeAddress, Ports,
    },
};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct CiliumExport {
    cluster: ClusterName,
    cluster_id: u16,
    numbers: Numbers,
    nodes: HashMap<String, NodeFacts>,
    /// What was written for a workload.
    written: HashMap<WorkloadUid, Written>,
    services: BTreeSet<NamespacedName>,
    workloads: BTreeSet<WorkloadUid>,
    changed: BTreeMap<String, Option<Bytes>>,
}

#[derive(Debug)]
struct Written {
    addresses: Vec<IpAddr>,
    labels: String,
}

/// What the layout says of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeFacts {
    addresses: Vec<NodeAddress>,
    ranges: Vec<String>,
    labels: BTreeMap<String, String>,
    boot_id: String,
}

impl NodeFacts {
    pub(crate) fn of(node: &core::Node) -> Self {
        let status = node.status.as_ref();
        let addresses = status
            .and_then(|s| s.addresses.as_ref())
            .into_iter()
            .flatten();
        let usable = addresses.filter(|a| a.address.parse::<IpAddr>().is_ok());
        let spec = node.spec.as_ref();
        let mut ranges: Vec<String> = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
        if ranges.is_empty() {
            ranges.extend(spec.and_then(|s| s.pod_cidr.clone()));
        }
        NodeFacts {
            addresses: usable
                .map(|a| NodeAddress {
                    kind: a.type_.clone(),
                    ip: a.address.clone(),
                })
                .collect(),
            ranges,
            labels: node.metadata.labels.clone().unwrap_or_default(),
            boot_id: status
                .and_then(|s| s.node_info.as_ref())
                .map(|i| i.boot_id.clone())
                .unwrap_or_default(),
        }
    }

    /// The address under which pods of the node are reached, of the family if there is one.
    fn host_ip(&self, like: IpAddr) -> String {
        let internal = || self.addresses.iter().filter(|a| a.kind == "InternalIP");
        let same = |a: &&NodeAddress| {
            a.ip.parse::<IpAddr>()
                .is_ok_and(|ip| ip.is_ipv4() == like.is_ipv4())
        };
        let found = internal().find(same).or_else(|| internal().next());
        found.map(|a| a.ip.clone()).unwrap_or_default()
    }
}

impl CiliumExport {
    pub(crate) fn new(cluster: &ClusterName, cluster_id: u16) -> Self {
        let most: u32 = if cluster_id > 255 { 511 } else { 255 };
        let config = ClusterConfig {
            id: cluster_id.into(),
            capabilities: Capabilities {
                synced_canaries: true,
                max_connected_clusters: most,
                service_exports_enabled: Some(false),
                ..Capabilities::default()
            },
        };
        CiliumExport {
            cluster: cluster.clone(),
            cluster_id,
            numbers: Numbers::new(cluster_id, most),
            nodes: HashMap::new(),
            written: HashMap::new(),
            services: BTreeSet::new(),
            workloads: BTreeSet::new(),
            changed: BTreeMap::from([(keys::config(cluster), Some(json(&config)))]),
        }
    }

    /// A fact changed; `local` is still as it was before.
    pub(crate) fn handle(&mut self, change: &Change, local: &Directory) {
        let (uid, new) = match change {
            Change::Workload(workload) => (&workload.uid, Some(workload)),
            Change::WorkloadGone(uid) => (uid, None),
            Change::Service(service) => {
                self.services.insert(service.key());
                return;
            }
            Change::ServiceGone(key) => {
                self.services.insert(key.clone());
                return;
            }
            Change::Policy(_)
            | Change::Rules(_)
            | Change::RulesGone(_)
            | Change::PolicyGone(_)
            | Change::Bundle(_)
            | Change::BundleGone(_) => {
                return;
            }
        };
        let old = local.workload(uid);
        for workload in [old, new].into_iter().flatten() {
            self.services.extend(workload.services.keys().cloned());
        }
        self.workloads.insert(uid.clone());
    }

    /// A node is new, different or gone.
    pub(crate) fn handle_node(&mut self, name: &str, facts: Option<NodeFacts>, local: &Directory) {
        if self.nodes.get(name) == facts.as_ref() {
            return;
        }
        let key = keys::node(&self.cluster, name);
        let value = facts.as_ref().map(|facts| json(&self.node(name, facts)));
        self.changed.insert(key, value);
        match facts {
            Some(facts) => self.nodes.insert(name.to_owned(), facts),
            None => self.nodes.remove(name),
        };
        // Nodes change rarely; an index of their pods would cost more.
        let pods = local.workloads().filter(|w| w.node == name);
        self.workloads.extend(pods.map(|w| w.uid.clone()));
    }

    /// The keys that changed since the last call, with their values now.
    pub(crate) fn take_changed(&mut self, local: &Directory) -> BTreeMap<String, Option<Bytes>> {
        for key in std::mem::take(&mut self.services) {
            let name = key.name.split('.').next().unwrap_or_default();
            let service = local
                .service(&key)
                .filter(|s| s.sharing.global && s.sharing.shared);
            let value = service.map(|s| json(&self.service(s, local)));
            let key = keys::service(&self.cluster, &key.namespace, name);
            self.changed.insert(key, value);
        }
        for uid in std::mem::take(&mut self.workloads) {
            self.write_workload(&uid, local.workload(&uid).map(|w| &**w));
        }
        std::mem::take(&mut self.changed)
    }

    fn write_workload(&mut self, uid: &WorkloadUid, workload: Option<&Workload>) {
        let old = self.written.remove(uid);
        // The new labels are counted before the old ones are given up, so that equal ones keep their number.
        let shown = workload.filter(|w| !w.host_network && !w.addresses.is_empty());
        let written = shown.and_then(|w| {
            let account = &w.service_account;
            let text = labels_text(self.cluster.as_str(), &w.namespace, account, &w.labels);
            let number = self.numbers.take(&text)?;
            self.changed
                .insert(keys::identity(number), Some(Bytes::from(text.clone())));
            for ip in &w.addresses {
                let value = json(&self.address(w, *ip, number));
                self.changed
                    .insert(keys::address(&ip.to_string()), Some(value));
            }
            Some(Written {
                addresses: w.addresses.clone(),
                labels: text,
            })
        });
        if let Some(old) = old {
            if let Some(number) = self.numbers.give_back(&old.labels) {
                self.changed.insert(keys::identity(number), None);
            }
            let kept = |ip: &IpAddr| written.as_ref().is_some_and(|w| w.addresses.contains(ip));
            for ip in old.addresses.iter().filter(|ip| !kept(ip)) {
                self.changed.insert(keys::address(&ip.to_string()), None);
            }
        }
        self.written.extend(written.map(|w| (uid.clone(), w)));
    }

    fn address(&self, workload: &Workload, ip: IpAddr, number: u32) -> AddressIdentity {
        let node = self.nodes.get(workload.node.as_str());
        AddressIdentity {
            ip: ip.to_string(),
            host_ip: node.map(|n| n.host_ip(ip)).unwrap_or_default(),
            id: number,
            namespace: workload.namespace.clone().into(),
            pod_name: workload.name.clone(),
            service_account: workload.service_account.clone().into(),
            ..AddressIdentity::default()
        }
    }

    fn service(&self, service: &Service, local: &Directory) -> ClusterService {
        let key = service.key();
        let frontend: Ports = service
            .ports
            .iter()
            .map(|p| (p.name.clone(), port(p.protocol, p.port)))
            .collect();
        let frontends = service
            .addresses
            .iter()
            .map(|ip| (ip.to_string(), frontend.clone()));
        let mut value = ClusterService {
            cluster: self.cluster.to_string(),
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            frontends: frontends.collect(),
            include_external: true,
            shared: true,
            cluster_id: self.cluster_id.into(),
            ..ClusterService::default()
        };
        // The layout knows no conditions: who is not ready is not there.
        let ready = |w: &Workload| w.health == Health::Healthy || service.publish_not_ready;
        for workload in local.endpoints(&key).filter(|w| ready(w)) {
            for (ip, ports) in backends_of(workload, service, &key) {
                let ip = ip.to_string();
                if !workload.hostname.is_empty() {
                    value
                        .hostnames
                        .insert(ip.clone(), workload.hostname.clone().into());
                }
                if !workload.locality.zone.is_empty() {
                    let zone = BackendZone {
                        zone: workload.locality.zone.clone().into(),
                        for_zones: Vec::new(),
                    };
                    value.zones.insert(ip.clone(), zone);
                }
                value.backends.insert(ip, ports);
            }
        }
        value
    }

    fn node(&self, name: &str, facts: &NodeFacts) -> Node {
        let range = |v4: bool| {
            let of_family = |r: &&String| r.contains('.') == v4;
            facts
                .ranges
                .iter()
                .find(of_family)
                .and_then(|r| IpNet::from_text(r))
        };
        Node {
            name: name.to_owned(),
            cluster: self.cluster.to_string(),
            addresses: facts.addresses.clone(),
            ipv4_range: range(true),
            ipv6_range: range(false),
            cluster_id: self.cluster_id.into(),
            source: "custom-resource".to_owned(),
            labels: facts.labels.clone(),
            boot_id: facts.boot_id.clone(),
            ..Node::default()
        }
    }
}

/// The addresses of a workload with the ports at which it serves.
fn backends_of(
    workload: &Workload,
    service: &Service,
    key: &NamespacedName,
) -> BTreeMap<IpAddr, Ports> {
    let mut backends: BTreeMap<IpAddr, Ports> = BTreeMap::new();
    for wanted in &service.ports {
        for address in workload.serving_addresses(key, wanted) {
            let ports = backends.entry(address.ip()).or_default();
            ports.insert(wanted.name.clone(), port(wanted.protocol, address.port()));
        }
    }
    backends
}

fn port(protocol: Protocol, port: u16) -> L4Address {
    let protocol = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    L4Address {
        protocol: protocol.to_owned(),
        port,
    }
}

/// As `layout::encode`: these types have no map with keys that are not texts.
fn json(value: &impl Serialize) -> Bytes {
    crate::layout::encode(value)
}

#[cfg(test)]
mod tests;
