//! The fuzz targets, guided by what each input reaches.
//!
//! The crates of the workspace are built a second time, with counters; everything else is used as it is.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::{lock::RunLock, say, workspace::Workspace};

const BUILD_LIMIT: Duration = Duration::from_mins(20);
/// The targets follow each other, and there may be as many as this.
const TARGETS_MAX: u64 = 64;
/// What one input may take beyond the time of its target, and more.
const GRACE: Duration = Duration::from_mins(2);

#[derive(Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
    /// Where to begin; the same seed makes the same inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let _lock = RunLock::take()?;
    let wrapper = workspace.root().join("tests/fuzz/rustc-coverage.sh");
    let cargo = |command: &str| {
        workspace
            .cargo()
            .args([
                command,
                "--quiet",
                "--package",
                "tulle-fuzz",
                "--bin",
                "fuzz",
            ])
            .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
    };
    say::heading("build");
    cargo("build").limit(BUILD_LIMIT).run()?;
    say::heading("fuzz");
    let (seconds, seed) = (options.seconds.to_string(), options.seed.to_string());
    let mut fuzz = cargo("run")
        .args(["--", "--seconds", &seconds, "--seed", &seed, "--findings"])
        .arg(workspace.target().join("fuzz-findings"))
        .limit(Duration::from_secs(options.seconds.saturating_mul(TARGETS_MAX)) + GRACE);
    if let Some(target) = &options.target {
        fuzz = fuzz.args(["--target", target]);
    }
    fuzz.run()
}
