//! Which endpoint of a service is tried next.

use std::{net::SocketAddr, sync::Arc};

use tulle_balance::{Viewpoint, select_endpoints};
use tulle_datapath::OriginalDestination;
use tulle_model::{Directory, Locality, Protocol, Service, ServicePort, Workload};

use super::Ejections;
use crate::pod::Pod;

/// An endpoint to try.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    /// The service that the application asked for, if it asked for one.
    pub(super) service: Option<Arc<Service>>,
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
    pub(super) fn next(&mut self, ejections: &Ejections) -> Option<Candidate> {
        let kernels = self.original.backend;
        let fresh = !self.tried.contains(&kernels);
        let address = if fresh && !ejections.contains(kernels.ip()) {
            kernels
        } else {
            let mut others = self.others();
            let sound = others
                .iter()
                .filter(|a| !ejections.contains(a.ip()))
                .count();
            if sound > 0 {
                others.retain(|a| !ejections.contains(a.ip()));
            }
            match pick(&others) {
                // With only ejected ones left, the kernel's choice is as good as any.
                Some(_) if sound == 0 && fresh => kernels,
                Some(address) => address,
                None if fresh => kernels,
                None => return None,
            }
        };
        self.tried.push(address);
        Some(Candidate {
            address,
            service: self.service.clone(),
        })
    }

    fn others(&self) -> Vec<SocketAddr> {
        let Some(service) = &self.service else {
            return Vec::new();
        };
        let requested = self.original.requested;
        let asked = |p: &&ServicePort| p.port == requested.port() && p.protocol == Protocol::Tcp;
        let Some(port) = service.ports.iter().find(asked) else {
            return Vec::new();
        };
        let key = service.key();
        let address_of = |workload: &Arc<Workload>| {
            workload
                .serving_addresses(&key, port)
                .find(|a| a.is_ipv4() == requested.is_ipv4())
        };
        let untried = self.directory.endpoints(&key).filter(|workload| {
            address_of(workload)
                .is_some_and(|a| a != self.original.backend && !self.tried.contains(&a))
        });
        let unknown = Locality::default();
        let own = self.pod.workload(self.directory);
        let from = Viewpoint {
            cluster: &self.pod.plane.cluster,
            node: &self.pod.plane.node,
            locality: own.map_or(&unknown, |workload| &workload.locality),
        };
        select_endpoints(from, service, untried)
            .into_iter()
            .filter_map(address_of)
            .collect()
    }
}

fn pick(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    if addresses.is_empty() {
        return None;
    }
    addresses
        .get(rand::random_range(0..addresses.len()))
        .copied()
}
