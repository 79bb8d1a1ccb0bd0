//! What a remote workload is here: the rules of global services, without any state.

use std::{collections::BTreeMap, sync::Arc};

use tulle_model::{
    Change, ClusterName, Directory, NamespacedName, PortMapping, Service, SmallMap, TrustBundle,
    TrustDomain, Workload,
};

use super::Remote;

/// The view of `local` and `remotes`, from scratch: the specification of what `Merge` keeps up incrementally.
pub fn merge(local: &Directory, remotes: &BTreeMap<ClusterName, Remote>) -> Directory {
    let mut view = local.clone();
    for remote in remotes.values() {
        for workload in remote.state.workloads() {
            view.apply(Change::Workload(merged_workload(local, remote, workload)));
        }
        if let Some(bundle) = bundle_of(local, remotes, &remote.trust_domain) {
            view.apply(Change::Bundle(bundle));
        }
    }
    view
}

/// The roots that count for a domain: the own cluster's, else those of the first cluster by name that has the domain.
pub(super) fn bundle_of(
    local: &Directory,
    remotes: &BTreeMap<ClusterName, Remote>,
    domain: &TrustDomain,
) -> Option<Arc<TrustBundle>> {
    let states = [local]
        .into_iter()
        .chain(remotes.values().map(|r| &r.state));
    states
        .flat_map(Directory::bundles)
        .find(|b| b.trust_domain == *domain)
        .cloned()
}

/// A remote workload as the own cluster sees it; the same `Arc` when that is as it sees itself.
pub(super) fn merged_workload(
    local: &Directory,
    remote: &Remote,
    workload: &Arc<Workload>,
) -> Arc<Workload> {
    let services: SmallMap<NamespacedName, Vec<PortMapping>> = workload
        .services
        .iter()
        .filter_map(|(key, ports)| {
            let here = local.service(key).filter(|s| s.sharing.global)?;
            let shared = |s: &&Arc<Service>| s.sharing.global && s.sharing.shared;
            let there = remote.state.service(key).filter(shared)?;
            Some((key.clone(), mapped_ports(here, there, ports)?))
        })
        .collect();
    // Policies are each cluster's own: a remote policy's name must not match a local policy.
    let unchanged = services == workload.services
        && workload.demoted == remote.silent
        && workload.authorization_policies.is_empty();
    if unchanged {
        return Arc::clone(workload);
    }
    Arc::new(Workload {
        services,
        demoted: remote.silent,
        authorization_policies: Vec::new(),
        ..(**workload).clone()
    })
}

/// The ports of the remote endpoint under the port numbers of the service here.
///
/// Ports of the two services belong together by name and protocol; an only port needs no name. `None` when no port of the
/// service here is served there.
pub(super) fn mapped_ports(
    here: &Service,
    there: &Service,
    ports: &[PortMapping],
) -> Option<Vec<PortMapping>> {
    if here.ports.is_empty() && there.ports.is_empty() {
        return Some(ports.to_vec());
    }
    let mut mapped: Vec<PortMapping> = Vec::new();
    for port in &here.ports {
        let by_name = there
            .ports
            .iter()
            .find(|p| p.name == port.name && p.protocol == port.protocol);
        let by_number = || {
            there
                .ports
                .iter()
                .find(|p| p.port == port.port && p.protocol == port.protocol)
        };
        let Some(other) = by_name.or_else(by_number) else {
            continue;
        };
        let own = ports
            .iter()
            .find(|m| m.service_port == other.port && m.protocol == other.protocol)
            .map(|m| m.target_port);
        let target_port = own.filter(|t| *t != 0).unwrap_or(other.target_port);
        let taken = |m: &PortMapping| m.service_port == port.port && m.protocol == port.protocol;
        if target_port != 0 && !mapped.iter().any(taken) {
            mapped.push(PortMapping {
                service_port: port.port,
                target_port,
                protocol: port.protocol,
            });
        }
    }
    (!mapped.is_empty()).then_some(mapped)
}

pub(super) fn same_for_remotes(before: &Service, after: Option<&Arc<Service>>) -> bool {
    after.is_some_and(|after| {
        before.sharing.global == after.sharing.global && before.ports == after.ports
    })
}
