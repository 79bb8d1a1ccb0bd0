//! Makes a machine fit for the lab and the tests.
//!
//! It decides what is missing and installs only that. What cannot be installed (a kernel feature, root) ends in one sentence
//! each that names the command that mends it. A second call finds everything in place and is fast.

mod kernel;
mod linker;
mod packages;
mod toolchain;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    lock::{self, LastRun},
    process::Run,
    say,
    workspace::Workspace,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Only what a build needs: no root, no kernel features, no programs for the lab
    #[arg(long)]
    build_only: bool,
}

/// What the machine shall be able to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Building,
    Running,
}

/// `cargo xtask setup`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.build_only {
        prepare(workspace, Purpose::Building)
    } else {
        run_all(workspace)
    }
}

/// Installs what is missing for the lab and the tests, checks the rest, and removes what a killed run left.
pub(crate) fn run_all(workspace: &Workspace) -> Result<()> {
    prepare(workspace, Purpose::Running)?;
    if lock::last_run() == LastRun::WasKilled && workspace.tulle().is_file() {
        say::line("   the last run was killed; its lab is taken down");
        clean_lab(workspace)?;
        // Taking and releasing the lock forgets the killed run.
        drop(lock::RunLock::take()?);
    }
    Ok(())
}

/// Removes every namespace, process, pin and mount of the lab, whoever left them.
pub(crate) fn clean_lab(workspace: &Workspace) -> Result<()> {
    Run::new(workspace.tulle()).args(["lab", "down"]).run()
}

fn prepare(workspace: &Workspace, purpose: Purpose) -> Result<()> {
    let started = Instant::now();
    say::heading("set-up");
    let missing = match purpose {
        Purpose::Building => Vec::new(),
        Purpose::Running => kernel::missing(),
    };
    if !missing.is_empty() {
        bail!(
            "this machine cannot run Tulle yet:\n  - {}",
            missing.join("\n  - ")
        );
    }
    packages::install_missing(purpose)?;
    let toolchain = toolchain::Toolchain::locate(workspace)?;
    toolchain.add_missing_components(workspace)?;
    linker::install_missing(workspace, &toolchain)?;
    say::held("this machine has what Tulle needs", started.elapsed());
    Ok(())
}
