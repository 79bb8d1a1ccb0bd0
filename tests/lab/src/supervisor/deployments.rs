//! What a Deployment wants next: pure, from the cluster's objects.
//!
//! Pods belong to their Deployment directly; there is no ReplicaSet. The hash of the template in a
//! pod's name and label tells new pods from old ones, and a rolling update replaces the old ones as
//! the new become ready.

use serde_json::{Value, json};

use super::controller::Objects;
use crate::{
    apply::timestamp,
    kind::Kind,
    object::{Object, ObjectKey},
    random,
};

/// One step towards what Deployments want.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// This pod is missing.
    Create(Box<Object>),
    /// This pod is too many.
    Delete(ObjectKey),
}

/// The steps that may be taken now.
pub(super) fn next_steps(objects: &Objects) -> Vec<Step> {
    let mut steps = Vec::new();
    for deployment in objects
        .values()
        .filter(|object| object.key.kind == Kind::Deployment)
    {
        follow(deployment, objects, &mut steps);
    }
    for pod in objects
        .values()
        .filter(|object| object.key.kind == Kind::Pod)
    {
        if is_orphan(pod, objects) && !is_ending(pod) {
            steps.push(Step::Delete(pod.key.clone()));
        }
    }
    steps
}

fn follow(deployment: &Object, objects: &Objects, steps: &mut Vec<Step>) {
    let Some(template) = deployment.field(&["spec", "template"]) else {
        return;
    };
    let hash = template_hash(deployment);
    let wanted = deployment
        .field(&["spec", "replicas"])
        .and_then(Value::as_u64)
        .unwrap_or(1);
    let wanted = usize::try_from(wanted)
        .unwrap_or(usize::MAX)
        .min(REPLICAS_MAX);
    let own = objects.values().filter(|object| {
        object.key.kind == Kind::Pod
            && owner(object).is_some_and(|(_, uid)| uid == deployment.uid())
            && !is_ending(object)
    });
    let (mut new, mut old): (Vec<&Object>, Vec<&Object>) =
        own.partition(|pod| has_template(pod, &hash));
    if new.len() > wanted {
        let count = new.len() - wanted;
        for pod in spare(&mut new, count) {
            steps.push(Step::Delete(pod));
        }
        // The rest of a rolling update waits for the next pass: the counts below have changed.
        return;
    }
    let recreate = deployment.text(&["spec", "strategy", "type"]) == Some("Recreate");
    if recreate && !old.is_empty() {
        steps.extend(old.iter().map(|pod| Step::Delete(pod.key.clone())));
        return;
    }
    let surge = wanted.div_ceil(4);
    let room =
        (wanted + if old.is_empty() { 0 } else { surge }).saturating_sub(new.len() + old.len());
    for _ in 0..room.min(wanted - new.len()) {
        steps.push(Step::Create(Box::new(pod(deployment, template, &hash))));
    }
    let ready = new.iter().chain(&old).filter(|pod| is_ready(pod)).count();
    let least = wanted - wanted / 4;
    let unready_old = old.iter().filter(|pod| !is_ready(pod)).count();
    let count = if wanted == 0 {
        old.len()
    } else {
        unready_old + ready.saturating_sub(least).min(old.len() - unready_old)
    };
    for pod in spare(&mut old, count) {
        steps.push(Step::Delete(pod));
    }
}

/// The `count` pods that are missed least: not ready first, then the youngest.
fn spare(pods: &mut [&Object], count: usize) -> Vec<ObjectKey> {
    pods.sort_by_key(|pod| {
        let age = pod
            .text(&["metadata", "creationTimestamp"])
            .unwrap_or_default()
            .to_owned();
        (is_ready(pod), std::cmp::Reverse(age), pod.key.name.clone())
    });
    pods.iter().take(count).map(|pod| pod.key.clone()).collect()
}

fn pod(deployment: &Object, template: &Value, hash: &str) -> Object {
    let name = format!(
        "{}-{hash}-{}",
        deployment.key.name,
        random::name_suffix(SUFFIX_LEN)
    );
    let namespace = &deployment.key.namespace;
    let metadata = template.get("metadata").cloned().unwrap_or_default();
    let mut pod = Object {
        key: ObjectKey::new(Kind::Pod, namespace, &name),
        value: json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec")}),
    };
    pod.set(&["metadata", "name"], json!(name));
    pod.set(&["metadata", "namespace"], json!(namespace));
    pod.set(&["metadata", "uid"], json!(random::uuid()));
    pod.set(&["metadata", "creationTimestamp"], json!(timestamp()));
    pod.set(&["metadata", "labels", HASH_LABEL], json!(hash));
    pod.set(
        &["metadata", "ownerReferences"],
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.key.name,
            "uid": deployment.uid(), "controller": true, "blockOwnerDeletion": true}]),
    );
    pod
}

/// What tells pods of a Deployment's present template from older ones.
pub(crate) fn template_hash(deployment: &Object) -> String {
    let template = deployment
        .field(&["spec", "template"])
        .map(Value::to_string);
    random::name_hash(&template.unwrap_or_default(), HASH_LEN)
}

/// Whether a pod was made from the template with this hash.
pub(crate) fn has_template(pod: &Object, hash: &str) -> bool {
    pod.labels().any(|label| label == (HASH_LABEL, hash))
}

/// The Deployment that a pod belongs to: name and uid.
pub(crate) fn owner(pod: &Object) -> Option<(&str, &str)> {
    let references = pod.field(&["metadata", "ownerReferences"])?.as_array()?;
    let owner = references
        .iter()
        .find(|reference| reference.get("kind").and_then(Value::as_str) == Some("Deployment"))?;
    Some((owner.get("name")?.as_str()?, owner.get("uid")?.as_str()?))
}

/// Whether the pod's Deployment is gone.
fn is_orphan(pod: &Object, objects: &Objects) -> bool {
    owner(pod).is_some_and(|(name, uid)| {
        let key = ObjectKey::new(Kind::Deployment, &pod.key.namespace, name);
        objects
            .get(&key)
            .is_none_or(|deployment| deployment.uid() != uid)
    })
}

/// Whether somebody has asked the pod to end.
pub(super) fn is_ending(pod: &Object) -> bool {
    pod.field(&["metadata", "deletionTimestamp"]).is_some()
}

/// Whether the pod is ready, by its status.
pub(crate) fn is_ready(pod: &Object) -> bool {
    let conditions = pod
        .field(&["status", "conditions"])
        .and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Ready")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    })
}

const HASH_LABEL: &str = "pod-template-hash";
const HASH_LEN: usize = 9;
const SUFFIX_LEN: usize = 5;
const REPLICAS_MAX: usize = 1000;

#[cfg(test)]
mod tests;
