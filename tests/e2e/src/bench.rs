//! The measurements: direct TCP and the mesh side by side in one run.
//!
//! Decides which parts are measured, in which order, and how often. All rigs stand at once and take turns load by load, so that whatever
//! else the machine does touches all alike. A part that cannot be measured is told by name and leaves no figure: nothing is estimated.

mod chart;
mod elf;
mod figure;
mod gate;
mod machine;
mod part;
mod parts;
mod peer;
mod place;
mod proxy;
mod readme;
mod report;
mod samples;
mod sizes;
mod stage;
mod trace;

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

pub use self::{
    chart::write_charts,
    gate::{Baseline, Verdict},
    peer::Peer,
    readme::write_table,
    report::Report,
};
use self::{
    machine::Machine,
    part::Part,
    place::{Path, Place},
    samples::Samples,
    stage::Stage,
};

/// How the measurements are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often each load runs on each path of each rig, at most.
    pub rounds: usize,
    /// How long each load runs.
    pub length: Duration,
    /// Small loads, and only those that say most.
    pub quick: bool,
    /// The parts to measure, by name; all if none is named.
    pub filter: Vec<String>,
    /// The node proxies' sockmap mode, if not their default.
    pub sockmap: Option<String>,
    /// What the node proxies pace, if not their default.
    pub pacing: Option<String>,
    /// Nothing begins that would end later than this after the start.
    pub limit: Duration,
    /// The load program.
    pub load: PathBuf,
    /// Where `node-proxy`, `xds-server` and `tulle` lie.
    pub binaries: PathBuf,
    /// Only what the gate looks at.
    pub gate: bool,
    /// What else takes the node proxy's place.
    pub peer: Option<Peer>,
}

impl Settings {
    /// What the node proxies are told beyond their defaults.
    fn node_proxy_arguments(&self) -> Vec<&str> {
        let modes = [("--sockmap", &self.sockmap), ("--pacing", &self.pacing)];
        let told = modes
            .into_iter()
            .filter_map(|(name, mode)| Some([name, mode.as_deref()?]));
        told.flatten().collect()
    }
}

/// What carries a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    /// Plain routing.
    Direct,
    /// The mesh.
    Tulle,
    /// The mesh's control plane, with a ztunnel on each node.
    Ztunnel,
}

/// Something that was to be measured and could not be.
#[derive(Debug, Clone)]
struct Failure {
    part: &'static str,
    path: Path,
    mode: Mode,
    reason: String,
}

/// What the peer is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LeftOut {
    part: &'static str,
    /// Everywhere, if none is named.
    path: Option<Path>,
    reason: &'static str,
}

/// The names of all parts, for `--filter`.
pub fn part_names() -> Vec<&'static str> {
    let mut names: Vec<_> = parts::all().iter().map(|part| part.name()).collect();
    names.dedup();
    names
}

/// Brings the rigs up, measures, takes them down; `say` gets a line for each step.
///
/// # Errors
/// When a rig does not come up, or the filter names no part.
pub fn run(settings: &Settings, say: &mut dyn FnMut(&str)) -> Result<Report> {
    ensure!(settings.rounds > 0, "at least one round is needed");
    ensure!(!settings.length.is_zero(), "a load needs some time");
    let parts = parts::chosen(settings)?;
    let begun = Instant::now();
    let machine = Machine::look()?;
    say(&format!("machine: {machine}"));
    let modes = [Mode::Direct, Mode::Tulle, Mode::Ztunnel];
    let modes = modes
        .into_iter()
        .filter(|mode| *mode != Mode::Ztunnel || settings.peer.is_some());
    let stages = modes.map(|mode| Stage::up(mode, settings));
    let mut run = Run {
        settings,
        stages: stages.collect::<Result<_>>()?,
        begun,
        samples: Samples::default(),
        failures: Vec::new(),
        cut: Vec::new(),
        left_out: Vec::new(),
    };
    let elapsed = begun.elapsed().as_secs_f64();
    say(&format!("the rigs stand after {elapsed:.0} s"));
    run.measure(&parts, say);
    Ok(Report {
        machine: machine.after()?,
        settings: settings.clone(),
        elapsed: begun.elapsed(),
        samples: run.samples,
        failures: run.failures,
        cut: run.cut,
        left_out: run.left_out,
    })
}

