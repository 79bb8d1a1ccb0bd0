//! The measurements: builds the programs, runs the bench program, which fills the table of README.md, or the one that simulates a
//! large mesh.

use std::{
    path::{self, PathBuf},
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use crate::{lock::RunLock, process::Run, say, setup, workspace::Workspace};

const BUILD_LIMIT: Duration = Duration::from_mins(20);
const BENCH_LIMIT: Duration = Duration::from_mins(60);

/// What must not get worse.
const BASELINE: &str = "tests/bench/baseline.json";

#[derive(Args)]
pub(crate) struct Options {
    /// Only these parts (several: repeat, or separate by commas; `-- --list` names them)
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    /// At most 90 seconds: small loads, and only those that say most
    #[arg(long)]
    quick: bool,
    /// Compare a few ratios and counts with `tests/bench/baseline.json`, and fail when one is worse
    #[arg(long, conflicts_with_all = ["filter", "quick"])]
    gate: bool,
    /// Measure a ztunnel beside the node proxy, fed by our xds-server and authority (needs `nft`)
    #[arg(long, value_name = "ztunnel=PATH", conflicts_with_all = ["gate", "scale"])]
    peer: Option<String>,
    /// Write all figures into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure a mesh of full size instead: 255 clusters, 10,000 services, 100,000 endpoints (`-- --help` shows its arguments)
    #[arg(long, conflicts_with_all = ["filter", "quick", "gate", "json"])]
    scale: bool,
    /// Further arguments for the bench program
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run_all(workspace)?;
    let _lock = RunLock::take()?;
    say::heading("build");
    workspace.build_programs()?;
    if options.scale {
        return run_scale(workspace, options);
    }
    // The bench program runs the load program that lies beside it.
    workspace
        .cargo()
        .args(["build", "--release", "--quiet", "--package", "tulle-e2e"])
        .args(["--bin", "bench", "--bin", "load"])
        .limit(BUILD_LIMIT)
        .run()?;
    setup::clean_lab(workspace)?;
    say::heading("measurements");
    arguments(workspace, options)?
        .env("TULLE_BIN_DIR", workspace.programs())
        .limit(BENCH_LIMIT)
        .run()
}

fn arguments(workspace: &Workspace, options: &Options) -> Result<Run> {
    let mut run = Run::new(workspace.programs().join("bench"))
        .folder(workspace.root())
        .arg("--chart")
        .arg(workspace.target().join("bench"));
    for part in &options.filter {
        run = run.args(["--filter", part]);
    }
    if options.quick {
        run = run.arg("--quick");
    }
    if let Some(file) = &options.json {
        // The program runs in the repository's folder, and the user may be elsewhere.
        run = run.arg("--json").arg(path::absolute(file)?);
    }
    if let Some(peer) = &options.peer {
        run = run.arg("--peer").arg(absolute_peer(peer)?);
    }
    if options.gate {
        run = run.arg("--gate").arg(workspace.root().join(BASELINE));
    } else if !options.quick && options.filter.is_empty() && options.peer.is_none() {
        // Only a whole run may speak for the project.
        run = run.arg("--readme").arg(workspace.root().join("README.md"));
    }
    Ok(run.args(&options.arguments))
}

/// The program runs in the repository's folder, and the user may be elsewhere.
fn absolute_peer(peer: &str) -> Result<String> {
    match peer.split_once('=') {
        Some((kind, file)) => Ok(format!("{kind}={}", path::absolute(file)?.display())),
        // The program says what is wrong with it.
        None => Ok(peer.to_owned()),
    }
}

fn run_scale(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::clean_lab(workspace)?;
    say::heading("a mesh of full size");
    workspace
        .cargo()
        .args(["run", "--release", "--quiet", "--package", "tulle-bench"])
        .args(["--bin", "scale", "--"])
        .args(&options.arguments)
        .env("TULLE_BIN_DIR", workspace.programs())
        .limit(BENCH_LIMIT)
        .run()
}
