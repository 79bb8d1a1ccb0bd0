//! The state of a cluster's connections, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tulle_wire::management::{ClusterStatus, RemoteState, RemoteStatus};

/// Everything that keeps the mesh from being well, one sentence each.
pub(super) fn faults(status: &ClusterStatus) -> Vec<String> {
    let mut faults = Vec::new();
    let name = &status.cluster;
    if !status.ready {
        faults.push(format!(
            "the xds-server of {name} has not read its objects yet"
        ));
    }
    let publishing = &status.publishing;
    if !publishing.enabled {
        faults.push(format!(
            "cluster {name} is not enabled: `tulle clustermesh enable` lets others read it"
        ));
    } else if !publishing.connected {
        let cause = publishing.last_error.as_deref().unwrap_or("not tried yet");
        faults.push(format!("the etcd of {name} is not reached: {cause}"));
    } else if !publishing.published {
        faults.push(format!("the state of {name} is not published whole yet"));
    }
    for node in &status.nodes {
        let node_name = &node.name;
        if !node.connected {
            faults.push(format!("the node proxy of {node_name} is not connected"));
        } else if !node.current {
            faults.push(format!("the node proxy of {node_name} is behind"));
        } else if let Some(refusal) = &node.last_refusal {
            faults.push(format!(
                "the node proxy of {node_name} refused something: {refusal}"
            ));
        }
    }
    for remote in &status.remotes {
        let cause = remote.last_error.as_ref();
        let cause = cause.map(|error| format!(": {error}")).unwrap_or_default();
        let state = match remote.state {
            RemoteState::Ready => continue,
            RemoteState::Connecting => "is not connected",
            RemoteState::Syncing => "is not read whole yet",
            RemoteState::Silent => "is silent; its endpoints are used last",
            RemoteState::Refused => "is refused",
        };
        faults.push(format!("cluster {} {state}{cause}", remote.name));
    }
    faults.extend(status.remotes_problems.iter().cloned());
    faults
}

/// How others read the cluster.
pub(super) fn access(status: &ClusterStatus) -> String {
    let mut text = String::new();
    let publishing = &status.publishing;
    if !publishing.enabled {
        return "❌ Cluster mesh is not enabled; `tulle clustermesh enable` enables it\n"
            .to_owned();
    }
    line(&mut text, "✅ Cluster access information is available:");
    for endpoint in &publishing.endpoints {
        line(&mut text, &format!("  - {endpoint}"));
    }
    match publishing.credentials.as_str() {
        "per-peer" => {}
        "shared" => line(
            &mut text,
            "⚠️  All clusters get the same credentials; none can be shut out alone",
        ),
        _ => line(
            &mut text,
            "⚠️  The xds-server has no credentials to give; `connect` cannot let others read this cluster",
        ),
    }
    text
}

/// As `cilium clustermesh status` tells it.
pub(super) fn summary(status: &ClusterStatus) -> String {
    let mut text = access(status);
    let faults = faults(status);
    let publishing = &status.publishing;
    if publishing.enabled && publishing.published {
        let keys = publishing.keys;
        line(
            &mut text,
            &format!("✅ Etcd is ready ({keys} keys published)"),
        );
    }
    if status.ready {
        line(
            &mut text,
            &format!("✅ Xds-server {} is ready", status.version),
        );
    }
    let current = status.nodes.iter().filter(|n| n.connected && n.current);
    let (current, nodes) = (current.count(), status.nodes.len());
    if current == nodes {
        line(
            &mut text,
            &format!("✅ All {nodes} nodes are connected and up to date"),
        );
    } else {
        line(
            &mut text,
            &format!("⚠️  {current} of {nodes} nodes are connected and up to date"),
        );
    }
    if status.remotes.is_empty() && status.remotes_problems.is_empty() {
        line(&mut text, "🔌 No cluster connected");
    } else {
        line(&mut text, "");
        line(&mut text, "🔌 Cluster Connections:");
        for remote in &status.remotes {
            line(&mut text, &connection(remote));
        }
    }
    let spread = status.global_services;
    let (min, avg, max) = (spread.min, spread.avg, spread.max);
    line(
        &mut text,
        &format!("🔀 Global services: [ min:{min} / avg:{avg:.1} / max:{max} ]"),
    );
    if !faults.is_empty() {
        line(&mut text, "");
        line(&mut text, &format!("❌ {} Errors:", faults.len()));
        for fault in &faults {
            line(&mut text, &format!("  ❌ {fault}"));
        }
    }
    text
}

fn connection(remote: &RemoteStatus) -> String {
    let mut facts: Vec<String> = remote
        .counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    facts.push(match remote.heartbeat_age_ms {
        Some(age) => format!("heartbeat {} ago", seconds(age)),
        None => "no heartbeat".to_owned(),
    });
    facts.push(format!("{} reconnections", remote.reconnections));
    let synced: Vec<String> = remote
        .synced
        .iter()
        .map(|(kind, synced)| format!("{kind}={synced}"))
        .collect();
    let kind = match remote.kind.as_str() {
        "" | "tulle" => String::new(),
        other => format!(" ({other})"),
    };
    let mut text = format!(
        "  - {}{kind}: {}, {}\n    └  synchronization status: {}",
        remote.name,
        state_word(remote.state),
        facts.join(", "),
        synced.join(", ")
    );
    if let Some(error) = &remote.last_error {
        text += &format!("\n    └  last error: {error}");
    }
    text
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

pub(super) fn state_word(state: RemoteState) -> &'static str {
    match state {
        RemoteState::Connecting => "connecting",
        RemoteState::Syncing => "syncing",
        RemoteState::Ready => "ready",
        RemoteState::Silent => "silent",
        RemoteState::Refused => "refused",
    }
}

/// The same for programs.
pub(super) fn json(status: &ClusterStatus) -> Value {
    let publishing = &status.publishing;
    let faults = faults(status);
    let ready = status
        .remotes
        .iter()
        .filter(|r| r.state == RemoteState::Ready);
    json!({
        "accessInformation": {
            "clusterName": status.cluster,
            "clusterId": status.cluster_id,
            "trustDomain": status.trust_domain,
            "endpoints": publishing.endpoints,
            "credentials": publishing.credentials,
        },
        "enabled": publishing.enabled,
        "published": publishing.published,
        "connectivity": {
            "configured": status.remotes.len(),
            "ready": ready.count(),
            "clusters": status.remotes,
            "problems": status.remotes_problems,
        },
        "nodes": status.nodes,
        "globalServices": status.global_services,
        "ready": faults.is_empty(),
        "errors": faults,
    })
}

fn line(text: &mut String, line: &str) {
    // Writing into a string cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}

#[cfg(test)]
mod tests;