/// A run under way.
struct Run<'a> {
    settings: &'a Settings,
    stages: Vec<Stage>,
    begun: Instant,
    samples: Samples,
    failures: Vec<Failure>,
    /// The parts that got fewer rounds than wanted for want of time.
    cut: Vec<&'static str>,
    left_out: Vec<LeftOut>,
}

impl Run<'_> {
    fn measure(&mut self, parts: &[Box<dyn Part>], say: &mut dyn FnMut(&str)) {
        let most = parts.iter().map(|part| part.rounds(self.settings)).max();
        for round in 0..most.unwrap_or(0) {
            let begun = Instant::now();
            for part in parts {
                if round < part.rounds(self.settings) {
                    self.measure_part(part.as_ref(), round, say);
                }
            }
            let took = begun.elapsed().as_secs_f64();
            say(&format!("round {} took {took:.0} s", round + 1));
        }
    }

    fn measure_part(&mut self, part: &dyn Part, round: usize, say: &mut dyn FnMut(&str)) {
        let begun = Instant::now();
        self.measure_paths(part, round, say);
        let took = begun.elapsed();
        if took > TOLD_AFTER {
            say(&format!("{} took {:.0} s", part.name(), took.as_secs_f64()));
        }
    }

    fn measure_paths(&mut self, part: &dyn Part, round: usize, say: &mut dyn FnMut(&str)) {
        for path in part.paths(self.settings) {
            if self.begun.elapsed() > self.settings.limit {
                self.cut_short(part, *path, round);
                continue;
            }
            let mut order: Vec<usize> = (0..self.stages.len()).collect();
            // Who comes first changes, so that none always runs on the caches that another has left.
            let turn = round % order.len().max(1);
            order.rotate_left(turn);
            for stage in order.into_iter().filter_map(|at| self.stages.get(at)) {
                let mode = stage.mode();
                let has_failed = self.failures.iter().any(|failure| {
                    failure.part == part.name() && failure.path == *path && failure.mode == mode
                });
                if has_failed || (part.needs_proxy() && mode == Mode::Direct) {
                    continue;
                }
                if let Some(left_out) = left_out(part, *path, mode) {
                    if !self.left_out.contains(&left_out) {
                        self.left_out.push(left_out);
                    }
                    continue;
                }
                let place = Place::new(self.settings, stage, *path);
                match part.measure(&place) {
                    Ok(seen) => self.samples.extend(part.name(), *path, mode, seen),
                    Err(error) => {
                        say(&format!("{}, {path}, {mode}: {error:#}", part.name()));
                        self.failures.push(Failure {
                            part: part.name(),
                            path: *path,
                            mode,
                            reason: format!("{error:#}"),
                        });
                    }
                }
            }
        }
    }

    /// Fewer rounds than wanted are told; what was never measured is a failure.
    fn cut_short(&mut self, part: &dyn Part, path: Path, round: usize) {
        if round > 0 {
            if !self.cut.contains(&part.name()) {
                self.cut.push(part.name());
            }
            return;
        }
        for mode in self.stages.iter().map(Stage::mode) {
            self.failures.push(Failure {
                part: part.name(),
                path,
                mode,
                reason: "the time was used up before its turn".to_owned(),
            });
        }
    }
}

/// What a peer cannot be asked is told, and is no failure: it would not be a question about the same thing.
fn left_out(part: &dyn Part, path: Path, mode: Mode) -> Option<LeftOut> {
    if mode != Mode::Ztunnel {
        return None;
    }
    let (path, reason) = match part.not_for_peer() {
        Some(reason) => (None, reason),
        None if path == Path::TwoClusters => (Some(path), peer::ONE_TRUST_DOMAIN),
        None => return None,
    };
    let part = part.name();
    Some(LeftOut { part, path, reason })
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path {
            Some(path) => write!(f, "{}, {path}: {}", self.part, self.reason),
            None => write!(f, "{}: {}", self.part, self.reason),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Direct => "direct",
            Mode::Tulle => "Tulle",
            Mode::Ztunnel => "ztunnel",
        })
    }
}

/// A part that takes longer is told, so that a reader knows what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(5);
