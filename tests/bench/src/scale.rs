//! The run: publish, connect, wait for the whole view, let the nodes in, change one endpoint after the other.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use tokio::{
    runtime::{Handle, Runtime},
    time::sleep,
};

use crate::{
    nodes::Nodes,
    plan::Plan,
    publishers::Publishers,
    report::Report,
    rig::{Component, Rig, token},
};

/// How the mesh is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The sizes.
    pub plan: Plan,
    /// Simulated nodes; 0 = one, which only serves to see the changes arrive.
    pub nodes: usize,
    /// How many endpoints change, one after the other.
    pub changes: usize,
    /// Where `node-proxy`, `xds-server` and `tulle` lie.
    pub binaries: PathBuf,
    /// Nothing is waited for longer.
    pub deadline: Duration,
}

/// Measures; `say` gets a line for each step.
///
/// # Errors
/// When a part does not come up or a step takes longer than the deadline.
pub fn run(settings: &Settings, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let plan = settings.plan.check()?;
    ensure!(settings.changes > 0, "at least one change is needed");
    let rig = Rig::up(&settings.binaries)?;
    say("the lab stands");
    rig.create_services(plan)?;
    rig.admit_nodes(settings.nodes.max(1))?;
    rig.enter_control_plane()?;
    // Born in the control plane's network, with all its threads.
    let runtime = Runtime::new()?;
    // Simulated nodes keep a machine busy; the simulated clusters' heartbeats must not wait for them, as they would not elsewhere.
    let clusters = Runtime::new()?;
    runtime.block_on(measure(settings, plan, &rig, clusters.handle(), say))
}

async fn measure(
    settings: &Settings,
    plan: Plan,
    rig: &Rig,
    clusters: &Handle,
    say: &mut dyn FnMut(&str),
) -> Result<Report> {
    let began = Instant::now();
    let mut publishers = {
        let _here = clusters.enter();
        Publishers::start(plan, &rig.etcd()?)?
    };
    wait("every simulated cluster has published", settings, || {
        let published = publishers.published();
        let fault = publishers.fault().unwrap_or_default();
        Ok((
            published == plan.clusters,
            format!("{published} have; {fault}"),
        ))
    })
    .await?;
    let published = began.elapsed();
    say(&format!(
        "{} clusters published in {published:.1?}",
        plan.clusters
    ));
    let began = Instant::now();
    rig.connect(plan)?;
    wait("the node's kernel has every endpoint", settings, || {
        let frontends = rig.metric(Component::NodeProxy, "tulle_kernel_frontends")?;
        let backends = rig.metric(Component::NodeProxy, "tulle_kernel_backends")?;
        let whole = count(frontends) >= plan.services && count(backends) >= plan.endpoints;
        Ok((whole, format!("{frontends} frontends, {backends} backends")))
    })
    .await?;
    let complete = began.elapsed();
    say(&format!("the node has the whole view after {complete:.1?}"));
    let resident = |component| rig.process(component)?.resident();
    let xds_server = resident(Component::XdsServer)?;
    let node_proxy = resident(Component::NodeProxy)?;
    let etcd = resident(Component::Etcd)?;
    let (mut nodes, nodes_told) = let_nodes_in(settings, plan, rig).await?;
    say(&format!(
        "{} nodes have the whole view after {:.1?}",
        nodes.count(),
        nodes_told.0
    ));
    let mut report = Report {
        plan,
        nodes: nodes.count(),
        published,
        complete,
        xds_server,
        node_proxy,
        etcd,
        xds_server_with_nodes: resident(Component::XdsServer)?,
        nodes_told,
        latencies: Vec::new(),
        last_latencies: Vec::new(),
        change_bytes: Vec::new(),
        xds_server_time: Duration::ZERO,
        node_proxy_time: Duration::ZERO,
        idle_times: (Duration::ZERO, Duration::ZERO),
    };
    change(settings, rig, &mut publishers, &mut nodes, &mut report).await?;
    nodes.stop().await;
    Ok(report)
}

/// The nodes, how long it took until all had the whole view, and the bytes that they were sent.
async fn let_nodes_in(
    settings: &Settings,
    plan: Plan,
    rig: &Rig,
) -> Result<(Nodes, (Duration, u64))> {
    let count = settings.nodes.max(1);
    let began = Instant::now();
    let simulated_len = plan.endpoints + plan.services;
    let nodes = Nodes::start(rig.server()?, count, simulated_len, token);
    wait("every node has the whole view", settings, || {
        let (resources, _) = nodes.received();
        let (failures, last) = nodes.failures();
        let subscribed = nodes.subscribed();
        let whole = nodes.whole();
        Ok((
            subscribed >= count && whole >= count,
            format!(
                "{subscribed} subscribed, {whole} whole, {resources} resources; {failures} failures: {last}"
            ),
        ))
    })
    .await?;
    let told = (began.elapsed(), nodes.received().1);
    Ok((nodes, told))
}

async fn change(
    settings: &Settings,
    rig: &Rig,
    publishers: &mut Publishers,
    nodes: &mut Nodes,
    report: &mut Report,
) -> Result<()> {
    let times = || -> Result<(Duration, Duration)> {
        let time = |component| rig.process(component)?.processor_time();
        Ok((time(Component::XdsServer)?, time(Component::NodeProxy)?))
    };
    let before = times()?;
    let began = Instant::now();
    for number in 0..settings.changes {
        let cluster = number % report.plan.clusters;
        let seen = nodes.watch(settings.deadline, |arm| {
            let name = publishers.name(cluster, number)?;
            arm(&name);
            publishers.flip(cluster, number)
        });
        let (at, sights) = seen.await?;
        let latency = |at_node: Instant| at_node.saturating_duration_since(at);
        let all = sights.iter().map(|sight| latency(sight.at));
        report.last_latencies.extend(all.clone().max());
        report.latencies.extend(all);
        report
            .change_bytes
            .extend(sights.iter().map(|sight| sight.bytes).max());
    }
    let lasted = began.elapsed();
    let after = times()?;
    // What both use anyway (heartbeats of every cluster) is told beside, over an equally long time.
    sleep(lasted).await;
    let idle = times()?;
    let changes = u32::try_from(settings.changes)?;
    report.xds_server_time = (after.0.saturating_sub(before.0)) / changes;
    report.node_proxy_time = (after.1.saturating_sub(before.1)) / changes;
    report.idle_times = (
        idle.0.saturating_sub(after.0) / changes,
        idle.1.saturating_sub(after.1) / changes,
    );
    Ok(())
}

async fn wait(
    what: &str,
    settings: &Settings,
    mut holds: impl FnMut() -> Result<(bool, String)>,
) -> Result<()> {
    let began = Instant::now();
    loop {
        let last = match holds() {
            Ok((true, _)) => return Ok(()),
            Ok((false, state)) => state,
            Err(error) => format!("{error:#}"),
        };
        if began.elapsed() > settings.deadline {
            bail!("not within {:?}: {what} (last: {last})", settings.deadline);
        }
        sleep(POLL).await;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a gauge that counts; the cast saturates"
)]
fn count(gauge: f64) -> usize {
    gauge as usize
}

const POLL: Duration = Duration::from_millis(50);
