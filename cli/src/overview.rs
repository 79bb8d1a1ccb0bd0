//! `tulle status`: a cluster at a glance.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use tulle_wire::management::{ClusterStatus, RemoteState, path};

use crate::{
    NOT_WELL,
    client::Client,
    context::ContextArguments,
    output::{Format, Outcome, print, print_json, table},
    wait::WaitArguments,
};

/// The arguments of `tulle status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    context: ContextArguments,
    #[command(flatten)]
    wait: WaitArguments,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the command.
pub(crate) fn run(arguments: &StatusArguments) -> Outcome<ExitCode> {
    let client = Client::new(arguments.context.target()?)?;
    let ask = || client.get::<ClusterStatus>(path::STATUS);
    let well = |status: &ClusterStatus| faults(status).is_empty();
    let (status, done) = arguments.wait.until(&client, ask, well)?;
    match arguments.output {
        Format::Json => print_json(&json!({
            "ready": done, "errors": faults(&status), "status": status,
        }))?,
        Format::Summary => print(&summary(&status))?,
    }
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_WELL)
    })
}

/// Everything that is not well, one sentence each. A cluster that stands alone is well.
fn faults(status: &ClusterStatus) -> Vec<String> {
    let mut faults = Vec::new();
    if !status.ready {
        faults.push("the xds-server has not read the cluster's objects yet".to_owned());
    }
    faults.extend(status.source.problems.iter().cloned());
    let publishing = &status.publishing;
    if publishing.enabled && !publishing.published {
        let cause = publishing.last_error.as_ref();
        let cause = cause.map(|error| format!(": {error}")).unwrap_or_default();
        faults.push(format!("the cluster's state is not published{cause}"));
    }
    for node in status.nodes.iter().filter(|n| !(n.connected && n.current)) {
        let what = if node.connected {
            "behind"
        } else {
            "not connected"
        };
        faults.push(format!("the node proxy of {} is {what}", node.name));
    }
    for remote in &status.remotes {
        if remote.state != RemoteState::Ready {
            let cause = remote
                .last_error
                .as_deref()
                .unwrap_or("`tulle clustermesh status` says more");
            faults.push(format!("cluster {} is not ready: {cause}", remote.name));
        }
    }
    faults.extend(status.remotes_problems.iter().cloned());
    faults
}

fn summary(status: &ClusterStatus) -> String {
    let ok = |well: bool| if well { "OK" } else { "not ready" };
    let publishing = &status.publishing;
    let etcd = match publishing.enabled {
        true => format!(
            "{}, {} keys published",
            ok(publishing.published),
            publishing.keys
        ),
        false => "disabled".to_owned(),
    };
    let connected = status.nodes.iter().filter(|n| n.connected).count();
    let current = status
        .nodes
        .iter()
        .filter(|n| n.connected && n.current)
        .count();
    let nodes = status.nodes.len();
    let ready = status
        .remotes
        .iter()
        .filter(|r| r.state == RemoteState::Ready)
        .count();
    let mesh = match (publishing.enabled, status.remotes.len()) {
        (false, 0) => "disabled".to_owned(),
        (_, remotes) => format!("{ready}/{remotes} remote clusters ready"),
    };
    let view = status.view;
    let facts = [
        (
            "Cluster:",
            format!(
                "{} (id {}, trust domain {})",
                status.cluster, status.cluster_id, status.trust_domain
            ),
        ),
        (
            "Xds-server:",
            format!(
                "{}, version {}, up {} s",
                ok(status.ready),
                status.version,
                status.uptime_seconds
            ),
        ),
        ("Etcd:", etcd),
        (
            "Nodes:",
            format!("{connected}/{nodes} connected, {current}/{nodes} up to date"),
        ),
        ("ClusterMesh:", mesh),
        (
            "Services:",
            format!("{}, {} global", view.services, status.global_services.max),
        ),
        ("Workloads:", view.workloads.to_string()),
        ("Policies:", view.policies.to_string()),
    ];
    let rows: Vec<Vec<String>> = facts
        .into_iter()
        .map(|(name, fact)| vec![name.to_owned(), fact])
        .collect();
    let mut text = table(0, &rows);
    for warning in &status.source.warnings {
        text += &format!("⚠️  {warning}\n");
    }
    for fault in faults(status) {
        text += &format!("❌ {fault}\n");
    }
    text
}

#[cfg(test)]
mod tests;
