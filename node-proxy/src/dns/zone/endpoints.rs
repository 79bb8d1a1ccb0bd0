//! Which endpoints a name stands for.
//!
//! Chosen by `tulle_balance` from the same view and the same book of failures as the backends of a cluster IP, so that an
//! application which connects to what a name says avoids the same endpoints. A name of addresses says nothing of ports: an
//! endpoint is left out of it when every port that it serves has failed, which is so whenever its host is gone.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tulle_balance::{Ejected, Viewpoint, select_endpoints};
use tulle_model::{ClusterName, Directory, Health, Service, ServicePort, Workload};

use super::names::dashed_address;

/// From what endpoints are chosen.
#[derive(Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) directory: &'a Directory,
    pub(super) viewpoint: Viewpoint<'a>,
    pub(super) ejected: &'a Ejected,
}

impl<'a> Choice<'a> {
    /// The endpoints that a client should use now: the same choice as for a cluster IP, perhaps within one cluster.
    pub(super) fn ready(
        self,
        service: &Service,
        cluster: Option<&ClusterName>,
    ) -> Vec<&'a Arc<Workload>> {
        let used = |workload: &'a Workload| served(workload, service);
        select_endpoints(
            self.viewpoint,
            service,
            self.endpoints(service, cluster),
            self.ejected,
            used,
        )
    }

    /// The same for a client that can use only addresses of one family.
    pub(super) fn ready_in_family(
        self,
        service: &Service,
        cluster: Option<&ClusterName>,
        is_ipv4: bool,
    ) -> Vec<&'a Arc<Workload>> {
        // Before the choice: an endpoint without such an address must not stand for its whole cluster.
        let able = self
            .endpoints(service, cluster)
            .filter(|w| w.addresses.iter().any(|ip| ip.is_ipv4() == is_ipv4));
        let used = |workload: &'a Workload| {
            let served = served(workload, service).into_iter();
            served.filter(move |address| address.is_ipv4() == is_ipv4)
        };
        select_endpoints(self.viewpoint, service, able, self.ejected, used)
    }

    /// The same for a client that wants one port.
    pub(super) fn ready_at(
        self,
        service: &Service,
        cluster: Option<&ClusterName>,
        port: &ServicePort,
    ) -> Vec<&'a Arc<Workload>> {
        let key = service.key();
        let serves = |workload: &Workload| workload.serving_addresses(&key, port).next().is_some();
        let able = self.endpoints(service, cluster).filter(|w| serves(w));
        let used = |workload: &'a Workload| workload.serving_addresses(&key, port);
        select_endpoints(self.viewpoint, service, able, self.ejected, used)
    }

    /// The endpoints that `label` names, perhaps within one cluster: by their hostname, or by their address with dashes.
    ///
    /// Who names a pod wants that pod, so neither affinity nor distance counts here. Where several bear the name, those that
    /// are known to serve are meant.
    pub(super) fn named(
        self,
        service: &Service,
        cluster: Option<&ClusterName>,
        label: &str,
    ) -> Vec<&'a Arc<Workload>> {
        let address = dashed_address(label);
        let bears_name = |workload: &&Arc<Workload>| {
            if workload.hostname.is_empty() {
                address.is_some_and(|address| workload.addresses.contains(&address))
            } else {
                workload.hostname.eq_ignore_ascii_case(label)
            }
        };
        let usable = |w: &&Arc<Workload>| w.health == Health::Healthy || service.publish_not_ready;
        let named = self.endpoints(service, cluster).filter(usable);
        let indifferent = Service {
            publish_not_ready: service.publish_not_ready,
            ..Service::default()
        };
        let used = |workload: &'a Workload| served(workload, service);
        select_endpoints(
            self.viewpoint,
            &indifferent,
            named.filter(bears_name),
            self.ejected,
            used,
        )
    }

    fn endpoints(
        self,
        service: &Service,
        cluster: Option<&ClusterName>,
    ) -> impl Iterator<Item = &'a Arc<Workload>> {
        let endpoints = self.directory.endpoints(&service.key());
        endpoints.filter(move |w| cluster.is_none_or(|cluster| w.cluster == *cluster))
    }
}

/// Where the workload serves any port of the service.
fn served(workload: &Workload, service: &Service) -> Vec<SocketAddr> {
    let key = service.key();
    let ports = service.ports.iter();
    ports
        .flat_map(|port| workload.serving_addresses(&key, port))
        .collect()
}

/// The label by which an endpoint is found again: its hostname, or its first address with dashes.
pub(super) fn host_label(workload: &Workload) -> String {
    if !workload.hostname.is_empty() {
        return workload.hostname.clone().into();
    }
    match workload.addresses.first() {
        Some(IpAddr::V4(address)) => address.to_string().replace('.', "-"),
        Some(IpAddr::V6(address)) => address.to_string().replace(':', "-"),
        None => workload.name.clone(),
    }
}
