//! Set-up, lab, test, bench: the only part of the house that knows about installing.
//!
//! It decides what a machine needs and in which order things are built and run. It must build with nothing more than rustup and
//! a C compiler, so it depends on no other crate of the workspace: it drives the built programs by their command lines.

mod bench;
mod fuzz;
mod lab;
mod lock;
mod process;
mod say;
mod setup;
mod story;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Sets up this machine for Tulle, plays the lab, runs the tests"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what is missing and checks what cannot be installed
    Setup(setup::Options),
    /// Set-up, then the story of the lab: two clusters, one global service, every step checked
    Lab(lab::Options),
    /// Set-up, then every test: unit tests and the end-to-end tests on the kernel
    Test(test::Options),
    /// Set-up, then the measurements; fills the table of README.md
    Bench(bench::Options),
    /// Feeds every parser of foreign bytes with what nobody would send
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::locate()?;
    match &arguments.command {
        Command::Setup(options) => setup::run(&workspace, options),
        Command::Lab(options) => lab::run(&workspace, options),
        Command::Test(options) => test::run(&workspace, options),
        Command::Bench(options) => bench::run(&workspace, options),
        Command::Fuzz(options) => fuzz::run(&workspace, options),
    }
}
