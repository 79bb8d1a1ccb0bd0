//! The far ends of a rule.

use tulle_model::{Entity, Peer, Peers, RuleAction, ServicePick};

use super::{
    name::read_name_pattern_at,
    selector::{Scope, read_service_labels},
};
use crate::read::{Node, ReadPolicyError, read_address_or_block, read_block};

/// The words of one direction.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) section: &'static str,
    pub(super) deny_section: &'static str,
    endpoints: &'static str,
    cidr: &'static str,
    cidr_set: &'static str,
    entities: &'static str,
    /// Which only egress has.
    services: Option<&'static str>,
    names: Option<&'static str>,
    /// Kinds of far ends that the mesh does not know, and why.
    foreign: [(&'static str, &'static str); 3],
}

/// The words about connections to a workload.
pub(super) const INGRESS: Side = Side {
    section: "ingress",
    deny_section: "ingressDeny",
    endpoints: "fromEndpoints",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
    entities: "fromEntities",
    services: None,
    names: None,
    foreign: [
        ("fromGroups", GROUPS),
        ("fromNodes", NODES),
        ("fromRequires", REQUIRES),
    ],
};

/// The words about connections from a workload.
pub(super) const EGRESS: Side = Side {
    section: "egress",
    deny_section: "egressDeny",
    endpoints: "toEndpoints",
    cidr: "toCIDR",
    cidr_set: "toCIDRSet",
    entities: "toEntities",
    services: Some("toServices"),
    names: Some("toFQDNs"),
    foreign: [
        ("toGroups", GROUPS),
        ("toNodes", NODES),
        ("toRequires", REQUIRES),
    ],
};

const GROUPS: &str = "groups of a cloud provider are not resolved; write their blocks";
const NODES: &str = "nodes have no labels here; write the entities host and remote-node";
const REQUIRES: &str = "Cilium has removed it; write a deny rule";
const NO_NAMES: &str =
    "a deny rule cannot name DNS names, since an address that was not asked for by name would pass";

impl Side {
    /// The fields that speak of far ends, also those that are refused.
    pub(super) fn fields(&self) -> Vec<&'static str> {
        let known = [self.endpoints, self.cidr, self.cidr_set, self.entities];
        let more = self.services.into_iter().chain(self.names);
        let foreign = self.foreign.iter().map(|(name, _)| *name);
        known.into_iter().chain(more).chain(foreign).collect()
    }

    /// The far ends of a rule; `None` = it does not speak of them. An empty list means nobody, whatever the others say.
    pub(super) fn read(
        &self,
        rule: &Node<'_>,
        action: RuleAction,
        scope: Scope<'_>,
    ) -> Result<Option<Peers>, ReadPolicyError> {
        for (name, reason) in self.foreign {
            if let Some(node) = rule.get(name)? {
                return Err(node.unsupported(reason));
            }
        }
        let mut peers = Vec::new();
        let mut said: Option<&'static str> = None;
        let mut nobody = false;
        let kinds: [(Option<&'static str>, ReadPeer); 6] = [
            (Some(self.endpoints), read_endpoints),
            (Some(self.cidr), read_cidr),
            (Some(self.cidr_set), read_cidr_rule),
            (Some(self.entities), read_entity),
            (self.services, read_service),
            (self.names, read_name),
        ];
        for (field, read) in kinds {
            let Some(field) = field else { continue };
            let Some(items) = rule.items(field)? else {
                continue;
            };
            if Some(field) == self.names && action == RuleAction::Deny {
                return Err(rule.required(field)?.unsupported(NO_NAMES));
            }
            nobody |= items.is_empty();
            if let (Some(other), false) = (said, items.is_empty()) {
                let expected = format!("one kind of far ends in a rule, which has {other} already");
                return Err(rule.required(field)?.refuse(expected));
            }
            if !items.is_empty() {
                said = Some(field);
            }
            for item in &items {
                peers.push(read(item, scope)?);
            }
        }
        if nobody {
            return Ok(Some(Peers::OneOf(Vec::new())));
        }
        Ok(said.map(|_| Peers::OneOf(peers)))
    }
}

