//! `cargo xtask lab`: the machine set up, the programs built, the story played, the lab taken down.

pub(crate) mod driver;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use self::driver::Lab;
use crate::{lock::RunLock, process::Run, say, setup, story, workspace::Workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Leaves the lab up, whether the story held or not
    #[arg(long)]
    keep: bool,
    /// The name of the lab, if several shall stand on this machine
    #[arg(long, default_value = "lab")]
    rig: String,
    /// Plays the story with the programs as they were built last
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let started = Instant::now();
    setup::run_all(workspace)?;
    let _lock = RunLock::take()?;
    if !options.no_build {
        say::heading("build");
        workspace.build_programs()?;
    }
    let lab = Lab::new(workspace, &options.rig);
    say::heading("whatever an earlier run left goes");
    lab.down()?;
    let played = story::play(workspace, &lab);
    if played.is_err() {
        save_logs(workspace, &lab);
    }
    if options.keep {
        say::heading(format_args!(
            "the lab stays up; try `{0} lab status`, end it by `{0} lab down`",
            workspace.tulle().display()
        ));
    } else {
        say::heading("the lab goes");
        // A step that failed is the cause to report, also when taking down fails after it.
        let down = lab.down();
        if played.is_ok() {
            down?;
        }
    }
    played?;
    say::heading(format_args!(
        "every step held ({:.0} s)",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Keeps the logs of a failed run where the next build does not remove them.
fn save_logs(workspace: &Workspace, lab: &Lab) {
    let folder = workspace.target().join("lab-logs");
    let copied = Run::new("cp")
        .arg("-rT")
        .arg(lab.logs())
        .arg(&folder)
        .limit(Duration::from_secs(30))
        .output();
    if copied.is_ok() {
        say::line(format_args!(
            "   the logs of the lab's programs: {}",
            folder.display()
        ));
    }
}
