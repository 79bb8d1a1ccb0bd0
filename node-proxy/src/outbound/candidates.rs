//! Which endpoint of a service is tried next.

use std::{net::SocketAddr, sync::Arc};

use tulle_balance::{Ejected, Endpoint, SpillState, Viewpoint, select};
use tulle_datapath::OriginalDestination;
use tulle_model::{Directory, Locality, Protocol, Service, ServicePort};

use crate::pod::Pod;

/// An endpoint to try.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    /// The service that the application asked for, if it asked for one.
    pub(super) service: Option<Arc<Service>>,
    /// The kernel knew it for an address outside the mesh.
    pub(super) is_outside: bool,
}

/// The endpoints of one connection, in the order in which they are tried; each once.
pub(super) struct Candidates<'a> {
    pod: &'a Pod,
    directory: &'a Directory,
    original: OriginalDestination,
    service: Option<Arc<Service>>,
    tried: Vec<SocketAddr>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(
        pod: &'a Pod,
        directory: &'a Directory,
        original: OriginalDestination,
    ) -> Self {
        let service = directory.service_at(original.requested.ip()).cloned();
        Candidates {
            pod,
            directory,
            original,
            service,
            tried: Vec::new(),
        }
    }

    /// The kernel's choice first, unless it failed a moment ago and another is there; then the others of the service.
    pub(super) fn next(&mut self, ejected: &Ejected) -> Option<Candidate> {
        let kernels = self.original.backend;
        let fresh = !self.tried.contains(&kernels);
        let address = if fresh && !self.is_out(kernels, ejected) {
            kernels
        } else {
            let others = self.others(ejected);
            let is_sound = others
                .iter()
                .any(|(other, _)| !self.is_out(*other, ejected));
            match pick(&others) {
                // With only ejected ones left, the kernel's choice is as good as any.
                Some(_) if !is_sound && fresh => kernels,
                Some(address) => address,
                None if fresh => kernels,
                None => return None,
            }
        };
        self.tried.push(address);
        Some(Candidate {
            address,
            service: self.service.clone(),
            is_outside: self.original.is_outside && address == kernels,
        })
    }

    /// Whether somebody is left who did not fail a moment ago.
    pub(super) fn has_other(&self, ejected: &Ejected) -> bool {
        let mut others = self.others(ejected).into_iter();
        others.any(|(other, _)| !self.is_out(other, ejected))
    }

    /// Whether an endpoint failed a moment ago, or its cluster seems out of reach.
    fn is_out(&self, address: SocketAddr, ejected: &Ejected) -> bool {
        let own = &self.pod.plane.cluster;
        ejected.contains(address)
            || self
                .directory
                .workload_at(address.ip())
                .is_some_and(|w| w.cluster != *own && ejected.is_out_of_reach(&w.cluster))
    }

    /// Who may serve beside those that were tried, with their weights.
    fn others(&self, ejected: &Ejected) -> Vec<(SocketAddr, u32)> {
        let Some(service) = &self.service else {
            return Vec::new();
        };
        let requested = self.original.requested;
        let asked = |p: &&ServicePort| p.port == requested.port() && p.protocol == Protocol::Tcp;
        let Some(port) = service.ports.iter().find(asked) else {
            return Vec::new();
        };
        let key = service.key();
        let untried = self.directory.endpoints(&key).filter_map(|workload| {
            let mut addresses = workload.serving_addresses(&key, port);
            let address = addresses.find(|a| a.is_ipv4() == requested.is_ipv4())?;
            let is_tried = address == self.original.backend || self.tried.contains(&address);
            (!is_tried).then_some(Endpoint { workload, address })
        });
        let unknown = Locality::default();
        let own = self.pod.workload(self.directory);
        let from = Viewpoint {
            cluster: &self.pod.plane.cluster,
            node: &self.pod.plane.node,
            locality: own.map_or(&unknown, |workload| &workload.locality),
        };
        let selection = select(from, service, untried, ejected, &SpillState::default());
        let serving = selection.serving.into_iter();
        serving.map(|one| (one.address, one.weight)).collect()
    }
}

/// One of them, in proportion to the weights.
fn pick(addresses: &[(SocketAddr, u32)]) -> Option<SocketAddr> {
    let total: u64 = addresses.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return addresses.first().map(|(address, _)| *address);
    }
    let mut drawn = rand::random_range(0..total);
    for (address, weight) in addresses {
        match drawn.checked_sub(u64::from(*weight)) {
            Some(rest) => drawn = rest,
            None => return Some(*address),
        }
    }
    None
}
