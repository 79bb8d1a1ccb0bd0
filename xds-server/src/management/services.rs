//! Explains the services: what each cluster has of them, which endpoints are in use, and why the others are not.
//!
//! Pure: the choice itself is `tulle-balance`'s, the same that the nodes make; here it is only put into words.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use tulle_balance::{
    Ejected, Endpoint, Reason, SpillState, Verdict, Viewpoint, explain, select_endpoints,
};
use tulle_model::{
    Affinity, ClusterName, Directory, Health, Locality, NamespacedName, Protocol, Service,
    ServicePort, Workload, WorkloadUid,
};
use tulle_wire::management::{Backend, Frontend, ServiceDetail, ServiceInCluster, ServiceSummary};

use crate::{
    catalog::CLUSTER_DOMAIN,
    world::{MeshView, RemoteView},
};

/// What is explained.
#[derive(Debug, Clone, Copy)]
pub struct Services<'a> {
    /// The own cluster.
    pub cluster: &'a ClusterName,
    /// What each cluster says.
    pub mesh: &'a MeshView,
    /// What the nodes are given.
    pub given: &'a Directory,
}

impl Services<'_> {
    /// A line about each service of the own cluster.
    pub fn list(&self) -> Vec<ServiceSummary> {
        self.given.services().map(|s| self.summary(s, "")).collect()
    }

    /// How many services have endpoints in other clusters that may be used here.
    pub fn global_len(&self) -> usize {
        let shared_elsewhere = |key: &NamespacedName| {
            let remotes = self.mesh.remotes.values();
            remotes
                .filter_map(|remote| remote.state.service(key))
                .any(|s| s.sharing.global && s.sharing.shared)
        };
        let services = self.mesh.own.services();
        services
            .filter(|s| s.sharing.global && shared_elsewhere(&s.key()))
            .count()
    }

    /// Everything about one service, as it is seen from `node`; `None` if the own cluster has no such service.
    pub fn detail(
        &self,
        namespace: &str,
        name: &str,
        node: Option<&str>,
        warnings: Vec<String>,
    ) -> Option<ServiceDetail> {
        let key = key_of(namespace, name);
        let service = self.given.service(&key)?;
        let ports = service.ports.iter();
        let mut backends: Vec<Backend> = ports
            .flat_map(|port| self.backends(service, port, node.unwrap_or_default()))
            .collect();
        backends.sort_by(|a, b| {
            let own = |backend: &Backend| backend.cluster != self.cluster.as_str();
            (own(a), &a.cluster, &a.name, &a.address).cmp(&(
                own(b),
                &b.cluster,
                &b.name,
                &b.address,
            ))
        });
        Some(ServiceDetail {
            summary: self.summary(service, node.unwrap_or_default()),
            seen_from_node: node.map(str::to_owned),
            frontends: frontends(service),
            clusters: self.clusters(service),
            backends,
            warnings,
        })
    }

    /// The other clusters that have a service of that name.
    pub fn elsewhere(&self, namespace: &str, name: &str) -> Vec<&ClusterName> {
        let key = key_of(namespace, name);
        let has = |(_, remote): &(&ClusterName, &RemoteView)| remote.state.service(&key).is_some();
        let remotes = self.mesh.remotes.iter();
        remotes.filter(has).map(|(name, _)| name).collect()
    }

    fn summary(&self, service: &Service, node: &str) -> ServiceSummary {
        let key = service.key();
        let known = self.given.endpoints(&key).count();
        let selected = self.select(service, node);
        let mut included = BTreeMap::new();
        for workload in &selected {
            *included.entry(workload.cluster.to_string()).or_default() += 1;
        }
        ServiceSummary {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            addresses: service.addresses.clone(),
            ports: service.ports.iter().map(port_text).collect(),
            global: service.sharing.global,
            shared: service.sharing.global && service.sharing.shared,
            affinity: affinity_word(service.sharing.affinity).to_owned(),
            included,
            excluded: known - selected.len(),
        }
    }

    fn clusters(&self, service: &Service) -> Vec<ServiceInCluster> {
        let key = service.key();
        let line = |cluster: &ClusterName, state: &Directory, silent| {
            let sharing = state.service(&key).map(|s| s.sharing);
            ServiceInCluster {
                cluster: cluster.to_string(),
                known: sharing.is_some(),
                global: sharing.is_some_and(|s| s.global),
                shared: sharing.is_some_and(|s| s.global && s.shared),
                silent,
                endpoints: state.endpoints(&key).count(),
            }
        };
        let own = line(self.cluster, &self.mesh.own, false);
        let remotes = self.mesh.remotes.iter();
        let remotes = remotes.map(|(name, remote)| line(name, &remote.state, remote.silent));
        [own].into_iter().chain(remotes).collect()
    }

    /// The endpoints of one port in all clusters. Each family is chosen for itself, as the nodes do it: a client that asks for
    /// an IPv4 address can use no other.
    fn backends(&self, service: &Service, port: &ServicePort, node: &str) -> Vec<Backend> {
        let key = service.key();
        let own = self.mesh.own.endpoints(&key);
        let elsewhere = self.mesh.remotes.values();
        let elsewhere = elsewhere.flat_map(|remote| remote.state.endpoints(&key));
        let workloads: Vec<&Arc<Workload>> = own.chain(elsewhere).collect();
        let mut backends = Vec::new();
        for v6 in families(service) {
            let verdicts = self.verdicts(service, port, node, v6);
            for workload in &workloads {
                for address in served(workload, &key, port, v6) {
                    let verdict = verdicts.get(&(&workload.uid, address)).copied();
                    let included = matches!(verdict, Some(Verdict::Serves { .. }));
                    let reason = self.reason(service, workload, verdict, node);
                    backends.push(backend(workload, port, address, included, reason));
                }
            }
        }
        backends
    }

    fn verdicts(
        &self,
        service: &Service,
        port: &ServicePort,
        node: &str,
        v6: bool,
    ) -> BTreeMap<(&WorkloadUid, SocketAddr), Verdict> {
        let key = service.key();
        let mut endpoints = Vec::new();
        for workload in self.given.endpoints(&key) {
            let addresses = served(workload, &key, port, v6);
            endpoints.extend(addresses.map(|address| Endpoint { workload, address }));
        }
        let locality = self.locality_of(node);
        let from = Viewpoint {
            cluster: self.cluster,
            node,
            locality: &locality,
        };
        // What a node has learnt by failing, only the node knows.
        let (ejected, spill) = (Ejected::none(), SpillState::default());
        let explained = explain(from, service, endpoints, &ejected, &spill);
        let explained = explained.into_iter();
        explained
            .map(|(endpoint, verdict)| ((&endpoint.workload.uid, endpoint.address), verdict))
            .collect()
    }

    fn select(&self, service: &Service, node: &str) -> Vec<&Arc<Workload>> {
        let locality = self.locality_of(node);
        let from = Viewpoint {
            cluster: self.cluster,
            node,
            locality: &locality,
        };
        let endpoints = self.given.endpoints(&service.key());
        // What a node has learnt by failing, only the node knows.
        select_endpoints(from, service, endpoints, &Ejected::none(), |_| None)
    }

    fn locality_of(&self, node: &str) -> Locality {
        let mut workloads = self.mesh.own.workloads();
        let found = workloads.find(|w| !node.is_empty() && w.node == node);
        found.map(|w| w.locality.clone()).unwrap_or_default()
    }

    /// Why an endpoint is in use or not; without a verdict it is not even in the nodes' view.
    fn reason(
        &self,
        service: &Service,
        workload: &Workload,
        verdict: Option<Verdict>,
        node: &str,
    ) -> String {
        let cluster = &workload.cluster;
        let affinity = affinity_word(service.sharing.affinity);
        let reason = match verdict {
            None => return self.not_merged(service, cluster),
            Some(Verdict::Serves { .. }) => return self.merit(service, workload, node),
            Some(Verdict::Out(reason)) => reason,
        };
        match reason {
            Reason::NotReady => "it is not ready".to_owned(),
            Reason::NoAddress => "it has no address".to_owned(),
            Reason::OtherNode => {
                "internalTrafficPolicy Local: only clients on its node use it".to_owned()
            }
            Reason::Ejected => "it could not be reached a moment ago".to_owned(),
            Reason::Terminating => "it is shutting down, and others serve".to_owned(),
            Reason::Drained => "its weight is 0, and others serve".to_owned(),
            Reason::Demoted => {
                format!("cluster {cluster} is silent: used only when nothing else is left")
            }
            Reason::Affinity => format!("affinity {affinity} prefers others"),
            Reason::Failover => "the order of failover puts others first".to_owned(),
            Reason::Distance => "others are nearer".to_owned(),
        }
    }

    /// What speaks for an endpoint that is in use.
    fn merit(&self, service: &Service, workload: &Workload, node: &str) -> String {
        let cluster = &workload.cluster;
        let own = cluster == self.cluster;
        let own_node = own && !node.is_empty() && workload.node == node;
        let given = self.given.workload(&workload.uid);
        if given.is_some_and(|given| given.demoted) {
            return format!("used although cluster {cluster} is silent: nothing else is left");
        }
        if workload.health == Health::Terminating {
            return "used although it is shutting down: nothing else is left".to_owned();
        }
        match service.sharing.affinity {
            Affinity::None => "in use".to_owned(),
            Affinity::Local if own => "in use: affinity local prefers this cluster".to_owned(),
            Affinity::Remote if !own => "in use: affinity remote prefers other clusters".to_owned(),
            Affinity::LocalNode if own_node => {
                "in use: affinity local-node prefers this node".to_owned()
            }
            affinity => format!(
                "in use: nothing better serves under affinity {}",
                affinity_word(affinity)
            ),
        }
    }

    /// Why the endpoints of another cluster do not count here at all.
    fn not_merged(&self, service: &Service, cluster: &ClusterName) -> String {
        let there = self.mesh.remotes.get(cluster);
        let there = there.and_then(|remote| remote.state.service(&service.key()));
        match there.map(|s| s.sharing) {
            _ if !service.sharing.global => {
                format!("the service is not global in {}", self.cluster)
            }
            Some(sharing) if sharing.global && !sharing.shared => {
                format!("{cluster} does not share the service")
            }
            Some(sharing) if sharing.global => "the nodes are not told of it yet".to_owned(),
            Some(_) | None => format!("the service is not global in {cluster}"),
        }
    }
}

