//! Directory → kernel table: a pure function, and a cache that computes again only what changed, and says what that is.

mod claims;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use tulle_balance::{Ejected, Endpoint, SpillState, Viewpoint, select};
use tulle_datapath::{Backend, Frontend, KernelTable, Path, TableChanges, WorkloadRoute};
use tulle_model::{
    ClusterName, Directory, Locality, NamespacedName, Protocol, Service, ServiceAddress,
    ServicePort, TunnelProtocol, Workload,
};

use self::claims::Claims;
use super::Touched;
use crate::{config::SameNode, health::SilentClusters, plane::InboundMode};

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

/// What a table is computed from, beside what was touched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) node: &'a NodeView,
    /// The addresses of this node's captured pods.
    pub(crate) captured: &'a BTreeSet<IpAddr>,
    /// The endpoints that could not be reached a moment ago.
    pub(crate) ejected: &'a Ejected,
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
    let sources = Sources {
        directory,
        node,
        captured,
        ejected: &Ejected::none(),
    };
    let _changes = cache.update(&sources, &everything);
    cache.table()
}

/// The entries of every service and workload, kept from one table to the next.
///
/// **Invariant:** after `update` with all that was touched, it equals one that was computed from nothing, and the tables before and
/// after differ by the changes that it told (property test `a_kept_table_equals_a_new_one`).
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TableCache {
    services: BTreeMap<NamespacedName, Vec<Entry>>,
    claims: Claims,
    /// The addresses of all workloads, also those that are left alone.
    addresses: BTreeMap<IpAddr, Known>,
    silent: SilentClusters,
    captured: BTreeSet<IpAddr>,
    locality: Locality,
    backends_len: usize,
    routes_len: usize,
}

/// What is known of an address.
#[derive(Debug, PartialEq)]
struct Known {
    path: Path,
    /// The owner's cluster, if it is silent.
    silent: Option<ClusterName>,
}

/// One frontend, and what its next choice should know.
#[derive(Debug, PartialEq)]
struct Entry {
    frontend: Frontend,
    spill: SpillState,
}

/// What an update found.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// What the kernel's tables lack now.
    pub(crate) changes: TableChanges,
    /// Addresses of workloads that nobody has any more.
    pub(crate) gone: Vec<IpAddr>,
    /// The addresses of silent clusters are other ones now.
    pub(crate) is_silence_changed: bool,
}

/// What an update gathers.
#[derive(Default)]
struct Gathered {
    /// Service addresses whose frontend may be another one.
    frontends: BTreeSet<ServiceAddress>,
    update: Update,
}

impl TableCache {
    /// Computes again what `touched` names, and what depends on pods that were captured or released since.
    pub(crate) fn update(&mut self, sources: &Sources<'_>, touched: &Touched) -> Update {
        let directory = sources.directory;
        let mut pods = Touched::default();
        let changed = self.captured.symmetric_difference(sources.captured);
        pods.note_addresses(directory, changed.copied().collect::<Vec<_>>().into_iter());
        self.captured.clone_from(sources.captured);
        let mut gathered = Gathered::default();
        let locality = own_locality(sources);
        if touched.everything || locality != self.locality {
            self.locality = locality;
            self.put_everything(sources, &mut gathered);
        } else {
            for key in touched.services.union(&pods.services) {
                self.put_service(sources, key, &mut gathered);
            }
            for address in touched.addresses.union(&pods.addresses) {
                self.put_address(sources, *address, &mut gathered.update);
            }
        }
        self.tell(gathered)
    }

    /// The whole table.
    pub(crate) fn table(&self) -> KernelTable {
        let frontends = self.claims.owners().filter_map(|(address, owner)| {
            let frontend = self.frontend(owner, address);
            frontend.cloned()
        });
        let routes = self.addresses.iter();
        let routes = routes.filter(|(_, known)| is_route(known.path));
        KernelTable {
            frontends: frontends.collect(),
            workloads: routes.map(|(ip, known)| route(*ip, known.path)).collect(),
        }
    }

