//! The same facts in other orders, and the same facts again.

use proptest::prelude::*;

use super::*;

/// One thing that a cluster says; a later word about the same thing replaces it.
#[derive(Debug, Clone)]
enum Fact {
    Workload(u8, Option<u8>),
    Service(u8, Option<(bool, bool, u16)>),
    Bundle(bool),
    Beat,
}

/// Facts of the own cluster (0) and of three others.
type History = Vec<(usize, Fact)>;

const CLUSTERS: [&str; 4] = [OWN, "naboo", "tion", "yavin"];

impl Fact {
    /// What it is about: facts about one thing keep their order, as one key's changes in etcd do.
    fn about(&self) -> (u8, u8) {
        match self {
            Fact::Workload(n, _) => (0, *n),
            Fact::Service(n, _) => (1, *n),
            Fact::Bundle(_) => (2, 0),
            Fact::Beat => (3, 0),
        }
    }

    fn change(&self, of: &str) -> Option<Change> {
        let name = |n: u8| format!("s{n}");
        Some(match self {
            Fact::Workload(n, Some(services)) => put(pod(of, *n, *services)),
            Fact::Workload(n, None) => Change::WorkloadGone(pod(of, *n, 0).uid),
            Fact::Service(n, Some((global, shared, number))) => put_service(Service {
                ports: vec![port("", *number, 8080)],
                ..service(&name(*n), *global, *shared)
            }),
            Fact::Service(n, None) => Change::ServiceGone(key(&name(*n))),
            Fact::Bundle(true) => Change::Bundle(Arc::new(bundle(of, of))),
            Fact::Bundle(false) => Change::BundleGone(domain(of)),
            Fact::Beat => return None,
        })
    }
}

fn connected() -> Merge {
    let mut merge = Merge::new(cluster(OWN));
    for name in &CLUSTERS[1..] {
        merge.add_remote(cluster(name), domain(name));
    }
    merge
}

fn apply(merge: &mut Merge, source: usize, fact: &Fact) -> Vec<Change> {
    let name = CLUSTERS[source];
    match (source, fact.change(name)) {
        (0, Some(change)) => merge.handle_local(change),
        (0, None) => Vec::new(),
        (_, Some(change)) => merge.handle_remote(&cluster(name), change).unwrap(),
        (_, None) => merge.handle_heartbeat(&cluster(name), 1, Duration::ZERO),
    }
}

fn replay<'a>(facts: impl IntoIterator<Item = &'a (usize, Fact)>) -> Merge {
    let mut merge = connected();
    for (source, fact) in facts {
        apply(&mut merge, *source, fact);
    }
    merge
}

/// Another order of the same history, in which each thing's own facts keep theirs.
fn shuffled(history: &History, picks: &[prop::sample::Index]) -> History {
    let mut streams: BTreeMap<_, std::collections::VecDeque<_>> = BTreeMap::new();
    for (source, fact) in history {
        let stream = streams.entry((*source, fact.about())).or_default();
        stream.push_back((*source, fact.clone()));
    }
    let mut out = Vec::new();
    for pick in picks.iter().cycle() {
        streams.retain(|_, stream| !stream.is_empty());
        if streams.is_empty() {
            break;
        }
        let next = pick.index(streams.len());
        let stream = streams.values_mut().nth(next).unwrap();
        out.extend(stream.pop_front());
    }
    out
}

fn history() -> impl Strategy<Value = History> {
    let number = 80..82u16;
    let fact = prop_oneof![
        4 => (0..3u8, prop::option::weighted(0.8, 0..8u8)).prop_map(|(n, s)| Fact::Workload(n, s)),
        4 => (0..3u8, prop::option::weighted(0.8, (prop::bool::weighted(0.8), prop::bool::weighted(0.8), number)))
            .prop_map(|(n, s)| Fact::Service(n, s)),
        1 => any::<bool>().prop_map(Fact::Bundle),
        1 => Just(Fact::Beat),
    ];
    prop::collection::vec((0..CLUSTERS.len(), fact), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_order_of_arrival_does_not_matter(
        history in history(), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        let other = shuffled(&history, &picks);
        prop_assert_eq!(other.len(), history.len());
        prop_assert_eq!(flat(replay(&other).view()), flat(replay(&history).view()));
    }

    /// Whole clusters, one after the other, in every order of the clusters.
    #[test]
    fn the_order_of_the_clusters_does_not_matter(history in history(), turn in 0..24usize) {
        let expected = flat(replay(&history).view());
        let mut order = vec![0, 1, 2, 3];
        let (a, b, c) = (turn / 6, turn % 6 / 2, turn % 2);
        order.swap(0, a);
        order.swap(1, 1 + b);
        order.swap(2, 2 + c);
        let of = |source: usize| history.iter().filter(move |(s, _)| *s == source);
        prop_assert_eq!(flat(replay(order.into_iter().flat_map(of)).view()), expected);
    }

    /// What is known already changes nothing.
    #[test]
    fn the_same_again_changes_nothing(history in history()) {
        let mut merge = replay(&history);
        let before = flat(merge.view());
        // The last word about each thing, once more.
        let mut last: BTreeMap<_, _> = BTreeMap::new();
        for (source, fact) in &history {
            last.insert((*source, fact.about()), (*source, fact.clone()));
        }
        for (source, fact) in last.values() {
            let told = apply(&mut merge, *source, fact);
            let mut again = merge.view().clone();
            told.into_iter().for_each(|change| again.apply(change));
            prop_assert_eq!(flat(&again), before.clone());
        }
        prop_assert_eq!(flat(merge.view()), before);
    }

    /// A service that exists only elsewhere is not made here, however it is shared.
    #[test]
    fn services_are_the_own_clusters(history in history()) {
        let merge = replay(&history);
        let names = |directory: &Directory| directory.services().map(|s| format!("{s:?}")).collect::<Vec<_>>();
        prop_assert_eq!(names(merge.view()), names(merge.local()));
        for workload in merge.view().workloads().filter(|w| w.cluster != cluster(OWN)) {
            let is_global = |key: &NamespacedName| merge.local().service(key).is_some_and(|s| s.sharing.global);
            prop_assert!(workload.services.keys().all(is_global));
        }
    }
}
