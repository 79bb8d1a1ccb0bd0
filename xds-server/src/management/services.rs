//! Explains the services: what each cluster has of them, which endpoints are in use, and why the others are not.
//!
//! Pure: the choice itself is `tulle-balance`'s, the same that the nodes make; here it is only put into words.

use std::collections::{BTreeMap, BTreeSet};

use tulle_balance::{Viewpoint, select_endpoints};
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
        let selected = self.select(service, node, |_| true);
        let mut included = BTreeMap::new();
        for uid in &selected {
            let cluster = self.given.workload(uid).map(|w| w.cluster.to_string());
            *included.entry(cluster.unwrap_or_default()).or_default() += 1;
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

    /// The endpoints of one port in all clusters.
    fn backends(&self, service: &Service, port: &ServicePort, node: &str) -> Vec<Backend> {
        let key = service.key();
        let serves = |workload: &Workload| {
            let mut addresses = workload.serving_addresses(&key, port);
            addresses.next().is_some()
        };
        let selected = self.select(service, node, serves);
        let own = self.mesh.own.endpoints(&key);
        let elsewhere = self.mesh.remotes.values();
        let elsewhere = elsewhere.flat_map(|remote| remote.state.endpoints(&key));
        let mut backends = Vec::new();
        for workload in own.chain(elsewhere) {
            let included = selected.contains(&workload.uid);
            let demoted = self
                .given
                .workload(&workload.uid)
                .is_some_and(|w| w.demoted);
            let reason = self.reason(service, workload, included, demoted, node);
            let addresses = workload.serving_addresses(&key, port);
            backends.extend(addresses.map(|address| Backend {
                cluster: workload.cluster.to_string(),
                node: workload.node.clone(),
                region: workload.locality.region.clone(),
                zone: workload.locality.zone.clone(),
                name: workload.name.clone(),
                address: address.to_string(),
                service_port: port.port,
                health: health_word(workload.health).to_owned(),
                included,
                reason: reason.clone(),
            }));
        }
        backends
    }

    fn select(
        &self,
        service: &Service,
        node: &str,
        serves: impl Fn(&Workload) -> bool,
    ) -> BTreeSet<WorkloadUid> {
        let locality = self.locality_of(node);
        let from = Viewpoint {
            cluster: self.cluster,
            node,
            locality: &locality,
        };
        let key = service.key();
        let candidates = self.given.endpoints(&key).filter(|w| serves(w));
        let selected = select_endpoints(from, service, candidates);
        selected.into_iter().map(|w| w.uid.clone()).collect()
    }

    fn locality_of(&self, node: &str) -> Locality {
        let mut workloads = self.mesh.own.workloads();
        let found = workloads.find(|w| !node.is_empty() && w.node == node);
        found.map(|w| w.locality.clone()).unwrap_or_default()
    }

    fn reason(
        &self,
        service: &Service,
        workload: &Workload,
        included: bool,
        demoted: bool,
        node: &str,
    ) -> String {
        let cluster = &workload.cluster;
        let own = cluster == self.cluster;
        if !own && let Some(reason) = self.not_merged(service, cluster) {
            return reason;
        }
        let usable = workload.health != Health::Unhealthy || service.publish_not_ready;
        let own_node = own && !node.is_empty() && workload.node == node;
        match (included, service.sharing.affinity) {
            _ if workload.addresses.is_empty() => "it has no address".to_owned(),
            (false, _) if !usable => "it is not ready".to_owned(),
            (false, _) if demoted => {
                format!("cluster {cluster} is silent: used only when nothing else is left")
            }
            (true, _) if demoted => {
                format!("used although cluster {cluster} is silent: nothing else is left")
            }
            (true, Affinity::None) => "in use".to_owned(),
            (true, Affinity::Local) if own => {
                "in use: affinity local prefers this cluster".to_owned()
            }
            (true, Affinity::Remote) if !own => {
                "in use: affinity remote prefers other clusters".to_owned()
            }
            (true, Affinity::LocalNode) if own_node => {
                "in use: affinity local-node prefers this node".to_owned()
            }
            (true, affinity) => format!(
                "in use: nothing better serves under affinity {}",
                affinity_word(affinity)
            ),
            (false, Affinity::None) => "better endpoints serve".to_owned(),
            (false, affinity) => {
                format!("affinity {} prefers others", affinity_word(affinity))
            }
        }
    }

    /// Why the endpoints of another cluster do not count here at all.
    fn not_merged(&self, service: &Service, cluster: &ClusterName) -> Option<String> {
        if !service.sharing.global {
            return Some(format!("the service is not global in {}", self.cluster));
        }
        let state = &self.mesh.remotes.get(cluster)?.state;
        match state.service(&service.key()).map(|s| s.sharing) {
            None => Some(format!("the service is not global in {cluster}")),
            Some(sharing) if !sharing.global => {
                Some(format!("the service is not global in {cluster}"))
            }
            Some(sharing) if !sharing.shared => {
                Some(format!("{cluster} does not share the service"))
            }
            Some(_) => None,
        }
    }
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
            address: std::net::SocketAddr::new(*ip, number).to_string(),
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
