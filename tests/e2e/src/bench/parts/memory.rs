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
    proxy::{Holdings, Proxy},
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
            let (before, side) = (proxy.processor_time()?, proxy.side);
            place.rest(IDLE);
            let spent = proxy.processor_time()?.saturating_sub(before);
            let resident = proxy.holdings()?.resident / 1e6;
            let figure = Figure::new(format!("RSS idle, {side}'s proxy"), Unit::Megabytes);
            samples.push(figure.headline(side == "client").of(resident));
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
        let counts: &[u32] = if place.settings.quick {
            &[1_000]
        } else {
            &[1_000, 10_000]
        };
        // Memory that an earlier load made the proxies take would hide what these connections need.
        let before = holdings(&place.proxies()?)?;
        let mut samples = Vec::new();
        for count in counts {
            let what = format!("per idle connection of {count}");
            samples.extend(held(place, &before, *count, 0, &what)?);
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
        let before = holdings(&place.proxies()?)?;
        held(
            place,
            &before,
            200,
            12_000_000,
            "per idle connection of 200 that moved 12 MB",
        )
    }
}

/// Opens the connections, and looks at what the proxies hold more than before.
fn held(
    place: &Place<'_>,
    before: &[Holdings],
    count: u32,
    moved: u64,
    what: &str,
) -> Result<Vec<Sample>> {
    let proxies = place.proxies()?;
    let (connections, moved) = (count.to_string(), moved.to_string());
    let child = place.start("hold", &["--connections", &connections, "--moved", &moved])?;
    let child = wait_until_held(child)?;
    // What is given back on idle is given back now.
    place.rest(IDLE);
    let meanwhile = holdings(&proxies)?;
    finish(child, RELEASE_DEADLINE)?;
    let seen = proxies.iter().zip(before.iter().zip(&meanwhile));
    Ok(seen
        .map(|(proxy, (before, meanwhile))| {
            let each = (meanwhile.resident - before.resident) / f64::from(count) / 1024.0;
            let name = format!("{what}, {}'s proxy", proxy.side);
            Figure::new(name, Unit::Kibibytes)
                .headline(count >= 1_000)
                .of(each)
        })
        .collect())
}

fn holdings(proxies: &[Proxy]) -> Result<Vec<Holdings>> {
    proxies.iter().map(Proxy::holdings).collect()
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

const IDLE: Duration = Duration::from_secs(2);
const HOLD_DEADLINE: Duration = Duration::from_secs(120);
const RELEASE_DEADLINE: Duration = Duration::from_secs(60);
