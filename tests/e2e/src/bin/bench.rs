//! Measures direct TCP and the mesh side by side: see `tulle_e2e::bench`. Progress and the table go to standard error.

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tulle_e2e::bench::{self, Baseline, Peer, Report, Settings, Verdict};

#[derive(Debug, Parser)]
struct Arguments {
    /// How often each load runs, on each path, directly and through the mesh [default: 5; 3 with --quick, 9 with --gate]
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each load runs [default: 1; 0.25 with --quick or --gate]
    #[arg(long)]
    seconds: Option<f64>,
    /// Only these parts (several: repeat, or separate by commas)
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    /// Small loads, and only those that say most: at most 90 seconds
    #[arg(long)]
    quick: bool,
    /// Compare ratios and counts with this file, and fail when one is worse
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filter", "quick", "readme"])]
    gate: Option<PathBuf>,
    /// The node proxies' sockmap mode, if not their default
    #[arg(long, value_parser = ["off", "to-proxy", "full"])]
    sockmap: Option<String>,
    /// What the node proxies pace, if not their default
    #[arg(long, value_parser = ["auto", "system"])]
    pacing: Option<String>,
    /// Measure another mesh's node proxy beside ours, by its program; it is fed by our xds-server
    #[arg(long, value_name = "ztunnel=PATH", conflicts_with = "gate")]
    peer: Option<Peer>,
    /// Nothing begins later than so many seconds after the start [default: 2400; 75 with --quick]
    #[arg(long)]
    limit: Option<u64>,
    /// Write the figures into this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the ratios into this folder
    #[arg(long, value_name = "FOLDER")]
    chart: Option<PathBuf>,
    /// Write the short table between the markers of this file
    #[arg(long)]
    readme: Option<PathBuf>,
    /// Name the parts, and measure nothing
    #[arg(long)]
    list: bool,
}

#[expect(clippy::print_stdout, reason = "the names are this program's output")]
fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        println!("{}", bench::part_names().join("\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let baseline = arguments.gate.as_deref().map(Baseline::read).transpose()?;
    let settings = settings(&arguments)?;
    let report = bench::run(&settings, &mut |line| eprintln!("{line}"))?;
    write(&arguments, &report)?;
    let verdicts = baseline.map_or_else(Vec::new, |baseline| baseline.judge(&report));
    for verdict in &verdicts {
        eprintln!("{verdict}");
    }
    let failures = report.failures();
    for failure in &failures {
        eprintln!("{failure}");
    }
    let is_good = failures.is_empty() && verdicts.iter().all(Verdict::holds);
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    eprintln!("\n{}", report.markdown(false));
    if let Some(file) = &arguments.json {
        let json = serde_json::to_string_pretty(&report.json())?;
        fs::write(file, json + "\n").with_context(|| file.display().to_string())?;
    }
    if let Some(folder) = &arguments.chart {
        bench::write_charts(report, folder)?;
    }
    match &arguments.readme {
        Some(file) => bench::write_table(file, &report.markdown(true)),
        None => Ok(()),
    }
}

fn settings(arguments: &Arguments) -> Result<Settings> {
    let binaries = env::var_os("TULLE_BIN_DIR").map(PathBuf::from).context(
        "TULLE_BIN_DIR is not set: run `cargo xtask bench`, or set it to target/release after `cargo build --release`",
    )?;
    let load = env::current_exe()?.with_file_name("load");
    ensure!(
        load.is_file(),
        "the load program {} is missing; `cargo build -p tulle-e2e --bins` makes it",
        load.display()
    );
    let (quick, gate) = (arguments.quick, arguments.gate.is_some());
    let rounds = match (quick, gate) {
        (true, _) => 3,
        (_, true) => 9,
        _ => 5,
    };
    let seconds = arguments.seconds;
    let seconds = seconds.unwrap_or(if quick || gate { 0.25 } else { 1.0 });
    let limit = arguments.limit.unwrap_or(if quick { 75 } else { 2400 });
    Ok(Settings {
        rounds: arguments.rounds.unwrap_or(rounds),
        length: Duration::try_from_secs_f64(seconds)?,
        quick,
        filter: arguments.filter.clone(),
        gate,
        sockmap: arguments.sockmap.clone(),
        pacing: arguments.pacing.clone(),
        limit: Duration::from_secs(limit),
        load,
        binaries,
        peer: arguments.peer.clone(),
    })
}
