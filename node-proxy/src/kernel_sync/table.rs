//! Directory → kernel table: a pure function, and a cache that computes again only what changed.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tulle_balance::{Viewpoint, select_endpoints};
use tulle_datapath::{Algorithm, Backend, Frontend, KernelTable, Path, WorkloadRoute};
use tulle_model::{
    ClusterName, Directory, Locality, NamespacedName, Protocol, Service, ServiceAddress,
    ServicePort, TunnelProtocol, Workload,
};

use super::Touched;
use crate::{config::SameNode, plane::InboundMode};

/// From where the mesh is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// The cluster of this node.
    pub cluster: ClusterName,
    /// The name of this node.
    pub node: String,
    /// How pods of this node may reach each other.
    pub same_node: SameNode,
    /// What pods do with plaintext.
    pub inbound: InboundMode,
}

/// The whole table for one view; `captured` are the addresses of this node's captured pods.
pub fn kernel_table(
    directory: &Directory,
    node: &NodeView,
    captured: &BTreeSet<IpAddr>,
) -> KernelTable {
    let mut cache = TableCache::default();
    let everything = Touched {
        everything: true,
        ..Touched::default()
    };
    cache.update(directory, node, captured.clone(), &everything);
    cache.table().0
}

/// The entries of every service and workload, kept from one table to the next.
///
/// **Invariant:** after `update` with all that was touched, it equals one that was computed from nothing (property test
/// `a_kept_table_equals_a_new_one`).
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TableCache {
    services: BTreeMap<NamespacedName, Vec<Frontend>>,
    routes: BTreeMap<IpAddr, Path>,
    captured: BTreeSet<IpAddr>,
}

impl TableCache {
    /// Computes again what `touched` names, and what depends on pods that were captured or released since.
    pub(crate) fn update(
        &mut self,
        directory: &Directory,
        node: &NodeView,
        captured: BTreeSet<IpAddr>,
        touched: &Touched,
    ) {
        let mut pods = Touched::default();
        let changed: Vec<IpAddr> = self
            .captured
            .symmetric_difference(&captured)
            .copied()
            .collect();
        pods.note_addresses(directory, changed.into_iter());
        self.captured = captured;
        if touched.everything {
            self.services.clear();
            self.routes.clear();
            for service in directory.services() {
                self.put_service(directory, node, service);
            }
            let addresses: BTreeSet<IpAddr> = directory
                .workloads()
                .flat_map(|w| w.addresses.iter().copied())
                .collect();
            for address in addresses {
                self.put_route(directory, node, address);
            }
            return;
        }
        for key in touched.services.union(&pods.services) {
            match directory.service(key) {
                Some(service) => self.put_service(directory, node, service),
                None => drop(self.services.remove(key)),
            }
        }
        for address in touched.addresses.union(&pods.addresses) {
            self.put_route(directory, node, *address);
        }
    }

    /// The table, and how many addresses were claimed by more than one service (the first by name has them).
    pub(crate) fn table(&self) -> (KernelTable, usize) {
        let mut frontends: BTreeMap<ServiceAddress, &Frontend> = BTreeMap::new();
        let mut conflicts = 0;
        for frontend in self.services.values().flatten() {
            match frontends.entry(frontend.address) {
                Entry::Vacant(place) => drop(place.insert(frontend)),
                Entry::Occupied(_) => conflicts += 1,
            }
        }
        let frontends = frontends.into_values().cloned().collect();
        let route = |(address, path): (&IpAddr, &Path)| WorkloadRoute {
            address: *address,
            path: *path,
        };
        let workloads = self.routes.iter().map(route).collect();
        (
            KernelTable {
                frontends,
                workloads,
            },
            conflicts,
        )
    }

    fn put_service(&mut self, directory: &Directory, node: &NodeView, service: &Service) {
        let frontends = self.frontends(directory, node, service);
        if frontends.is_empty() {
            self.services.remove(&service.key());
        } else {
            self.services.insert(service.key(), frontends);
        }
    }

    /// One frontend for each cluster IP and port; a headless service has none.
    fn frontends(
        &self,
        directory: &Directory,
        node: &NodeView,
        service: &Service,
    ) -> Vec<Frontend> {
        if service.is_headless() {
            return Vec::new();
        }
        let mut frontends = Vec::new();
        for port in &service.ports {
            for vip in &service.addresses {
                frontends.push(Frontend {
                    address: ServiceAddress {
                        socket: (*vip, port.port).into(),
                        protocol: port.protocol,
                    },
                    backends: self.backends(directory, node, service, port, vip.is_ipv4()),
                    session_affinity: 0,
                    algorithm: Algorithm::default(),
                });
            }
        }
        frontends
    }

    /// Who serves a port at addresses of one family.
    fn backends(
        &self,
        directory: &Directory,
        node: &NodeView,
        service: &Service,
        port: &ServicePort,
        is_ipv4: bool,
    ) -> Vec<Backend> {
        let key = service.key();
        let nowhere = Locality::default();
        let viewpoint = Viewpoint {
            cluster: &node.cluster,
            node: &node.node,
            locality: &nowhere,
        };
        let serving = |workload: &Workload| -> Option<SocketAddr> {
            workload
                .serving_addresses(&key, port)
                .find(|address| address.is_ipv4() == is_ipv4)
        };
        // Before the choice: an endpoint that cannot serve this port must not stand for its whole cluster.
        let able = directory
            .endpoints(&key)
            .filter(|workload| serving(workload).is_some());
        let chosen = select_endpoints(viewpoint, service, able);
        let backend = |workload: &Arc<Workload>| {
            let path = self.path(directory, node, workload, port.protocol);
            serving(workload).map(|address| Backend {
                address,
                path,
                weight: u16::try_from(workload.capacity).unwrap_or(u16::MAX),
            })
        };
        chosen.into_iter().filter_map(backend).collect()
    }

    fn put_route(&mut self, directory: &Directory, node: &NodeView, address: IpAddr) {
        let owner = directory.workload_at(address);
        match owner.map(|workload| self.path(directory, node, workload, Protocol::Tcp)) {
            Some(path @ (Path::Direct | Path::Proxy)) => drop(self.routes.insert(address, path)),
            // What is not in the mesh is left alone, as every unknown address is.
            Some(Path::Plain) | None => drop(self.routes.remove(&address)),
        }
    }

    /// How a connection from this node gets to `workload`.
    ///
    /// Direct means that nobody but the kernel sees the connection. So it is chosen only where nobody else has anything to
    /// say: no policy reaches the workload (also none that it names and that has not arrived yet), and it takes plaintext.
    fn path(
        &self,
        directory: &Directory,
        node: &NodeView,
        workload: &Workload,
        protocol: Protocol,
    ) -> Path {
        let in_mesh = workload.tunnel_protocol == TunnelProtocol::Hbone && !workload.host_network;
        if !in_mesh || protocol == Protocol::Udp {
            return Path::Plain;
        }
        let direct = node.same_node == SameNode::Direct
            && node.inbound == InboundMode::Permissive
            && workload.node == node.node
            && workload.cluster == node.cluster
            && !workload.addresses.is_empty()
            && workload
                .addresses
                .iter()
                .all(|address| self.captured.contains(address))
            && workload.authorization_policies.is_empty()
            && directory
                .policies_reaching(&workload.namespace)
                .next()
                .is_none();
        if direct { Path::Direct } else { Path::Proxy }
    }
}

#[cfg(test)]
mod tests;
