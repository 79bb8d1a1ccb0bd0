//! Slices: what is in them, what a change costs, and how large they are.

use proptest::prelude::*;
use tulle_model::{Change, Health};

use super::*;
use crate::{layout::Entry, snapshot::tests::workload};

fn pod(name: &str) -> Arc<Workload> {
    Arc::new(workload(name, "10.1.1.1", Some("web")))
}

/// The slices as they are published, kept up by changes alone.
#[derive(Default)]
struct Published {
    slices: Slices,
    keys: BTreeMap<String, Bytes>,
    pods: BTreeMap<WorkloadUid, Arc<Workload>>,
}

impl Published {
    /// Answers how many keys that took.
    fn put(&mut self, pod: &Arc<Workload>) -> usize {
        let old = self.pods.insert(pod.uid.clone(), Arc::clone(pod));
        self.slices.put(old.as_deref(), pod);
        self.take()
    }

    fn remove(&mut self, pod: &Workload) -> usize {
        if let Some(old) = self.pods.remove(&pod.uid) {
            self.slices.remove(&old);
        }
        self.take()
    }

    fn take(&mut self) -> usize {
        let changed = self.slices.take_changed();
        for (key, value) in &changed {
            match value {
                Some(value) => self.keys.insert(key.clone(), value.clone()),
                None => self.keys.remove(key),
            };
        }
        changed.len()
    }

    fn read(&self) -> BTreeMap<WorkloadUid, Arc<Workload>> {
        let facts = self.keys.iter().flat_map(|(key, value)| {
            match crate::layout::read_entry(key, value).unwrap() {
                Entry::Facts(facts) => {
                    assert!(facts.len() <= SLICE_LEN_MAX, "{key} has {}", facts.len());
                    facts
                }
                other => panic!("{other:?}"),
            }
        });
        let workloads = facts.map(|fact| match fact {
            Change::Workload(w) => (w.uid.clone(), w),
            other => panic!("{other:?}"),
        });
        let all: Vec<_> = workloads.collect();
        let len = all.len();
        let map: BTreeMap<_, _> = all.into_iter().collect();
        assert_eq!(map.len(), len, "a workload is in two slices");
        map
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happened before, the same workloads make the same keys and values, and all of them are there.
    #[test]
    fn cut_depends_on_the_set_alone(steps in prop::collection::vec((0..160_u32, any::<bool>()), 0..400)) {
        let mut lived = Published::default();
        for (n, there) in steps {
            let pod = pod(&format!("p{n}"));
            if there { lived.put(&pod) } else { lived.remove(&pod) };
        }
        prop_assert_eq!(&lived.read(), &lived.pods);
        let mut fresh = Published::default();
        for pod in lived.pods.values().rev() {
            fresh.put(pod);
        }
        prop_assert_eq!(lived.keys, fresh.keys);
    }
}

#[test]
fn a_change_touches_one_slice() {
    let mut published = Published::default();
    for n in 0..1000 {
        published.put(&pod(&format!("p{n}")));
    }
    let mut changed = (*pod("p7")).clone();
    changed.health = Health::Unhealthy;
    assert_eq!(published.put(&Arc::new(changed)), 1);
    assert_eq!(published.remove(&pod("unknown")), 0);
    let most = (0..1000)
        .map(|n| published.remove(&pod(&format!("p{n}"))))
        .max();
    // Two that have become one: three keys.
    assert_eq!(most, Some(3));
    assert!(published.keys.is_empty() && published.slices.trees.is_empty());
}

#[test]
fn what_is_each_ones_own_survives() {
    let mut odd = workload("odd", "10.1.1.9", None);
    odd.uid = WorkloadUid("koornacht/discovery.k8s.io/EndpointSlice/shop/manual/10.1.1.9".into());
    odd.hostname = "web-0".into();
    odd.capacity = 7;
    odd.health = Health::Unhealthy;
    odd.node = "n9".into();
    odd.locality.zone = "z".into();
    odd.addresses.clear();
    let mut published = Published::default();
    published.put(&Arc::new(odd));
    published.put(&pod("a"));
    assert_eq!(published.read(), published.pods);
}

/// The figures of decision 0007; `cargo test -- slice_figures --nocapture` prints them.
#[test]
fn slice_figures() {
    let pods: Vec<Arc<Workload>> = (0..100_u32)
        .map(|n| {
            let mut pod = workload(
                &format!("rebel-base-7d9f8c6b5-{:05x}", n * 7919),
                "10.1.1.1",
                Some("web"),
            );
            pod.addresses = vec![std::net::IpAddr::from([10, 1, 1, u8::try_from(n).unwrap()])];
            pod.canonical_name = "rebel-base".into();
            pod.owner_name = "rebel-base".into();
            pod.node = format!("koornacht-worker{}", n % 10).into();
            pod.locality.region = "eu-west".into();
            pod.locality.zone = format!("eu-west-{}", n % 3).into();
            pod.labels
                .insert("pod-template-hash".into(), "7d9f8c6b5".into());
            Arc::new(pod)
        })
        .collect();
    let one_by_one: usize = pods.iter().map(|p| crate::layout::encode(&**p).len()).sum();
    for len in [1, 8, 16, 32, 64, 100] {
        let slice = slice_value::encode(pods.iter().take(len)).len();
        println!(
            "{len} endpoints: {slice} bytes in one slice, {} for each",
            slice / len
        );
    }
    let slice = slice_value::encode(pods.iter()).len();
    println!("100 endpoints: {one_by_one} bytes as one value each, {slice} in one slice");
    assert!(slice * 5 < one_by_one, "{slice} of {one_by_one}");
}
