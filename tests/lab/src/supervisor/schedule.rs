//! Which node a pod goes to: pure, from the cluster's objects.

use serde_json::Value;

use super::{controller::Objects, deployments};
use crate::{
    config::ClusterConfig,
    kind::Kind,
    object::{Object, ObjectKey},
};

/// The node for a pod: of those that its `nodeSelector` allows, the one with the fewest pods of the
/// same owner, then the fewest pods. The error is a sentence for the pod's status.
pub(super) fn choose_node(
    cluster: &ClusterConfig,
    objects: &Objects,
    key: &ObjectKey,
) -> Result<String, String> {
    let Some(pod) = objects.get(key) else {
        return Err("the pod is gone".to_owned());
    };
    let owner = deployments::owner(pod).map(|(_, uid)| uid);
    let placed: Vec<&Object> = objects
        .values()
        .filter(|object| object.key.kind == Kind::Pod)
        .collect();
    let count = |node: &str, of_owner: bool| {
        placed
            .iter()
            .filter(|other| other.text(&["spec", "nodeName"]) == Some(node))
            .filter(|other| !of_owner || deployments::owner(other).map(|(_, uid)| uid) == owner)
            .count()
    };
    let candidates = cluster
        .nodes
        .iter()
        .filter(|node| selects(pod, objects, &node.name));
    let best = candidates
        .map(|node| (count(&node.name, true), count(&node.name, false), node))
        .filter(|(_, pods, _)| *pods < PODS_PER_NODE_MAX)
        .min_by_key(|(own, pods, node)| (*own, *pods, node.index));
    match best {
        Some((_, _, node)) => Ok(node.name.clone()),
        None => Err(format!(
            "0/{} nodes are available: none matches the pod's nodeSelector and has less than \
             {PODS_PER_NODE_MAX} pods",
            cluster.nodes.len()
        )),
    }
}

fn selects(pod: &Object, objects: &Objects, node: &str) -> bool {
    let Some(selector) = pod
        .field(&["spec", "nodeSelector"])
        .and_then(Value::as_object)
    else {
        return true;
    };
    let Some(node) = objects.get(&ObjectKey::new(Kind::Node, "", node)) else {
        return false;
    };
    selector.iter().all(|(key, value)| {
        node.labels()
            .any(|(label, found)| label == key && value.as_str() == Some(found))
    })
}

/// As a kubelet's default.
const PODS_PER_NODE_MAX: usize = 110;
