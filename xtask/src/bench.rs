//! The measurements: builds the programs, runs the bench program, which fills the table of README.md.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::{lock::RunLock, say, setup, workspace::Workspace};

const BENCH_LIMIT: Duration = Duration::from_mins(60);

#[derive(Args)]
pub(crate) struct Options {
    /// Further arguments for the bench program
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run_all(workspace)?;
    let _lock = RunLock::take()?;
    say::heading("build");
    workspace.build_programs()?;
    setup::clean_lab(workspace)?;
    say::heading("measurements");
    workspace
        .cargo()
        .args([
            "run",
            "--release",
            "--quiet",
            "--package",
            "tulle-e2e",
            "--bin",
            "bench",
            "--",
        ])
        .args(&options.arguments)
        .env("TULLE_BIN_DIR", workspace.programs())
        .env("TULLE_README", workspace.root().join("README.md"))
        .limit(BENCH_LIMIT)
        .run()
}
