//! The command line of Tulle.
//!
//! Reads arguments, asks a library or a cluster's xds-server, prints the answer. Decides nothing.

mod client;
mod clustermesh;
mod context;
mod lab;
mod output;
mod overview;
mod policy;
mod service;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tulle: a sidecar-free service mesh
#[derive(Debug, Parser)]
#[command(name = "tulle", version, propagate_version = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the state of a cluster: server, etcd, nodes, connections
    Status(overview::StatusArguments),
    /// Connect clusters, and show how they are connected
    #[command(name = "clustermesh")]
    ClusterMesh(clustermesh::ClusterMeshArguments),
    /// Show services, their endpoints in all clusters, and which of them are in use
    #[command(alias = "services")]
    Service(service::ServiceArguments),
    /// Check policies, list them, and say what they make of a connection
    #[command(alias = "policies")]
    Policy(policy::PolicyArguments),
    /// Two clusters on this machine, from namespaces, cgroups and real processes
    Lab(lab::LabArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Status(arguments) => overview::run(&arguments),
        Command::ClusterMesh(arguments) => clustermesh::run(arguments),
        Command::Service(arguments) => service::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Lab(arguments) => lab::run(arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", tulle_lab::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// The exit code of a command that works, about something that does not.
const NOT_WELL: u8 = 3;
const EXIT_CODES: &str = "\
Exit codes:
  0  done, and what was asked about is well
  1  not done; one sentence on standard error says why
  2  the command line is wrong
  3  answered, but what was asked about is not (yet) well";