    /// How many frontends, backends and routes there are, and how many frontends have an address that another service has already.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        let frontends = self.claims.len();
        let conflicts = self.claims.claimants_len() - frontends;
        [frontends, self.backends_len, self.routes_len, conflicts]
    }

    fn put_everything(&mut self, sources: &Sources<'_>, gathered: &mut Gathered) {
        let directory = sources.directory;
        let mut keys: BTreeSet<NamespacedName> = self.services.keys().cloned().collect();
        keys.extend(directory.services().map(|service| service.key()));
        for key in &keys {
            self.put_service(sources, key, gathered);
        }
        let mut addresses: BTreeSet<IpAddr> = self.addresses.keys().copied().collect();
        addresses.extend(
            directory
                .workloads()
                .flat_map(|w| w.addresses.iter().copied()),
        );
        for address in addresses {
            self.put_address(sources, address, &mut gathered.update);
        }
    }

    fn put_service(
        &mut self,
        sources: &Sources<'_>,
        key: &NamespacedName,
        gathered: &mut Gathered,
    ) {
        let old = self.services.remove(key).unwrap_or_default();
        let new = match sources.directory.service(key) {
            Some(service) => self.entries(sources, service, &old),
            None => Vec::new(),
        };
        for entry in &old {
            let address = entry.frontend.address;
            let same = new.iter().find(|new| new.frontend.address == address);
            if same.is_none() {
                self.claims.release(address, key);
            }
            if same.is_none_or(|same| same.frontend != entry.frontend) {
                gathered.frontends.insert(address);
            }
            self.backends_len -= entry.frontend.backends.len();
        }
        for entry in &new {
            if self.claims.claim(entry.frontend.address, key) {
                gathered.frontends.insert(entry.frontend.address);
            }
            self.backends_len += entry.frontend.backends.len();
        }
        if !new.is_empty() {
            self.services.insert(key.clone(), new);
        }
    }

    /// One frontend for each cluster IP and port; a headless service has none.
    fn entries(&self, sources: &Sources<'_>, service: &Service, old: &[Entry]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for port in &service.ports {
            for vip in &service.addresses {
                let address = ServiceAddress {
                    socket: (*vip, port.port).into(),
                    protocol: port.protocol,
                };
                if entries
                    .iter()
                    .any(|entry| entry.frontend.address == address)
                {
                    continue;
                }
                let before = old.iter().find(|old| old.frontend.address == address);
                let spill = before.map(|entry| entry.spill.clone()).unwrap_or_default();
                let (backends, spill) =
                    self.backends(sources, service, port, vip.is_ipv4(), &spill);
                let frontend = Frontend {
                    address,
                    backends,
                    session_affinity: service.session_affinity.unwrap_or(0),
                    algorithm: service.algorithm,
                };
                entries.push(Entry { frontend, spill });
            }
        }
        // Kept for each service of the mesh.
        entries.shrink_to_fit();
        entries
    }

    /// Who serves a port at addresses of one family.
    fn backends(
        &self,
        sources: &Sources<'_>,
        service: &Service,
        port: &ServicePort,
        is_ipv4: bool,
        spill: &SpillState,
    ) -> (Vec<Backend>, SpillState) {
        let key = service.key();
        let viewpoint = Viewpoint {
            cluster: &sources.node.cluster,
            node: &sources.node.node,
            locality: &self.locality,
        };
        let serving = |workload: &Workload| -> Option<SocketAddr> {
            workload
                .serving_addresses(&key, port)
                .find(|address| address.is_ipv4() == is_ipv4)
        };
        // Before the choice: an endpoint that cannot serve this port must not stand for its whole cluster.
        let able = sources
            .directory
            .endpoints(&key)
            .filter_map(|workload| serving(workload).map(|address| Endpoint { workload, address }));
        let selection = select(viewpoint, service, able, sources.ejected, spill);
        let backend = |serving: tulle_balance::Serving<'_>| Backend {
            address: serving.address,
            path: self.path(sources, serving.workload, port.protocol),
            weight: serving.weight,
        };
        let mut backends: Vec<Backend> = selection.serving.into_iter().map(backend).collect();
        // Kept for each service of the mesh; the choice had room for more.
        backends.shrink_to_fit();
        (backends, selection.spill)
    }

    fn put_address(&mut self, sources: &Sources<'_>, address: IpAddr, update: &mut Update) {
        let owner = sources.directory.workload_at(address);
        let known = owner.map(|workload| Known {
            path: self.path(sources, workload, Protocol::Tcp),
            silent: workload.demoted.then(|| workload.cluster.clone()),
        });
        let path = known.as_ref().map(|known| known.path);
        let silent = known.as_ref().and_then(|known| known.silent.clone());
        let before = match known {
            Some(known) => self.addresses.insert(address, known),
            None => self.addresses.remove(&address),
        };
        if before.is_some() && path.is_none() {
            update.gone.push(address);
        }
        let was_silent = before.as_ref().and_then(|before| before.silent.as_ref());
        update.is_silence_changed |= self.move_silent(address, was_silent, silent);
        let before = before.as_ref().map(|before| before.path);
        // What is not in the mesh is left alone, as every unknown address is.
        let was_route = before.is_some_and(is_route);
        match path.filter(|path| is_route(*path)) {
            Some(path) if before != Some(path) => {
                update.changes.workloads.push(route(address, path));
                self.routes_len += usize::from(!was_route);
            }
            None if was_route => {
                update.changes.workloads_gone.push(address);
                self.routes_len -= 1;
            }
            Some(_) | None => {}
        }
    }

    /// Keeps the list of the silent clusters' addresses; says whether it changed.
    fn move_silent(
        &mut self,
        address: IpAddr,
        from: Option<&ClusterName>,
        to: Option<ClusterName>,
    ) -> bool {
        if from == to.as_ref() {
            return false;
        }
        if let Some(addresses) = from.and_then(|from| self.silent.get_mut(from)) {
            addresses.remove(&address);
        }
        if let Some(to) = to {
            self.silent.entry(to).or_default().insert(address);
        }
        self.silent.retain(|_, addresses| !addresses.is_empty());
        true
    }

    /// The addresses of each silent cluster.
    pub(crate) fn silent(&self) -> &SilentClusters {
        &self.silent
    }

    /// Says what became of each address that may have changed.
    fn tell(&self, gathered: Gathered) -> Update {
        let mut update = gathered.update;
        for address in gathered.frontends {
            let owner = self.claims.owner(address);
            match owner.and_then(|owner| self.frontend(owner, address)) {
                Some(frontend) => update.changes.frontends.push(frontend.clone()),
                None => update.changes.frontends_gone.push(address),
            }
        }
        update
    }

    fn frontend(&self, owner: &NamespacedName, address: ServiceAddress) -> Option<&Frontend> {
        let mut entries = self.services.get(owner)?.iter();
        entries
            .find(|entry| entry.frontend.address == address)
            .map(|entry| &entry.frontend)
    }

    /// How a connection from this node gets to `workload`.
    ///
    /// Direct means that nobody but the kernel sees the connection. So it is chosen only where nobody else has anything to
    /// say: no policy reaches the workload (also none that it names and that has not arrived yet), and it takes plaintext.
    fn path(&self, sources: &Sources<'_>, workload: &Workload, protocol: Protocol) -> Path {
        let Sources {
            directory, node, ..
        } = *sources;
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

/// Where this node is, as its captured pods' workloads tell.
fn own_locality(sources: &Sources<'_>) -> Locality {
    let own = sources.captured.iter();
    let own = own.filter_map(|address| sources.directory.workload_at(*address));
    own.filter(|workload| {
        workload.node == sources.node.node && workload.cluster == sources.node.cluster
    })
    .map(|workload| &workload.locality)
    .find(|locality| **locality != Locality::default())
    .cloned()
    .unwrap_or_default()
}

/// Whether the kernel must know how to get there.
fn is_route(path: Path) -> bool {
    match path {
        Path::Direct | Path::Proxy => true,
        Path::Plain => false,
    }
}

fn route(address: IpAddr, path: Path) -> WorkloadRoute {
    WorkloadRoute { address, path }
}

#[cfg(test)]
mod tests;
