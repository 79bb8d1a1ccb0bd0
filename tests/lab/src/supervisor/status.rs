//! A pod's status as Kubernetes writes it: pure, from what its keeper sees.

use serde_json::{Value, json};

use super::{
    controller::text,
    view::{ContainerState, ContainerView, Ended, PodView},
};
use crate::{
    apply::timestamp,
    config::{ClusterConfig, NodeConfig},
    object::Object,
};

/// The status of a pod that has a keeper.
pub(super) fn of_pod(
    pod: &Object,
    view: &PodView,
    cluster: &ClusterConfig,
    node: &NodeConfig,
    host: u8,
) -> Value {
    let all = |test: fn(&ContainerView) -> bool| view.containers.iter().all(test);
    let ended = all(|container| matches!(container.state, ContainerState::Terminated(_)));
    let failed = view.containers.iter().any(|container| {
        matches!(&container.state, ContainerState::Terminated(ended) if ended.exit_code != 0)
    });
    let phase = match (view.sandbox_ready, ended, failed) {
        (false, ..) => "Pending",
        (true, true, true) => "Failed",
        (true, true, false) => "Succeeded",
        (true, false, _) if all(has_not_begun) => "Pending",
        (true, false, _) => "Running",
    };
    let ready = view.sandbox_ready && all(|container| container.ready);
    let names: Vec<&str> = view
        .containers
        .iter()
        .filter(|container| !container.ready)
        .map(|container| container.name.as_str())
        .collect();
    let unready = format!("containers with unready status: [{}]", names.join(" "));
    let reason = (!ready).then_some(("ContainersNotReady", unready.as_str()));
    let sandbox = view
        .trouble
        .as_ref()
        .map(|(reason, message)| (reason.as_str(), message.as_str()));
    let conditions = json!([
        condition(pod, "PodScheduled", true, None),
        condition(
            pod,
            "PodReadyToStartContainers",
            view.sandbox_ready,
            sandbox
        ),
        condition(pod, "Initialized", true, None),
        condition(pod, "ContainersReady", ready, reason),
        condition(pod, "Ready", ready, reason),
    ]);
    let (v4, v6) = (
        cluster.pod_address(node, host),
        cluster.pod_address_v6(node, host),
    );
    let (node_v4, node_v6) = (cluster.node_address(node), cluster.node_address_v6(node));
    let containers: Vec<Value> = view
        .containers
        .iter()
        .map(|container| container_status(pod, container))
        .collect();
    let started = pod
        .text(&["status", "startTime"])
        .map_or_else(timestamp, str::to_owned);
    let mut status = json!({
        "phase": phase,
        "conditions": conditions,
        "hostIP": node_v4,
        "hostIPs": [{"ip": node_v4}, {"ip": node_v6}],
        "podIP": v4,
        "podIPs": [{"ip": v4}, {"ip": v6}],
        "startTime": started,
        "containerStatuses": containers,
    });
    if let Some((reason, message)) = &view.trouble {
        status["reason"] = json!(reason);
        status["message"] = json!(message);
    }
    status
}

/// What an earlier supervisor has written down of a pod: where a later one goes on, so that a pod
/// that is taken over does not seem to be not ready for a moment.
pub(super) fn restore(pod: &Object, view: &mut PodView) {
    view.sandbox_ready = pod.text(&["status", "phase"]) == Some("Running");
    let known = pod
        .field(&["status", "containerStatuses"])
        .and_then(Value::as_array);
    for container in &mut view.containers {
        let mut known = known.into_iter().flatten();
        let Some(known) = known.find(|known| text(known, &["name"]) == Some(&container.name))
        else {
            continue;
        };
        let flag = |name: &str| known.get(name).and_then(Value::as_bool).unwrap_or_default();
        if let Some(since) = text(known, &["state", "running", "startedAt"]) {
            container.state = ContainerState::Running {
                since: since.to_owned(),
            };
            (container.started, container.ready) = (flag("started"), flag("ready"));
        }
        let restarts = known.get("restartCount").and_then(Value::as_u64);
        container.restarts = restarts
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or_default();
    }
}

/// The status of a pod that fits no node.
pub(super) fn unscheduled(message: &str) -> Value {
    json!({
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message}],
    })
}

fn has_not_begun(container: &ContainerView) -> bool {
    matches!(container.state, ContainerState::Waiting { .. }) && container.last.is_none()
}

/// A condition; the time of its last change stays if it says the same as before.
fn condition(pod: &Object, kind: &str, holds: bool, why_not: Option<(&str, &str)>) -> Value {
    let status = if holds { "True" } else { "False" };
    let known = pod
        .field(&["status", "conditions"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|known| text(known, &["type"]) == Some(kind))
        .filter(|known| text(known, &["status"]) == Some(status))
        .and_then(|known| text(known, &["lastTransitionTime"]));
    let since = known.map_or_else(timestamp, str::to_owned);
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": since});
    if let Some((reason, message)) = why_not {
        condition["reason"] = json!(reason);
        condition["message"] = json!(message);
    }
    condition
}

fn container_status(pod: &Object, view: &ContainerView) -> Value {
    let image = pod
        .field(&["spec", "containers"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|container| text(container, &["name"]) == Some(&view.name))
        .and_then(|container| text(container, &["image"]))
        .unwrap_or_default();
    let state = match &view.state {
        ContainerState::Waiting { reason, message } if message.is_empty() => {
            json!({"waiting": {"reason": reason}})
        }
        ContainerState::Waiting { reason, message } => {
            json!({"waiting": {"reason": reason, "message": message}})
        }
        ContainerState::Running { since } => json!({"running": {"startedAt": since}}),
        ContainerState::Terminated(ended) => terminated(ended),
    };
    let last = view.last.as_ref().map_or_else(|| json!({}), terminated);
    json!({
        "name": view.name,
        "image": image,
        "imageID": "",
        "ready": view.ready,
        "started": view.started,
        "restartCount": view.restarts,
        "state": state,
        "lastState": last,
    })
}

fn terminated(ended: &Ended) -> Value {
    json!({"terminated": {
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "message": ended.message,
        "startedAt": ended.started_at,
        "finishedAt": ended.finished_at,
    }})
}
