//! What one workload's traffic costs another: two clients on one node, each with a server of its own on another node, so that all they share is
//! the machine and, in the mesh, the proxies. Direct TCP shares the machine too: its figures are what the mesh's have to be held against.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    head_of_line::SlowLink,
    http::{self, HTTP1_PORT, READ},
};
use crate::bench::{
    Mode, Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, Path, Place, number},
    stage::{CLIENT, CLIENT_CLUSTER, CLIENT_NODE, PORT, finish},
};

/// Small requests by the clock beside another workload's upload.
pub(in crate::bench) struct Elephant;
/// HTTP requests that policy reads, beside another workload's flood of them.
pub(in crate::bench) struct Flood;

impl Part for Elephant {
    fn name(&self) -> &'static str {
        "fairness"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        neighbour(place)?;
        let server = neighbours_server(place)?;
        let length = (place.settings.length * 2).max(LENGTH_MIN);
        let alone = paced(place, server, length)?;
        let mut samples = Vec::new();
        samples.extend(latencies("alone", &alone, None)?);
        let link = SlowLink::begin(place.stage)?;
        let (beside, _) = beside_upload(place, server, length)?;
        link.end()?;
        let what = "beside an upload over a link of 300 Mbit/s";
        samples.extend(latencies(what, &beside, Some(&alone))?);
        let (beside, moved) = beside_upload(place, server, length)?;
        samples.extend(latencies("beside an upload", &beside, Some(&alone))?);
        let figure = Figure::new("the upload", Unit::MegabytesPerSecond);
        samples.push(figure.of(number(&moved, "bytes_per_second")? / 1e6));
        Ok(samples)
    }
}

impl Part for Flood {
    fn name(&self) -> &'static str {
        "fairness"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn not_for_peer(&self) -> Option<&'static str> {
        Some("the policy reads requests, which a ztunnel does not")
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        neighbour(place)?;
        let floods = http::server(place, READ, CLIENT)?;
        let own = http::server(place, &format!("{READ}-too"), NEIGHBOUR)?;
        let (floods, own) = (
            SocketAddr::new(floods, HTTP1_PORT),
            SocketAddr::new(own, HTTP1_PORT),
        );
        let length = (place.settings.length * 2).max(LENGTH_MIN);
        let alone = Wrk::start(place, NEIGHBOUR, own, NEIGHBOURS, length)?.finish()?;
        let flood = Wrk::start(place, CLIENT, floods, FLOODERS, length + MORE)?;
        place.rest(MORE / 2);
        let beside = Wrk::start(place, NEIGHBOUR, own, NEIGHBOURS, length)?.finish()?;
        let flood = flood.finish()?;
        let rate = |name: &str, rate| Figure::new(name, Unit::PerSecond).of(rate);
        let share = |name: &str, share| Figure::new(name, Unit::Share).headline(true).of(share);
        let p50 = |name: &str, micros| Figure::new(name, Unit::Micros).of(micros);
        Ok(vec![
            rate("HTTP, 8 connections alone", alone.rate),
            rate(
                "HTTP, 8 connections beside 64 of another workload",
                beside.rate,
            ),
            rate("HTTP, the 64 connections", flood.rate),
            p50("HTTP, 8 connections alone, p50", alone.p50),
            p50(
                "HTTP, 8 connections beside 64 of another workload, p50",
                beside.p50,
            ),
            share(
                "HTTP, rate of 8 connections beside 64 ÷ alone",
                beside.rate / alone.rate,
            ),
            share(
                "HTTP, share of 8 connections of all requests beside 64",
                beside.rate / (beside.rate + flood.rate),
            ),
        ])
    }
}

/// The other client, made when it is first asked for.
fn neighbour(place: &Place<'_>) -> Result<()> {
    let stage = place.stage;
    if stage.address(CLIENT_CLUSTER, NEIGHBOUR).is_ok() {
        return Ok(());
    }
    stage.create_pod(CLIENT_CLUSTER, CLIENT_NODE, NEIGHBOUR, &["sleep", "100000"])
}

