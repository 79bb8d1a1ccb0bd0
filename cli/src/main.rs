//! The command line of Tulle.
//!
//! Reads arguments, calls a library, prints its answer. Decides nothing.

mod lab;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tulle: a sidecar-free service mesh.
#[derive(Debug, Parser)]
#[command(name = "tulle", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two clusters on this machine, from namespaces, cgroups and real processes.
    Lab(lab::LabArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
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
