//! The set of endpoints that serve now.

use std::sync::Arc;

use tulle_model::{Affinity, ClusterName, Health, Locality, Service, Workload};

/// Where the client is.
#[derive(Debug, Clone, Copy)]
pub struct Viewpoint<'a> {
    /// The client's cluster.
    pub cluster: &'a ClusterName,
    /// The client's node.
    pub node: &'a str,
    /// Where the node is. No affinity of today looks at it.
    pub locality: &'a Locality,
}

/// Chooses the endpoints that may serve a client at `from` now, in the order in which they came.
///
/// All endpoints of the best tier that has a usable one, and none of any other tier. Endpoints of a silent cluster
/// (`demoted`) come after all others, whatever the affinity says: they are known to be there only from hearsay. Within
/// both halves the service's affinity makes the tiers:
///
/// | affinity | first | then | last |
/// |---|---|---|---|
/// | `none` | all | | |
/// | `local` | own cluster | other clusters | |
/// | `remote` | other clusters | own cluster | |
/// | `local-node` | own node | own cluster | other clusters |
///
/// Unlike Cilium (`pkg/clustermesh/loadbalancer`), a tier is never filled up with its unhealthy endpoints.
///
/// A caller for whom only some endpoints will do (those with an IPv6 address, those that serve a certain port) filters
/// `endpoints`, not the result: else a tier that cannot serve hides one that can.
///
/// **Invariant:** empty only if no endpoint is usable, that is healthy (or the service publishes those that are not
/// ready) and with an address. The property tests in `select/tests.rs` hold it.
pub fn select_endpoints<'a>(
    from: Viewpoint<'_>,
    service: &Service,
    endpoints: impl Iterator<Item = &'a Arc<Workload>>,
) -> Vec<&'a Arc<Workload>> {
    let mut best = None;
    let mut selected = Vec::new();
    for endpoint in endpoints.filter(|endpoint| is_usable(service, endpoint)) {
        // `false` sorts before `true`.
        let rank = (
            endpoint.demoted,
            tier(from, service.sharing.affinity, endpoint),
        );
        if best.is_none_or(|best| rank < best) {
            best = Some(rank);
            selected.clear();
        }
        if best == Some(rank) {
            selected.push(endpoint);
        }
    }
    selected
}

fn is_usable(service: &Service, endpoint: &Workload) -> bool {
    let ready = endpoint.health == Health::Healthy || service.publish_not_ready;
    ready && !endpoint.addresses.is_empty()
}

/// 0 is best.
fn tier(from: Viewpoint<'_>, affinity: Affinity, endpoint: &Workload) -> u8 {
    let own_cluster = endpoint.cluster == *from.cluster;
    // Nodes of two clusters may have one name.
    let own_node = own_cluster && endpoint.node == from.node;
    match affinity {
        Affinity::None => 0,
        Affinity::Local => u8::from(!own_cluster),
        Affinity::Remote => u8::from(own_cluster),
        Affinity::LocalNode => u8::from(!own_node) + u8::from(!own_cluster),
    }
}

#[cfg(test)]
mod tests;