/// The server of the other client alone, made when it is first asked for.
fn neighbours_server(place: &Place<'_>) -> Result<SocketAddr> {
    let stage = place.stage;
    if let Ok(address) = stage.address(CLIENT_CLUSTER, NEIGHBOURS_SERVER) {
        return Ok(SocketAddr::new(address, PORT));
    }
    if stage.mode() != Mode::Direct {
        stage.lab.apply_text(CLIENT_CLUSTER, &format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {NEIGHBOURS_SERVER}}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{name: {NEIGHBOURS_SERVER}}}}}\n  ingress:\n  - fromEndpoints:\n    \
             - matchLabels: {{name: {NEIGHBOUR}}}\n"
        ))?;
    }
    let load = place.settings.load.to_str();
    let load = load.context("the load program's path")?;
    let listen = format!("0.0.0.0:{PORT}");
    let command = [load, "serve", &listen];
    stage.create_pod(
        CLIENT_CLUSTER,
        place.path.node(),
        NEIGHBOURS_SERVER,
        &command,
    )?;
    let address = stage.address(CLIENT_CLUSTER, NEIGHBOURS_SERVER)?;
    let server = SocketAddr::new(address, PORT);
    place.wait_for("the neighbour's server answers", || {
        let command = [load, "hold", &server.to_string(), "--connections", "1"];
        Ok(finish(stage.start_in(NEIGHBOUR, &command)?, MORE * 5).is_ok())
    })?;
    Ok(server)
}

/// The neighbour's requests.
fn paced(place: &Place<'_>, server: SocketAddr, length: Duration) -> Result<Value> {
    let load = place.settings.load.to_string_lossy();
    let (server, seconds) = (server.to_string(), length.as_secs_f64().to_string());
    let command = [
        &*load,
        "paced",
        &server,
        "--rate",
        "200",
        "--seconds",
        &seconds,
    ];
    let child = place.stage.start_in(NEIGHBOUR, &command)?;
    let output = finish(child, length * 10)?;
    serde_json::from_slice(&output.stdout).context("paced")
}

/// The neighbour's requests while the client uploads to a server of its own, and what that moved.
fn beside_upload(
    place: &Place<'_>,
    server: SocketAddr,
    length: Duration,
) -> Result<(Value, Value)> {
    let seconds = (length + MORE).as_secs_f64().to_string();
    let upload = place.start("upload", &["--seconds", &seconds])?;
    // Until the upload has filled what it can fill.
    place.rest(MORE / 2);
    let beside = paced(place, server, length)?;
    let output = finish(upload, length * 10)?;
    let moved = serde_json::from_slice(&output.stdout).context("upload")?;
    Ok((beside, moved))
}

fn latencies(what: &str, seen: &Value, alone: Option<&Value>) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for (name, field) in [("p50", "p50_us"), ("p99", "p99_us")] {
        let micros = number(seen, field)?;
        let name = format!("200 requests/s {what}, {name}");
        samples.push(Figure::new(&name, Unit::Micros).of(micros));
        if let Some(alone) = alone {
            let times = Figure::new(format!("{name} ÷ alone"), Unit::Times);
            let times = times.headline(field == "p99_us");
            samples.push(times.of(micros / number(alone, field)?));
        }
    }
    Ok(samples)
}

/// A load of HTTP/1.1 under way.
struct Wrk {
    child: std::process::Child,
    limit: Duration,
}

/// What it came to.
struct Seen {
    rate: f64,
    p50: f64,
}

impl Wrk {
    fn start(
        place: &Place<'_>,
        pod: &str,
        server: SocketAddr,
        connections: u32,
        length: Duration,
    ) -> Result<Wrk> {
        let (connections, seconds) = (format!("-c{connections}"), length.as_secs().max(1));
        let (duration, url) = (format!("{seconds}s"), format!("http://{server}/"));
        let command = [
            "wrk",
            "-t1",
            &connections,
            "-d",
            &duration,
            "--latency",
            &url,
        ];
        Ok(Wrk {
            child: place.stage.start_in(pod, &command)?,
            limit: length * 10,
        })
    }

    fn finish(self) -> Result<Seen> {
        let output = finish(self.child, self.limit)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (rate, p50) = http::wrk(&text).context(text)?;
        Ok(Seen { rate, p50 })
    }
}

const NEIGHBOUR: &str = "neighbour";
const NEIGHBOURS_SERVER: &str = "neighbours-server";
const NEIGHBOURS: u32 = 8;
const FLOODERS: u32 = 64;
const LENGTH_MIN: Duration = Duration::from_secs(1);
/// How much longer the other workload goes on, half of it before and half of it after.
const MORE: Duration = Duration::from_secs(1);
