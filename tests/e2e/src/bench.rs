//! The measurements: direct TCP and the mesh side by side, in one run on one machine.
//!
//! Decides what is measured and in which order. Both rigs stand at once and take turns load by load, so that whatever else the
//! machine does touches both alike. A load that fails ends the run: a figure is what was seen, never a guess.

mod figure;
mod machine;
mod memory;
mod proxy;
mod readme;
mod report;
mod samples;
mod stage;

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use self::{
    figure::{Figure, LOADS, Load},
    machine::Machine,
    proxy::Proxy,
    samples::Samples,
    stage::{PATHS, Stage},
};
pub use self::{readme::write_table, report::Report};

/// How the measurements are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often each load runs on each path of each rig, at most.
    pub rounds: usize,
    /// How long each load runs.
    pub seconds: u64,
    /// How many idle connections the node proxies' memory is measured with.
    pub connections: usize,
    /// The node proxies' sockmap mode, if not their default.
    pub sockmap: Option<String>,
    /// No round begins that would end later than this after the start.
    pub limit: Duration,
    /// The load program.
    pub load: PathBuf,
    /// Where `node-proxy`, `xds-server` and `tulle` lie.
    pub binaries: PathBuf,
}

/// What carries a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    /// Plain routing.
    Direct,
    /// The mesh.
    Mesh,
}

/// Both rigs.
struct Stages {
    direct: Stage,
    mesh: Stage,
}

/// Brings both rigs up, measures, takes them down; `say` gets a line for each step.
///
/// # Errors
/// When a rig does not come up, or with the first load that fails.
pub fn run(settings: &Settings, say: &mut dyn FnMut(&str)) -> Result<Report> {
    ensure!(settings.rounds > 0, "at least one round is needed");
    ensure!(settings.seconds > 0, "a load needs at least one second");
    let begun = Instant::now();
    let machine = Machine::look()?;
    say(&format!("machine: {machine}"));
    let stages = Stages {
        direct: Stage::up(Mode::Direct, settings)?,
        mesh: Stage::up(Mode::Mesh, settings)?,
    };
    say(&format!(
        "both rigs stand after {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    // Before the loads, which leave the proxies with more memory than an idle one has.
    let memory = memory::measure(&stages.mesh, settings)?;
    for proxy in &memory {
        say(&proxy.to_string());
    }
    let mut samples = Samples::default();
    let mut rounds = 0;
    let mut longest = Duration::ZERO;
    while rounds < settings.rounds {
        if rounds > 0 && begun.elapsed() + longest > settings.limit {
            say("the time is used up");
            break;
        }
        let round = Instant::now();
        measure_round(&stages, settings, rounds, &mut samples)?;
        longest = longest.max(round.elapsed());
        rounds += 1;
        say(&format!(
            "round {rounds} took {:.0} s",
            round.elapsed().as_secs_f64()
        ));
    }
    Ok(Report {
        machine,
        settings: settings.clone(),
        rounds,
        elapsed: begun.elapsed(),
        samples,
        memory,
    })
}

fn measure_round(
    stages: &Stages,
    settings: &Settings,
    round: usize,
    samples: &mut Samples,
) -> Result<()> {
    // Who comes first changes, so that neither always runs on the caches that the other has left.
    let order = match round % 2 {
        0 => [Mode::Direct, Mode::Mesh],
        _ => [Mode::Mesh, Mode::Direct],
    };
    for path in 0..PATHS.len() {
        for load in LOADS {
            for mode in order {
                for (figure, of, value) in measure(stages, settings, path, load, mode)? {
                    samples.add(path, figure, of, value);
                }
            }
        }
    }
    Ok(())
}

fn measure(
    stages: &Stages,
    settings: &Settings,
    path: usize,
    load: Load,
    mode: Mode,
) -> Result<Vec<(Figure, Mode, f64)>> {
    let proxies = stages.mesh.proxies(path)?;
    let before = processor_times(&proxies)?;
    let begun = Instant::now();
    let stage = match mode {
        Mode::Direct => &stages.direct,
        Mode::Mesh => &stages.mesh,
    };
    let answer = stage.run(settings, path, load)?;
    let elapsed = begun.elapsed().as_secs_f64();
    let spent = processor_times(&proxies)?
        .into_iter()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before).as_secs_f64());
    let mut figures: Vec<(Figure, Mode, f64)> = load
        .figures(&answer)?
        .into_iter()
        .map(|(figure, value)| (figure, mode, value))
        .collect();
    match (mode, load.bytes(&answer)) {
        // What the proxies do while nothing passes them is also part of what they use under load: the reader has to know it.
        (Mode::Direct, _) => figures.extend(
            [Figure::IdleProcessorOfClient, Figure::IdleProcessorOfServer]
                .into_iter()
                .zip(spent)
                .map(|(figure, spent)| (figure, Mode::Mesh, spent / elapsed)),
        ),
        (Mode::Mesh, Some(bytes)) => figures.extend(
            [Figure::ProcessorOfClient, Figure::ProcessorOfServer]
                .into_iter()
                .zip(spent)
                .map(|(figure, spent)| (figure, Mode::Mesh, spent / (bytes / GIGABYTE))),
        ),
        (Mode::Mesh, None) => {}
    }
    Ok(figures)
}

fn processor_times(proxies: &[Proxy]) -> Result<Vec<Duration>> {
    proxies.iter().map(Proxy::processor_time).collect()
}

const GIGABYTE: f64 = 1e9;
