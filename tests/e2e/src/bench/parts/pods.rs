//! What an enrolled pod costs its node's proxy: memory, descriptors, tasks, threads.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tulle_lab::{Kind, ObjectKey, wait_until};

use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, Path, Place},
    stage::{CLIENT_CLUSTER, CLIENT_NODE, NAMESPACE, manifest},
};
use crate::rig::READY_DEADLINE;

/// Pods beside the client's that do nothing.
pub(in crate::bench) struct Pods;

impl Part for Pods {
    fn name(&self) -> &'static str {
        "pods"
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
        let (stage, lab) = (place.stage, &place.stage.lab);
        let proxies = place.proxies()?;
        let proxy = proxies.first().context("no proxy runs at the client")?;
        let before = proxy.holdings(stage)?;
        let names: Vec<String> = (0..COUNT).map(|number| format!("idle-{number}")).collect();
        let pods = names
            .iter()
            .map(|name| manifest(CLIENT_NODE, name, &["sleep", "100000"]))
            .collect::<Result<Vec<_>>>()?;
        stage.apply_many(&pods)?;
        for name in &names {
            let key = ObjectKey::new(Kind::Pod, NAMESPACE, name);
            lab.wait_pod_ready(CLIENT_CLUSTER, &key, READY_DEADLINE * 4)?;
        }
        // Each listener of a pod is a descriptor; they have come when the number stands still.
        let mut last = proxy.holdings(stage)?;
        let steady = wait_until(Instant::now() + READY_DEADLINE, || {
            place.rest(std::time::Duration::from_secs(1));
            let Ok(now) = proxy.holdings(stage) else {
                return false;
            };
            let is_steady = now.descriptors == last.descriptors;
            last = now;
            is_steady
        });
        ensure!(steady, "the proxy is not done with its pods");
        for name in &names {
            stage.delete_pod(name)?;
        }
        let each = |after: f64, before: f64| (after - before) / f64::from(COUNT);
        let told = |after: Option<f64>, before: Option<f64>| Some(each(after?, before?));
        let live = Figure::new("live heap per pod", Unit::Kibibytes).headline(true);
        let tasks = Figure::new("tasks per pod", Unit::Count);
        let mut samples = Vec::new();
        samples.extend(told(last.live, before.live).map(|bytes| live.of(bytes / 1024.0)));
        samples.extend(told(last.tasks, before.tasks).map(|each| tasks.of(each)));
        samples.extend([
            Figure::new("RSS per pod", Unit::Kibibytes)
                .headline(true)
                .of(each(last.resident, before.resident) / 1024.0),
            Figure::new("descriptors per pod", Unit::Count)
                .of(each(last.descriptors, before.descriptors)),
            Figure::new("threads per pod", Unit::Count).of(each(last.threads, before.threads)),
        ]);
        Ok(samples)
    }
}

const COUNT: u32 = 50;
