//! What the proxies hold: idle, per idle connection, and after connections have moved much.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, Path, Place},
    proxy::Holdings,
    stage::finish,
};

/// A proxy that has carried nothing yet.
pub(in crate::bench) struct Idle;
/// Thousands of idle connections.
pub(in crate::bench) struct Held;
/// Idle connections that each moved 12 MB before.
pub(in crate::bench) struct Moved;

impl Part for Idle {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn rounds(&self, _: &Settings) -> usize {
        1
    }

    fn needs_proxy(&self) -> bool {
        true
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let proxies = place.proxies()?;
        let mut samples = Vec::new();
        for proxy in &proxies {
            let held = proxy.holdings_at_rest(place.stage)?;
            let (before, side) = (proxy.processor_time()?, proxy.side);
            place.rest(IDLE);
            let spent = proxy.processor_time()?.saturating_sub(before);
            let figure = Figure::new(format!("RSS idle, {side}'s proxy"), Unit::Megabytes);
            samples.push(figure.headline(side == "client").of(held.resident / 1e6));
            let figure = Figure::new(format!("live heap idle, {side}'s proxy"), Unit::Megabytes);
            let figure = figure.headline(side == "client");
            samples.extend(held.live.map(|live| figure.of(live / 1e6)));
            let figure = Figure::new(format!("CPU idle, {side}'s proxy"), Unit::Cores);
            samples.push(figure.of(spent.as_secs_f64() / IDLE.as_secs_f64()));
        }
        Ok(samples)
    }
}

impl Part for Held {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn rounds(&self, _: &Settings) -> usize {
        1
    }

    fn needs_proxy(&self) -> bool {
        true
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let proxies = place.proxies()?;
        let none = proxies
            .iter()
            .map(|proxy| proxy.holdings_at_rest(place.stage))
            .collect::<Result<Vec<_>>>()?;
        let few = held(place, FEW, 0)?;
        let mut samples = difference(place, &none, &few, FEW, "connection of the first 1,000")?;
        if !place.settings.quick {
            let many = held(place, MANY, 0)?;
            let what = "connection from 1,000 to 10,000";
            samples.extend(difference(place, &few, &many, MANY - FEW, what)?);
        }
        Ok(samples)
    }
}

impl Part for Moved {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn rounds(&self, _: &Settings) -> usize {
        1
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn needs_proxy(&self) -> bool {
        true
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        place.stage.restart_proxies(place.settings, place.path)?;
        let none = place.holdings()?;
        let with = held(place, MOVERS, MOVED)?;
        difference(
            place,
            &none,
            &with,
            MOVERS,
            "connection of 200 that moved 12 MB",
        )
    }
}

/// What the proxies hold while so many connections are idle.
fn held(place: &Place<'_>, count: u32, moved: u64) -> Result<Vec<Holdings>> {
    let (connections, moved) = (count.to_string(), moved.to_string());
    let child = place.start("hold", &["--connections", &connections, "--moved", &moved])?;
    let child = wait_until_held(child)?;
    // What is given back on idle is given back now.
    place.rest(IDLE);
    let meanwhile = place.holdings()?;
    finish(child, RELEASE_DEADLINE)?;
    Ok(meanwhile)
}

/// What each connection of `more` needs, in each proxy of the path. Resident memory may grow by less than what is held, into memory that was
/// free before, or by more, for what was needed for a moment only: the live heap is the figure to trust.
fn difference(
    place: &Place<'_>,
    before: &[Holdings],
    after: &[Holdings],
    more: u32,
    what: &str,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for (proxy, (before, after)) in place.proxies()?.iter().zip(before.iter().zip(after)) {
        let each = |of: fn(&Holdings) -> f64| (of(after) - of(before)) / f64::from(more);
        let name = |kind: &str| format!("{kind} per idle {what}, {}'s proxy", proxy.side);
        let told =
            |after: Option<f64>, before: Option<f64>| Some((after? - before?) / f64::from(more));
        let live = Figure::new(name("live heap"), Unit::Kibibytes).headline(true);
        let grown = told(after.live, before.live);
        samples.extend(grown.map(|bytes| live.of(bytes / 1024.0)));
        let resident = Figure::new(name("RSS"), Unit::Kibibytes);
        samples.push(resident.of(each(|held| held.resident) / 1024.0));
        let tasks = Figure::new(name("tasks"), Unit::Count);
        samples.extend(told(after.tasks, before.tasks).map(|each| tasks.of(each)));
        let files = Figure::new(name("descriptors"), Unit::Count);
        samples.push(files.of(each(|held| held.descriptors)));
    }
    Ok(samples)
}

/// Waits for the word that all connections stand. On an error the load is ended.
fn wait_until_held(mut child: Child) -> Result<Child> {
    let stdout = child.stdout.take();
    let stdout = stdout.context("the load has no standard output")?;
    if let Err(error) = read_held(stdout) {
        child.kill()?;
        let output = child.wait_with_output()?;
        bail!("{error:#}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(child)
}

fn read_held(stdout: ChildStdout) -> Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line).map(|_| line);
        // Nobody listens any more if the deadline is over.
        sender.send(read).ok();
    });
    let line = receiver
        .recv_timeout(HOLD_DEADLINE)
        .context("the connections do not stand")??;
    match line.trim() {
        "held" => Ok(()),
        other => bail!("the load said `{other}`, expected `held`"),
    }
}

const FEW: u32 = 1_000;
const MANY: u32 = 10_000;
const MOVERS: u32 = 200;
const MOVED: u64 = 12_000_000;
const IDLE: Duration = Duration::from_secs(2);
const HOLD_DEADLINE: Duration = Duration::from_secs(120);
const RELEASE_DEADLINE: Duration = Duration::from_secs(60);
