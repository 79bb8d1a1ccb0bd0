//! The labels of a workload, with those that are derived from where it runs, and what kind of far end it is.
//!
//! Decides what a requirement sees. Derived labels come from the mesh's view of the workload and never from the pod's own labels,
//! so nobody gains a namespace or a cluster by writing one into a manifest.

use tulle_model::{
    Entity, LabelKey, LabelSource, Operator, RuleSpec, Selector, Text, TunnelProtocol, Workload,
};

/// Whether a policy's spec speaks of a workload.
pub fn speaks_of(spec: &RuleSpec, workload: &Workload) -> bool {
    spec.subject.matches(|key| label_of(workload, key))
}

/// The value of a workload's label.
pub(crate) fn label_of<'a>(workload: &'a Workload, key: &LabelKey) -> Option<&'a str> {
    match key.source {
        LabelSource::Reserved => None,
        LabelSource::Any | LabelSource::K8s => match key.name.as_str() {
            Selector::NAMESPACE => Some(&workload.namespace),
            Selector::CLUSTER => Some(workload.cluster.as_str()),
            Selector::SERVICE_ACCOUNT => Some(&workload.service_account),
            name => match name.strip_prefix(Selector::NAMESPACE_LABELS) {
                Some(of_namespace) => workload.namespace_labels.get(of_namespace),
                None => workload.labels.get(name),
            }
            .map(Text::as_str),
        },
    }
}

/// Whether a selector means far ends that are no workloads: only if it asks for one of the reserved labels.
///
/// A selector that merely excludes something would otherwise let in nodes and the whole world.
pub(crate) fn names_reserved(selector: &Selector) -> bool {
    selector.requirements.iter().any(|requirement| {
        let is_positive = match requirement.operator {
            Operator::In(_) | Operator::Exists => true,
            Operator::NotIn(_) | Operator::DoesNotExist => false,
        };
        requirement.key.source == LabelSource::Reserved && is_positive
    })
}

/// The value of a reserved label of a far end that belongs to `entities`; they are all empty.
pub(crate) fn reserved_label(
    key: &LabelKey,
    belongs: impl Fn(Entity) -> bool,
) -> Option<&'static str> {
    if key.source == LabelSource::K8s {
        return None;
    }
    let entity = match key.name.as_str() {
        "host" => Entity::Host,
        "remote-node" => Entity::RemoteNode,
        "kube-apiserver" => Entity::KubeApiserver,
        "world" => Entity::World,
        "world-ipv4" => Entity::WorldIpv4,
        "world-ipv6" => Entity::WorldIpv6,
        _ => return None,
    };
    belongs(entity).then_some("")
}

/// Whether a workload that is no node belongs to a set that has a name.
pub(crate) fn is_workload_of(workload: &Workload, entity: Entity, is_local_cluster: bool) -> bool {
    match entity {
        Entity::All | Entity::ClusterMesh => true,
        Entity::Cluster => is_local_cluster,
        Entity::Ingress => workload.labels.contains_key(GATEWAY),
        Entity::Unmanaged => workload.tunnel_protocol == TunnelProtocol::None,
        Entity::World
        | Entity::WorldIpv4
        | Entity::WorldIpv6
        | Entity::Host
        | Entity::RemoteNode
        | Entity::KubeApiserver
        // Whoever is in the view has its labels, and nodes of this mesh probe each other from their own addresses.
        | Entity::Init
        | Entity::Health
        | Entity::None => false,
    }
}

/// The label that the Gateway API puts on the pods of a gateway (GEP-1762).
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