fn backend(
    workload: &Workload,
    port: &ServicePort,
    address: SocketAddr,
    included: bool,
    reason: String,
) -> Backend {
    Backend {
        cluster: workload.cluster.to_string(),
        node: workload.node.clone().into(),
        region: workload.locality.region.clone().into(),
        zone: workload.locality.zone.clone().into(),
        name: workload.name.clone(),
        address: address.to_string(),
        service_port: port.port,
        health: health_word(workload.health).to_owned(),
        included,
        reason,
    }
}

/// The families of addresses at which the service is asked for; a headless one is asked for at its endpoints' own.
fn families(service: &Service) -> Vec<bool> {
    let has = |v6: bool| service.addresses.iter().any(|ip| ip.is_ipv6() == v6);
    let families = [false, true].into_iter();
    families
        .filter(|v6| service.is_headless() || has(*v6))
        .collect()
}

/// Where a workload serves a port, in one family.
fn served(
    workload: &Workload,
    key: &NamespacedName,
    port: &ServicePort,
    v6: bool,
) -> impl Iterator<Item = SocketAddr> {
    let addresses = workload.serving_addresses(key, port);
    let addresses: Vec<SocketAddr> = addresses.filter(|a| a.is_ipv6() == v6).collect();
    addresses.into_iter()
}

fn key_of(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName::new(
        namespace,
        format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}"),
    )
}

fn frontends(service: &Service) -> Vec<Frontend> {
    let frontend = |port: &ServicePort| {
        let (number, protocol, name) = (port.port, protocol_word(port.protocol), port.name.clone());
        service.addresses.iter().map(move |ip| Frontend {
            address: SocketAddr::new(*ip, number).to_string(),
            protocol: protocol.to_owned(),
            name: name.clone(),
        })
    };
    service.ports.iter().flat_map(frontend).collect()
}

fn port_text(port: &ServicePort) -> String {
    format!("{}/{}", port.port, protocol_word(port.protocol))
}

fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

fn affinity_word(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::None => "none",
        Affinity::Local => "local",
        Affinity::Remote => "remote",
        Affinity::LocalNode => "local-node",
    }
}

fn health_word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Terminating => "terminating",
        Health::Unhealthy => "unhealthy",
    }
}

#[cfg(test)]
mod tests;