type ReadPeer = fn(&Node<'_>, Scope<'_>) -> Result<Peer, ReadPolicyError>;

fn read_endpoints(node: &Node<'_>, scope: Scope<'_>) -> Result<Peer, ReadPolicyError> {
    scope.read_peer(node).map(Peer::Endpoints)
}

fn read_cidr(node: &Node<'_>, _: Scope<'_>) -> Result<Peer, ReadPolicyError> {
    Ok(Peer::Block {
        block: read_address_or_block(node)?,
        except: Vec::new(),
        includes_workloads: false,
    })
}

fn read_cidr_rule(node: &Node<'_>, _: Scope<'_>) -> Result<Peer, ReadPolicyError> {
    node.only(&["cidr", "except", "cidrGroupRef", "cidrGroupSelector"])?;
    for field in ["cidrGroupRef", "cidrGroupSelector"] {
        if let Some(node) = node.get(field)? {
            return Err(
                node.unsupported("objects of kind CiliumCIDRGroup are not read; write cidr")
            );
        }
    }
    let block = read_block(&node.required("cidr")?)?;
    let mut except = Vec::new();
    for item in node.list_or_empty("except")? {
        let part = read_block(&item)?;
        if part.prefix_len < block.prefix_len || !block.contains(part.address) {
            return Err(item.refuse("a block that lies in the rule's cidr"));
        }
        except.push(part);
    }
    Ok(Peer::Block {
        block,
        except,
        includes_workloads: false,
    })
}

fn read_entity(node: &Node<'_>, _: Scope<'_>) -> Result<Peer, ReadPolicyError> {
    let entity = match node.text()? {
        "all" => Entity::All,
        "world" => Entity::World,
        "world-ipv4" => Entity::WorldIpv4,
        "world-ipv6" => Entity::WorldIpv6,
        "cluster" => Entity::Cluster,
        "cluster-mesh" => Entity::ClusterMesh,
        "host" => Entity::Host,
        "remote-node" => Entity::RemoteNode,
        "kube-apiserver" => Entity::KubeApiserver,
        "ingress" => Entity::Ingress,
        "init" => Entity::Init,
        "health" => Entity::Health,
        "unmanaged" => Entity::Unmanaged,
        "none" => Entity::None,
        _ => {
            return Err(node.refuse(
                "all, world, world-ipv4, world-ipv6, cluster, cluster-mesh, host, remote-node, kube-apiserver, ingress, init, health, unmanaged or none",
            ));
        }
    };
    Ok(Peer::Entity(entity))
}

fn read_service(node: &Node<'_>, _: Scope<'_>) -> Result<Peer, ReadPolicyError> {
    node.only(&["k8sService", "k8sServiceSelector"])?;
    let (place, services) = match (node.get("k8sService")?, node.get("k8sServiceSelector")?) {
        (Some(by_name), None) => {
            by_name.only(&["serviceName", "namespace"])?;
            let name = by_name.required("serviceName")?.name()?.to_owned();
            (by_name, ServicePick::Name(name))
        }
        (None, Some(by_labels)) => {
            by_labels.only(&["selector", "namespace"])?;
            let labels = read_service_labels(&by_labels.required("selector")?)?;
            (by_labels, ServicePick::Labels(labels))
        }
        (None, None) | (Some(_), Some(_)) => {
            return Err(node.refuse("either k8sService or k8sServiceSelector"));
        }
    };
    let namespace = match place.get("namespace")? {
        Some(node) => Some(node.name()?.to_owned()),
        None => None,
    };
    Ok(Peer::Services {
        namespace,
        services,
    })
}

fn read_name(node: &Node<'_>, _: Scope<'_>) -> Result<Peer, ReadPolicyError> {
    read_name_pattern_at(node).map(Peer::Name)
}
