//! Measures the mesh at full size: see `tulle_bench`. Progress goes to standard error, the figures to standard output.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use tulle_bench::{
    plan::Plan,
    scale::{self, Settings},
};

#[derive(Debug, Parser)]
struct Arguments {
    /// Simulated clusters, beside the real one.
    #[arg(long, default_value_t = 254)]
    clusters: usize,
    /// Global services.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints in all.
    #[arg(long, default_value_t = 100_000)]
    endpoints: usize,
    /// Simulated nodes.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// How many endpoints change, one after the other.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// No step is waited for longer than so many seconds.
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Write the figures into this file instead of standard output.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let binaries = env::var_os("TULLE_BIN_DIR").map(PathBuf::from).context(
        "TULLE_BIN_DIR is not set: run `cargo xtask scale`, or set it to target/release after `cargo build --release`",
    )?;
    let settings = Settings {
        plan: Plan {
            clusters: arguments.clusters,
            services: arguments.services,
            endpoints: arguments.endpoints,
        },
        nodes: arguments.nodes,
        changes: arguments.changes,
        binaries,
        deadline: Duration::from_secs(arguments.limit),
    };
    let report = scale::run(&settings, &mut |line| eprintln!("{line}"))?;
    let json = serde_json::to_string_pretty(&report.json())? + "\n";
    match &arguments.json {
        Some(file) => fs::write(file, json).with_context(|| file.display().to_string()),
        None => {
            print!("{json}");
            Ok(())
        }
    }
}
