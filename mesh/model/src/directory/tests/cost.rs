//! What one change costs in a large mesh.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Change, Directory, workload};
use crate::{NamespacedName, WorkloadUid};

/// 100,000 workloads, 100 at each of 1,000 services.
const WORKLOADS: u32 = 100_000;
const SERVICES: u32 = 1_000;
/// Changes that are measured; the limit is for one.
const CHANGES: u32 = 1_001;
/// The figure to hold is 1 ms. A debug build clones keys one by one, without inlining, perhaps beside a compiler.
const CHANGE_TIME_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5 } else { 1 });

fn large() -> Directory {
    let pattern = workload("", &[], &[], false);
    let mut directory = Directory::default();
    for n in 0..WORKLOADS {
        let mut workload = pattern.clone();
        workload.uid = uid(n);
        workload.addresses = vec![(0x0a00_0000 + n).to_be_bytes().into()];
        workload.services.insert(key(n % SERVICES), Vec::new());
        directory.apply(Change::Workload(Arc::new(workload)));
    }
    directory
}

fn uid(n: u32) -> WorkloadUid {
    WorkloadUid(format!("c//Pod/ns/p{n}").into())
}

fn key(n: u32) -> NamespacedName {
    NamespacedName::new("ns", format!("s{n}.ns.svc.cluster.local"))
}

/// A clone and a change, as a publisher does for each: the cost of what changed, not of what there is.
#[test]
fn one_change_of_a_hundred_thousand_workloads_costs_less_than_a_millisecond() {
    let mut published = large();
    let mut times = Vec::new();
    for n in 0..CHANGES {
        let start = Instant::now();
        let mut next = published.clone();
        let mut changed = (**next.workload(&uid(n * 97)).unwrap()).clone();
        changed.demoted = !changed.demoted;
        changed.addresses = vec![(0x0b00_0000 + n).to_be_bytes().into()];
        next.apply(Change::Workload(Arc::new(changed)));
        published = next;
        times.push(start.elapsed());
    }
    times.sort();
    // The median: other processes may take the processor away in the middle of a change.
    let each = times[times.len() / 2];
    println!("a clone and one change of {WORKLOADS} workloads: {each:?}");
    assert!(each < CHANGE_TIME_MAX, "{each:?}");
    assert_eq!(published.endpoints(&key(0)).count(), 100);
    assert_eq!(
        published.workload_at([11, 0, 0, 1].into()).unwrap().uid,
        uid(97)
    );
    assert!(published.workload_at([10, 0, 0, 97].into()).is_none());
}
