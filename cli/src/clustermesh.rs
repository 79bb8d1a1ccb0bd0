//! `tulle clustermesh …`: the commands that connect clusters, spoken as `cilium clustermesh` speaks where both have the command.

mod connect;
mod status;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tulle_wire::management::{Changed, ClusterStatus, Publishing, path};

use self::connect::{ConnectArguments, DisconnectArguments};
use crate::{
    NOT_WELL,
    client::Client,
    context::ContextArguments,
    output::{Format, Outcome, print, print_json},
    wait::WaitArguments,
};

/// The arguments of `tulle clustermesh`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ClusterMeshArguments {
    #[command(flatten)]
    context: ContextArguments,
    #[command(subcommand)]
    command: ClusterMeshCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterMeshCommand {
    /// Let other clusters read this one, once they are connected
    Enable(EnableArguments),
    /// Take back what this cluster has published; others forget its endpoints
    Disable(DisableArguments),
    /// Let clusters read each other: exchanges endpoints, roots and read-only credentials
    Connect(ConnectArguments),
    /// Let clusters forget each other, and end the credentials
    Disconnect(DisconnectArguments),
    /// Show the connections of a cluster
    Status(StatusArguments),
}

#[derive(Debug, Args)]
struct EnableArguments {
    /// Where other clusters reach this cluster's etcd, if not where its xds-server does: https://host:port
    #[arg(long = "endpoint", value_name = "URL", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Taken as cilium takes it; the etcd is reached at its endpoints, whatever is in front of it
    #[arg(long, value_name = "TYPE")]
    service_type: Option<String>,
    #[command(flatten)]
    wait: WaitArguments,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct DisableArguments {
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct StatusArguments {
    #[command(flatten)]
    wait: WaitArguments,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs one command.
pub(crate) fn run(arguments: ClusterMeshArguments) -> Outcome<ExitCode> {
    let context = arguments.context;
    match arguments.command {
        ClusterMeshCommand::Enable(arguments) => enable(&context, arguments),
        ClusterMeshCommand::Disable(arguments) => disable(&context, &arguments),
        ClusterMeshCommand::Connect(arguments) => connect::connect(&context, &arguments),
        ClusterMeshCommand::Disconnect(arguments) => connect::disconnect(&context, &arguments),
        ClusterMeshCommand::Status(arguments) => show_status(&context, &arguments),
    }
}

fn enable(context: &ContextArguments, arguments: EnableArguments) -> Outcome<ExitCode> {
    let client = Client::new(context.target()?)?;
    let endpoints = (!arguments.endpoints.is_empty()).then_some(arguments.endpoints);
    let wish = Publishing {
        enabled: true,
        endpoints,
    };
    let changed: Changed = client.put(path::PUBLISHING, &wish)?;
    let ask = || client.get::<ClusterStatus>(path::STATUS);
    let (status, done) = arguments
        .wait
        .until(&client, ask, |status| status.publishing.published)?;
    if arguments.output == Format::Json {
        print_json(&serde_json::json!({
            "changed": changed.changed, "published": status.publishing.published,
            "endpoints": status.publishing.endpoints,
        }))?;
    } else {
        if let Some(kind) = arguments.service_type {
            print(&format!(
                "ℹ️  Service type {kind} is not needed here: other clusters reach the etcd at its endpoints\n"
            ))?;
        }
        let name = &status.cluster;
        print(&match changed.changed {
            true => {
                format!("✅ Cluster {name} is enabled: others that are connected may read it\n")
            }
            false => format!("✅ Cluster {name} was enabled already\n"),
        })?;
        print(&status::access(&status))?;
    }
    Ok(code(done || !arguments.wait.wait))
}

fn disable(context: &ContextArguments, arguments: &DisableArguments) -> Outcome<ExitCode> {
    let client = Client::new(context.target()?)?;
    let wish = Publishing {
        enabled: false,
        endpoints: None,
    };
    let changed: Changed = client.put(path::PUBLISHING, &wish)?;
    let status: ClusterStatus = client.get(path::STATUS)?;
    if arguments.output == Format::Json {
        print_json(&changed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = &status.cluster;
    print(&match changed.changed {
        true => format!("✅ Cluster {name} is disabled: nobody else can read it any more\n"),
        false => format!("✅ Cluster {name} was disabled already\n"),
    })?;
    for remote in &status.remotes {
        print(&format!(
            "ℹ️  It still reads cluster {0}; `tulle clustermesh disconnect --context {1} --destination-cluster {0}` ends that\n",
            remote.name,
            client.name()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_status(context: &ContextArguments, arguments: &StatusArguments) -> Outcome<ExitCode> {
    let client = Client::new(context.target()?)?;
    let ask = || client.get::<ClusterStatus>(path::STATUS);
    let well = |status: &ClusterStatus| status::faults(status).is_empty();
    let (status, done) = arguments.wait.until(&client, ask, well)?;
    match arguments.output {
        Format::Json => print_json(&status::json(&status))?,
        Format::Summary => print(&status::summary(&status))?,
    }
    Ok(code(done))
}

fn code(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_WELL)
    }
}

const EXAMPLE: &str = "\
Example, with the lab on this machine:
  tulle lab up --no-mesh
  tulle clustermesh enable --context koornacht
  tulle clustermesh enable --context tion
  tulle clustermesh connect --context koornacht --destination-context tion
  tulle clustermesh status --context koornacht --wait";
