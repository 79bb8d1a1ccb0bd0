//! What a cluster that publishes a million keys does to those that read it: little.

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::{runtime::Runtime, time::sleep};
use tulle_bench::{
    nodes::Nodes,
    plan::Plan,
    publishers::Publishers,
    rig::{Component, Rig, token},
};

const PLAN: Plan = Plan {
    clusters: 4,
    services: 20,
    endpoints: 80,
};
/// The one that floods, and one that goes on as ever.
const FLOODING: usize = 0;
const CALM: usize = 1;
const KEYS: usize = 1_000_000;
/// More than one cluster may publish.
const KEYS_LEAST: usize = 260_000;
/// A slow machine writes fewer than all. `TULLE_FLOOD_SECONDS` gives it more time.
const WRITING_LIMIT: Duration = Duration::from_secs(60);
/// What the reader may need for it at most: what a cluster may publish is bounded, and with it this.
const GROWTH_MAX: u64 = 1 << 30;
const STEP: usize = 20_000;
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_million_keys_of_one_cluster_cost_a_bounded_share() -> Result<()> {
    let binaries = env::var_os("TULLE_BIN_DIR").map(PathBuf::from);
    let binaries = binaries.context("TULLE_BIN_DIR is not set: run `cargo xtask test`")?;
    let plan = PLAN.check()?;
    let rig = Rig::up(&binaries)?;
    rig.create_services(plan)?;
    rig.admit_nodes(1)?;
    rig.enter_control_plane()?;
    // Born in the control plane's network, with all its threads.
    Runtime::new()?.block_on(flood(plan, &rig))
}

async fn flood(plan: Plan, rig: &Rig) -> Result<()> {
    let mut publishers = Publishers::start(plan, &rig.etcd()?)?;
    until("every cluster has published", || {
        Ok(publishers.published() == plan.clusters)
    })
    .await?;
    rig.connect(plan)?;
    let mut nodes = Nodes::start(rig.server()?, 1, plan.services + plan.endpoints, token);
    let (flooding, calm) = (plan.cluster_name(FLOODING)?, plan.cluster_name(CALM)?);
    for cluster in [&flooding, &calm] {
        until("the clusters are ready", || {
            Ok(rig.remote_status(cluster.as_str())?["state"] == "ready")
        })
        .await?;
    }
    until("the node is told", || Ok(nodes.whole() == 1)).await?;
    let resident = || rig.process(Component::XdsServer)?.resident();
    let before = resident()?;
    let (mut asked, mut slowest, mut most) = (0, Duration::ZERO, before);
    let began = Instant::now();
    let limit = env::var("TULLE_FLOOD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let limit = limit.map_or(WRITING_LIMIT, Duration::from_secs);
    while asked < KEYS && (began.elapsed() < limit || asked < KEYS_LEAST) {
        publishers.flood(FLOODING, asked..asked + STEP)?;
        asked += STEP;
        // While they are on their way, the other cluster goes on.
        let written = publishers.keys(FLOODING)?;
        slowest = slowest.max(flip(&mut publishers, &mut nodes).await?);
        most = most.max(resident()?);
        until("the step is written", || {
            Ok(publishers.keys(FLOODING)? > written)
        })
        .await?;
    }
    let writing = began.elapsed();
    until("the flood is refused", || {
        let status = rig.remote_status(flooding.as_str())?;
        let refused = status["lastError"].as_str().unwrap_or_default();
        Ok(refused.ends_with("the rest is not taken in"))
    })
    .await?;
    slowest = slowest.max(flip(&mut publishers, &mut nodes).await?);
    let after = resident()?.max(most);
    let (status, other) = (
        rig.remote_status(flooding.as_str())?,
        rig.remote_status(calm.as_str())?,
    );
    let line = json!({
        "scenario": "one cluster floods", "keys": asked, "writtenSeconds": writing.as_secs_f64().round(),
        "megabytesBefore": before >> 20, "megabytesAfter": after >> 20, "otherClustersSlowestChangeMs": slowest.as_millis(),
        "refusals": status["refusals"], "sentence": status["lastError"], "kept": status["counts"],
    });
    eprintln!("{line}");
    ensure!(after - before < GROWTH_MAX, "{line}");
    ensure!(
        other["state"] == "ready" && other["refusals"] == 0,
        "{other}"
    );
    ensure!(status["state"] == "ready", "{status}");
    nodes.stop().await;
    Ok(())
}

/// How long an endpoint's change of the calm cluster takes to the node.
async fn flip(publishers: &mut Publishers, nodes: &mut Nodes) -> Result<Duration> {
    let (at, sights) = nodes
        .watch(CHANGE_LIMIT, |arm| {
            arm(&publishers.name(CALM, 0)?);
            publishers.flip(CALM, 0)
        })
        .await?;
    let last = sights.iter().map(|sight| sight.at).max().unwrap_or(at);
    Ok(last.saturating_duration_since(at))
}

async fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    let mut last = String::new();
    while began.elapsed() < LIMIT {
        match holds() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last = format!("{error:#}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("not within {LIMIT:?}: {what} {last}")
}
