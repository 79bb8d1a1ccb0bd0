//! `tulle service …`: what the services of a cluster are, and where their requests may go.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tulle_wire::management::{Backend, ServiceDetail, ServiceInCluster, ServiceSummary, path};

use crate::{
    client::{CallError, Client},
    context::ContextArguments,
    output::{Format, Outcome, print, print_json, row, table, yes},
};

/// The arguments of `tulle service`.
#[derive(Debug, Args)]
pub(crate) struct ServiceArguments {
    #[command(flatten)]
    context: ContextArguments,
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// List the services of the cluster
    List {
        /// Only those of this namespace
        #[arg(short, long)]
        namespace: Option<String>,
        /// Only global ones
        #[arg(long)]
        global: bool,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show one service: its addresses, its endpoints in all clusters, and why each is in use or not
    Get {
        /// NAME or NAMESPACE/NAME
        name: String,
        /// The namespace
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// Only endpoints of these clusters
        #[arg(long = "cluster", value_name = "CLUSTER", value_delimiter = ',')]
        clusters: Vec<String>,
        /// As seen from this node, which matters where endpoints near the client are preferred
        #[arg(long)]
        node: Option<String>,
        /// How to write the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Runs one command.
pub(crate) fn run(arguments: &ServiceArguments) -> Outcome<ExitCode> {
    let client = Client::new(arguments.context.target()?)?;
    match &arguments.command {
        ServiceCommand::List {
            namespace,
            global,
            output,
        } => {
            let mut services: Vec<ServiceSummary> = client.get(path::SERVICES)?;
            services.retain(|s| {
                let of_namespace = namespace.as_ref().is_none_or(|n| *n == s.namespace);
                of_namespace && (s.global || !global)
            });
            match output {
                Format::Json => print_json(&services)?,
                Format::Summary => print(&list(&services))?,
            }
        }
        ServiceCommand::Get {
            name,
            namespace,
            clusters,
            node,
            output,
        } => {
            let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
            let mut detail = get(&client, namespace, name, node.as_deref())?;
            if !clusters.is_empty() {
                detail.backends.retain(|b| clusters.contains(&b.cluster));
            }
            match output {
                Format::Json => print_json(&detail)?,
                Format::Summary => print(&describe(&detail))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn get(client: &Client, namespace: &str, name: &str, node: Option<&str>) -> Outcome<ServiceDetail> {
    // The words become part of an address.
    for (what, word) in [
        ("namespace", Some(namespace)),
        ("service", Some(name)),
        ("node", node),
    ] {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if word.is_some_and(|word| word.is_empty() || !word.bytes().all(plain)) {
            return Err(format!("{:?} is not the name of a {what}", word.unwrap_or("")).into());
        }
    }
    let query = node.map(|node| format!("?node={node}")).unwrap_or_default();
    match client.get(&format!("{}/{namespace}/{name}{query}", path::SERVICES)) {
        Ok(detail) => Ok(detail),
        Err(CallError::Refused { sentence, .. }) => Err(sentence.into()),
        Err(error) => Err(error.into()),
    }
}

fn list(services: &[ServiceSummary]) -> String {
    if services.is_empty() {
        return "No services found\n".to_owned();
    }
    let mut rows = vec![row([
        "NAMESPACE",
        "NAME",
        "ADDRESS",
        "PORTS",
        "GLOBAL",
        "SHARED",
        "AFFINITY",
        "ENDPOINTS IN USE",
    ])];
    for service in services {
        let address = service.addresses.first();
        let included = service.included.iter();
        let included: Vec<String> = included.map(|(name, n)| format!("{name}:{n}")).collect();
        let mut endpoints = match included.as_slice() {
            [] => "none".to_owned(),
            some => some.join(" "),
        };
        if service.excluded > 0 {
            endpoints += &format!(" (and {} not in use)", service.excluded);
        }
        rows.push(row([
            &service.namespace,
            &service.name,
            &address.map_or("headless".to_owned(), ToString::to_string),
            &service.ports.join(","),
            yes(service.global),
            yes(service.shared),
            &service.affinity,
            &endpoints,
        ]));
    }
    table(0, &rows)
}

fn describe(service: &ServiceDetail) -> String {
    let summary = &service.summary;
    let sharing = match (summary.global, summary.shared) {
        (false, _) => "not global",
        (true, true) => "global, shared",
        (true, false) => "global, not shared",
    };
    let mut text = format!(
        "Service {}/{}: {sharing}, affinity {}\n",
        summary.namespace, summary.name, summary.affinity
    );
    if let Some(node) = &service.seen_from_node {
        text += &format!("Seen from node {node}\n");
    }
    text += "\nFrontends:\n";
    for frontend in &service.frontends {
        let name = &frontend.name;
        let name = if name.is_empty() {
            String::new()
        } else {
            format!(" ({name})")
        };
        text += &format!("  {} {}{name}\n", frontend.address, frontend.protocol);
    }
    if service.frontends.is_empty() {
        text += "  none: the service is headless\n";
    }
    text += &format!("\nClusters:\n{}", clusters(&service.clusters));
    text += "\nBackends:\n";
    text += &if service.backends.is_empty() {
        "  none\n".to_owned()
    } else {
        backends(&service.backends)
    };
    for warning in &service.warnings {
        text += &format!("\n⚠️  {warning}\n");
    }
    text
}

fn clusters(clusters: &[ServiceInCluster]) -> String {
    let mut rows = vec![row(["CLUSTER", "GLOBAL", "SHARED", "ENDPOINTS", "HEARD"])];
    for cluster in clusters {
        // Another cluster tells of its global services only.
        let word = |value: bool| if cluster.known { yes(value) } else { "-" };
        rows.push(row([
            &cluster.cluster,
            word(cluster.global),
            word(cluster.shared),
            &cluster.endpoints.to_string(),
            yes(!cluster.silent),
        ]));
    }
    table(2, &rows)
}

fn backends(backends: &[Backend]) -> String {
    let mut rows = vec![row([
        "CLUSTER", "NODE", "ZONE", "POD", "ADDRESS", "HEALTH", "IN USE", "REASON",
    ])];
    for backend in backends {
        let zone = if backend.zone.is_empty() {
            "-"
        } else {
            &backend.zone
        };
        rows.push(row([
            &backend.cluster,
            &backend.node,
            zone,
            &backend.name,
            &backend.address,
            &backend.health,
            yes(backend.included),
            &backend.reason,
        ]));
    }
    table(2, &rows)
}

#[cfg(test)]
mod tests;
