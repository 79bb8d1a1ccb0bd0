//! `fuzz`: runs targets for a time each.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tulle_fuzz::{Limits, TARGETS, find, fuzz};

#[derive(Parser)]
#[command(about = "Feeds the parsers of foreign bytes with what nobody would send")]
struct Arguments {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
    /// Where to begin; the same seed makes the same inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where an input is left that breaks a promise
    #[arg(long, default_value = "target/fuzz-findings")]
    findings: PathBuf,
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let targets = match &arguments.target {
        Some(name) => {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            let found = find(name);
            vec![found.with_context(|| format!("{name:?} is no target: {}", names.join(", ")))?]
        }
        None => TARGETS.iter().collect(),
    };
    let limits = Limits {
        time: Duration::from_secs(arguments.seconds),
        seed: arguments.seed,
        findings: arguments.findings,
    };
    let mut failures = 0;
    for target in targets {
        match fuzz(target, &limits) {
            Ok(report) => println!(
                "{:16} {} inputs, {} kept, {} edges",
                target.name, report.inputs, report.kept, report.edges
            ),
            Err(failure) => {
                failures += 1;
                println!("{:16} {failure}", target.name);
            }
        }
    }
    if failures > 0 {
        bail!("{failures} targets broke a promise (seed {})", limits.seed);
    }
    Ok(())
}
