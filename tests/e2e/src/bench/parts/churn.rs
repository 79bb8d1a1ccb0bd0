//! Sustained churn: connect, request, close by the client, for half a minute.
//!
//! The client's own ports must not be what runs out, so its pod reuses them after a second, as `tcp_tw_reuse` is for; the servers' pods keep
//! the kernel's defaults, and a mesh that uses up their ports shows it by falling behind.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, IN_CLUSTER, Path, Place, number},
    stage::{CLIENT_CLUSTER, CLIENT_NODE, finish},
};

/// Four clients, each new connection on a port of its own.
pub(in crate::bench) struct Churn;

impl Part for Churn {
    fn name(&self) -> &'static str {
        "churn"
    }

    fn paths(&self, settings: &Settings) -> &'static [Path] {
        if settings.quick {
            &BETWEEN_NODES
        } else {
            &IN_CLUSTER
        }
    }

    fn rounds(&self, _: &Settings) -> usize {
        1
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let stage = place.stage;
        // A pod of its own: what it leaves in TIME_WAIT goes with it.
        stage.create_pod(CLIENT_CLUSTER, CLIENT_NODE, POD, &["sleep", "100000"])?;
        for setting in PORT_SETTINGS {
            stage.inside(POD, &["sh", "-c", setting])?;
        }
        let server = stage.server(place.path)?.to_string();
        let load = place.settings.load.to_string_lossy();
        let (windows, seconds) = (WINDOWS.to_string(), WINDOW.as_secs().to_string());
        let child = stage.start_in(
            POD,
            &[
                &load,
                "connect",
                &server,
                "--clients",
                "4",
                "--closes",
                "client",
                "--windows",
                &windows,
                "--seconds",
                &seconds,
            ],
        )?;
        let output = finish(child, WINDOW * WINDOWS * 2)?;
        stage.delete_pod(POD)?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        figures(&answer)
    }
}

/// The first and the last window, and everything that failed.
pub(in crate::bench) fn figures(answer: &Value) -> Result<Vec<Sample>> {
    let windows = answer.get("windows").and_then(Value::as_array);
    let windows = windows.context("the load answered no windows")?;
    let rate = |window: Option<&Value>| number(window.context("no window")?, "per_second");
    let (first, last) = (rate(windows.first())?, rate(windows.last())?);
    let errors = windows.iter().filter_map(|window| window.get("errors"));
    let errors: u64 = errors.filter_map(Value::as_u64).sum();
    Ok(vec![
        Figure::new("4 clients, first 3 s", Unit::PerSecond).of(first),
        Figure::new("4 clients, last 3 s of 30", Unit::PerSecond)
            .headline(true)
            .of(last),
        Figure::new("last ÷ first", Unit::Share)
            .headline(true)
            .of(last / first),
        Figure::new("failed connections", Unit::Count).of(errors as f64),
    ])
}

const POD: &str = "churner";
const WINDOW: Duration = Duration::from_secs(3);
const WINDOWS: u32 = 10;
const PORT_SETTINGS: [&str; 2] = [
    "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse",
    "echo 10000 65000 > /proc/sys/net/ipv4/ip_local_port_range",
];
