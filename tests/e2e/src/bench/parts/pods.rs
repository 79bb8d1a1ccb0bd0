//! What an enrolled pod costs its node's proxy: memory, descriptors, tasks, threads.

use std::ops::Range;

use anyhow::{Context as _, Result};
use tulle_lab::{Kind, ObjectKey};

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
        let stage = place.stage;
        let proxies = place.proxies()?;
        let proxy = proxies.first().context("no proxy runs at the client")?;
        // The first ones also bring what no pod does alone: code that had never run, heaps of threads.
        enroll(place, 0..FIRST)?;
        let before = proxy.holdings_at_rest(stage)?;
        enroll(place, FIRST..FIRST + COUNT)?;
        let last = proxy.holdings_at_rest(stage)?;
        for number in 0..FIRST + COUNT {
            stage.delete_pod(&name(number))?;
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

/// Makes pods that do nothing beside the client, and waits for them.
fn enroll(place: &Place<'_>, numbers: Range<u32>) -> Result<()> {
    let stage = place.stage;
    let pods = numbers
        .clone()
        .map(|number| manifest(CLIENT_NODE, &name(number), &["sleep", "100000"]))
        .collect::<Result<Vec<_>>>()?;
    stage.apply_many(&pods)?;
    for number in numbers {
        let key = ObjectKey::new(Kind::Pod, NAMESPACE, &name(number));
        stage
            .lab
            .wait_pod_ready(CLIENT_CLUSTER, &key, READY_DEADLINE * 4)?;
    }
    Ok(())
}

fn name(number: u32) -> String {
    format!("idle-{number}")
}

const FIRST: u32 = 25;
const COUNT: u32 = 75;
