//! The measurements: builds the programs, runs the bench program, which fills the table of README.md, or the one that simulates a
//! large mesh.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::{lock::RunLock, say, setup, workspace::Workspace};

const BUILD_LIMIT: Duration = Duration::from_mins(20);
const BENCH_LIMIT: Duration = Duration::from_mins(60);

#[derive(Args)]
pub(crate) struct Options {
    /// Measure a mesh of full size instead: 255 clusters, 10,000 services, 100,000 endpoints (`-- --help` shows its arguments)
    #[arg(long)]
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
    workspace
        .cargo()
        .args(["run", "--release", "--quiet", "--package", "tulle-e2e"])
        .args(["--bin", "bench", "--", "--readme"])
        .arg(workspace.root().join("README.md"))
        .args(&options.arguments)
        .env("TULLE_BIN_DIR", workspace.programs())
        .limit(BENCH_LIMIT)
        .run()
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
