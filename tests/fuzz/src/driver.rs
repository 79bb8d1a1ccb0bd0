//! Runs one target for a time.

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{coverage::Coverage, mutate::mutate, random::Random, target::Target};

/// How long, and from where.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long to go on.
    pub time: Duration,
    /// The same seed makes the same inputs, as long as the code is the same.
    pub seed: u64,
    /// Where an input is left that broke a promise.
    pub findings: PathBuf,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How many inputs were tried.
    pub inputs: u64,
    /// How many are kept to be changed further.
    pub kept: usize,
    /// How many edges of the control flow were taken; 0 = nobody counted.
    pub edges: usize,
}

/// A promise was broken, or could not be tried.
#[derive(Debug)]
pub enum Failure {
    /// The target panicked; the input lies there.
    Panic(PathBuf),
    /// The target took longer than any input may take; the input lies there.
    Slow(PathBuf, Duration),
    /// The inputs cannot be read, or a finding not be written.
    Files(io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Panic(path) => write!(f, "it panics on {}", path.display()),
            Failure::Slow(path, time) => {
                write!(f, "it takes {} ms for {}", time.as_millis(), path.display())
            }
            Failure::Files(error) => write!(f, "the inputs cannot be read or written: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Files(error)
    }
}

/// Tries all that is known of the target's inputs, then changes of it until the time is over.
///
/// # Errors
/// An input broke a promise; it was left among the findings.
pub fn fuzz(target: &Target, limits: &Limits) -> Result<Report, Failure> {
    let started = Instant::now();
    let mut random = Random::new(limits.seed);
    let mut coverage = Coverage::default();
    let mut inputs = 0;
    let mut kept = (target.seeds)();
    kept.extend(committed(target.name)?);
    if kept.is_empty() {
        kept.push(Vec::new());
    }
    for input in &kept {
        try_one(target, input, limits)?;
        coverage.take();
        inputs += 1;
    }
    while started.elapsed() < limits.time {
        let (Some(input), Some(other)) = (random.pick(&kept), random.pick(&kept)) else {
            break;
        };
        let input = mutate(input, other, target.words, INPUT_LEN_MAX, &mut random);
        try_one(target, &input, limits)?;
        inputs += 1;
        if coverage.take() && kept.len() < KEPT_MAX {
            kept.push(input);
        }
    }
    Ok(Report {
        inputs,
        kept: kept.len(),
        edges: coverage.edges(),
    })
}

fn try_one(target: &Target, input: &[u8], limits: &Limits) -> Result<(), Failure> {
    if Coverage::is_there() {
        Coverage::reset();
    }
    let started = Instant::now();
    let run = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = started.elapsed();
    if run.is_err() {
        return Err(Failure::Panic(leave(target, input, limits)?));
    }
    if took > INPUT_TIME_MAX {
        return Err(Failure::Slow(leave(target, input, limits)?, took));
    }
    Ok(())
}

fn leave(target: &Target, input: &[u8], limits: &Limits) -> io::Result<PathBuf> {
    let folder = limits.findings.join(target.name);
    fs::create_dir_all(&folder)?;
    // FNV-1a: a name that the same input always has.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("{hash:016x}"));
    fs::write(&path, input)?;
    Ok(path)
}

/// The inputs in `corpus/<target>`: good ones to begin with, and all that ever broke a promise.
fn committed(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// Long enough for every construct, short enough for thousands of inputs per second.
const INPUT_LEN_MAX: usize = 4096;
/// What a guided run keeps; a few thousand inputs are enough to reach what can be reached in minutes.
const KEPT_MAX: usize = 4096;
/// On a busy machine without optimisation; anything that grows faster than its input shows.
const INPUT_TIME_MAX: Duration = Duration::from_secs(5);
