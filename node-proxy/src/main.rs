//! Wires the program: the command line, the log, the exit code.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use tracing_subscriber::EnvFilter;
use tulle_node_proxy::{
    config::{Config, RawConfig},
    run::run,
};

fn main() -> ExitCode {
    let config = match Config::try_from(RawConfig::parse()) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("node-proxy: {faults}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match run(config).map_err(anyhow::Error::from) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// As clap's own for a wrong command line.
const EXIT_USAGE: u8 = 2;
