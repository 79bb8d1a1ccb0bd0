//! Measures direct TCP and the mesh side by side: see `tulle_e2e::bench`. Progress goes to standard error.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tulle_e2e::bench::{self, Settings};

#[derive(Debug, Parser)]
struct Arguments {
    /// How often each load runs, on each path, directly and through the mesh.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each load runs.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// How many idle connections the node proxies' memory is measured with.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// The node proxies' sockmap mode, if not their default.
    #[arg(long, value_parser = ["off", "to-proxy", "full"])]
    sockmap: Option<String>,
    /// No round begins that would end later than so many seconds after the start.
    #[arg(long, default_value_t = 220)]
    limit: u64,
    /// Write the figures into this file instead of standard output.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table between the markers of this file.
    #[arg(long)]
    readme: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let settings = settings(&arguments)?;
    let report = bench::run(&settings, &mut |line| eprintln!("{line}"))?;
    let table = report.markdown();
    eprintln!("\n{table}");
    let json = serde_json::to_string_pretty(&report.json())?;
    match &arguments.json {
        Some(file) => fs::write(file, json + "\n").with_context(|| file.display().to_string())?,
        None => println!("{json}"),
    }
    match &arguments.readme {
        Some(file) => bench::write_table(file, &table),
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
    Ok(Settings {
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        connections: arguments.connections,
        sockmap: arguments.sockmap.clone(),
        limit: Duration::from_secs(arguments.limit),
        load,
        binaries,
    })
}
