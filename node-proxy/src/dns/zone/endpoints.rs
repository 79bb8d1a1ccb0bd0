//! Which endpoints a name stands for.

use std::{net::IpAddr, sync::Arc};

use tulle_balance::{Viewpoint, select_endpoints};
use tulle_model::{ClusterName, Directory, Health, Service, Workload};

use super::names::dashed_address;

/// The endpoints that a client should use now: the same choice as for a cluster IP, perhaps within one cluster.
pub(super) fn ready_endpoints<'a>(
    directory: &'a Directory,
    viewpoint: Viewpoint<'_>,
    service: &Service,
    cluster: Option<&ClusterName>,
) -> Vec<&'a Arc<Workload>> {
    let endpoints = directory.endpoints(&service.key());
    select_endpoints(viewpoint, service, endpoints.filter(|w| is_in(w, cluster)))
}

fn is_in(workload: &Workload, cluster: Option<&ClusterName>) -> bool {
    cluster.is_none_or(|cluster| workload.cluster == *cluster)
}

/// The addresses of one family that a client should use now.
pub(super) fn ready_addresses(
    directory: &Directory,
    viewpoint: Viewpoint<'_>,
    service: &Service,
    cluster: Option<&ClusterName>,
    is_ipv4: bool,
) -> Vec<IpAddr> {
    let of_family = |workload: &Workload| {
        workload
            .addresses
            .iter()
            .copied()
            .filter(|ip| ip.is_ipv4() == is_ipv4)
            .collect::<Vec<_>>()
    };
    // Before the choice: an endpoint without such an address must not stand for its whole cluster.
    let able = directory
        .endpoints(&service.key())
        .filter(|w| is_in(w, cluster) && !of_family(w).is_empty());
    select_endpoints(viewpoint, service, able)
        .into_iter()
        .flat_map(|w| of_family(w))
        .collect()
}

/// The endpoints that `label` names: by their hostname, or by their address with dashes.
///
/// Who names a pod wants that pod, so affinity does not count here; pods of silent clusters do only when no other bears the name.
pub(super) fn named_endpoints<'a>(
    directory: &'a Directory,
    service: &Service,
    label: &str,
) -> Vec<&'a Arc<Workload>> {
    let address = dashed_address(label);
    let bears_name = |workload: &Workload| {
        if workload.hostname.is_empty() {
            address.is_some_and(|address| workload.addresses.contains(&address))
        } else {
            workload.hostname.eq_ignore_ascii_case(label)
        }
    };
    let mut found: Vec<_> = directory
        .endpoints(&service.key())
        .filter(|w| w.health == Health::Healthy || service.publish_not_ready)
        .filter(|w| bears_name(w))
        .collect();
    if found.iter().any(|workload| !workload.demoted) {
        found.retain(|workload| !workload.demoted);
    }
    found
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
