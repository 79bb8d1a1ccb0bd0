//! What the mesh takes from a node: where it is, and its addresses.
//!
//! A node is a workload of its own kind, so that policies can speak of nodes and other clusters hear of them as they hear of pods.
//! istiod tells nobody of nodes; a proxy there cannot tell a kubelet from the rest of the world.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::Node;
use tulle_model::{
    Health, Locality, SmallMap, Text, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use super::Catalog;

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeFacts {
    pub(super) locality: Locality,
    addresses: Vec<IpAddr>,
    labels: SmallMap<Text, Text>,
}

impl NodeFacts {
    pub(super) fn of(node: &Node) -> Self {
        let labels = node.metadata.labels.iter().flatten();
        let label = |key: &str| node.metadata.labels.as_ref()?.get(key).cloned();
        let listed = node
            .status
            .iter()
            .flat_map(|s| s.addresses.iter().flatten());
        // Names of nodes are of no use to those who see addresses.
        let of_network = listed.filter(|a| matches!(&*a.type_, "InternalIP" | "ExternalIP"));
        let mut addresses: Vec<IpAddr> =
            of_network.filter_map(|a| a.address.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        NodeFacts {
            locality: Locality {
                region: label("topology.kubernetes.io/region")
                    .unwrap_or_default()
                    .into(),
                zone: label("topology.kubernetes.io/zone")
                    .unwrap_or_default()
                    .into(),
                subzone: label("topology.istio.io/subzone")
                    .unwrap_or_default()
                    .into(),
            },
            addresses,
            labels: labels.map(|(k, v)| (k.into(), v.into())).collect(),
        }
    }
}

impl Catalog {
    /// Where a node is, if it exists.
    pub(super) fn locality_of(&self, node: &str) -> Option<Locality> {
        self.nodes.get(node).map(|facts| facts.locality.clone())
    }

    /// The workload of a node; none while it has no address.
    pub(super) fn workload_of_node(&self, name: &str) -> Option<Workload> {
        let facts = self.nodes.get(name)?;
        if facts.addresses.is_empty() {
            return None;
        }
        Some(Workload {
            uid: WorkloadUid::of_node(&self.settings.cluster, name),
            name: name.to_owned(),
            namespace: Text::default(),
            service_account: "default".into(),
            trust_domain: self.settings.trust_domain.clone(),
            cluster: self.settings.cluster.clone(),
            node: name.into(),
            addresses: facts.addresses.clone(),
            hostname: Text::default(),
            labels: facts.labels.clone(),
            namespace_labels: Arc::default(),
            named_ports: SmallMap::new(),
            locality: facts.locality.clone(),
            canonical_name: Text::default(),
            canonical_revision: Text::default(),
            kind: WorkloadKind::Pod,
            owner_name: Text::default(),
            tunnel_protocol: TunnelProtocol::None,
            health: Health::Healthy,
            host_network: true,
            services: SmallMap::new(),
            authorization_policies: Vec::new(),
            capacity: 1,
            demoted: false,
        })
    }
}

/// An internal and an external one of each family, and as many again.
const ADDRESSES_MAX: usize = 8;
