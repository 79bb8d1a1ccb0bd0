//! The view that is kept is the view from scratch, whatever happens.

use proptest::prelude::*;

use super::*;

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    LocalWorkload(u8, u8),
    LocalGone(u8),
    LocalService(u8, bool, bool, u16),
    LocalServiceGone(u8),
    RemoteWorkload(u8, u8, u8),
    RemoteGone(u8, u8),
    RemoteService(u8, u8, bool, bool, u16),
    RemoteServiceGone(u8, u8),
    Bundle(u8, bool),
    Beat(u8),
    Resync(u8, Vec<(u8, u8)>, bool),
    Remove(u8),
    Add(u8),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3u8, 0..8u8).prop_map(|(n, s)| Step::LocalWorkload(n, s)),
        (0..3u8).prop_map(Step::LocalGone),
        (0..3u8, any::<bool>(), any::<bool>(), 80..82u16)
            .prop_map(|(s, g, h, p)| Step::LocalService(s, g, h, p)),
        (0..3u8).prop_map(Step::LocalServiceGone),
        (0..2u8, 0..3u8, 0..8u8).prop_map(|(c, n, s)| Step::RemoteWorkload(c, n, s)),
        (0..2u8, 0..3u8).prop_map(|(c, n)| Step::RemoteGone(c, n)),
        (0..2u8, 0..3u8, any::<bool>(), any::<bool>(), 80..82u16)
            .prop_map(|(c, s, g, h, p)| Step::RemoteService(c, s, g, h, p)),
        (0..2u8, 0..3u8).prop_map(|(c, s)| Step::RemoteServiceGone(c, s)),
        (0..2u8, any::<bool>()).prop_map(|(c, there)| Step::Bundle(c, there)),
        (0..2u8).prop_map(Step::Beat),
        (
            0..2u8,
            prop::collection::vec((0..3u8, 0..8u8), 0..3),
            any::<bool>()
        )
            .prop_map(|(c, w, complete)| Step::Resync(c, w, complete)),
        (0..2u8).prop_map(Step::Remove),
        (0..2u8).prop_map(Step::Add),
        (0..3000u16).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    /// The incremental view equals the one from scratch, and whoever applied the told changes has it too.
    #[test]
    fn incremental_equals_from_scratch(history in steps()) {
        let clusters = ["tion", "yavin"];
        let mut merge = Merge::new(cluster(OWN));
        let mut told = Directory::default();
        let mut now = Duration::ZERO;
        let mut beats = 0;
        for step in history {
            let of = |c: u8| cluster(clusters[usize::from(c)]);
            let name = |c: u8| clusters[usize::from(c)];
            let shared = |s: u8, g, h, p| Service { ports: vec![port("", p, 8080)], ..service(&format!("s{s}"), g, h) };
            let changes = match step {
                Step::LocalWorkload(n, s) => merge.handle_local(put(pod(OWN, n, s))),
                Step::LocalGone(n) => merge.handle_local(Change::WorkloadGone(pod(OWN, n, 0).uid)),
                Step::LocalService(s, g, h, p) => merge.handle_local(put_service(shared(s, g, h, p))),
                Step::LocalServiceGone(s) => merge.handle_local(Change::ServiceGone(key(&format!("s{s}")))),
                Step::RemoteWorkload(c, n, s) => merge.handle_remote(&of(c), put(pod(name(c), n, s))).unwrap_or_default(),
                Step::RemoteGone(c, n) => merge.handle_remote(&of(c), Change::WorkloadGone(pod(name(c), n, 0).uid)).unwrap_or_default(),
                Step::RemoteService(c, s, g, h, p) => merge.handle_remote(&of(c), put_service(shared(s, g, h, p))).unwrap_or_default(),
                Step::RemoteServiceGone(c, s) => merge.handle_remote(&of(c), Change::ServiceGone(key(&format!("s{s}")))).unwrap_or_default(),
                Step::Bundle(c, true) => merge.handle_remote(&of(c), Change::Bundle(Arc::new(bundle(name(c), "roots")))).unwrap_or_default(),
                Step::Bundle(c, false) => merge.handle_remote(&of(c), Change::BundleGone(domain(name(c)))).unwrap_or_default(),
                Step::Beat(c) => {
                    beats += 1;
                    merge.handle_heartbeat(&of(c), beats, now)
                }
                Step::Resync(c, workloads, complete) => {
                    let listed: BTreeMap<u8, u8> = workloads.into_iter().collect();
                    let gone = (0..3u8).filter(|n| complete && !listed.contains_key(n));
                    let gone = gone.map(|n| Change::WorkloadGone(pod(name(c), n, 0).uid));
                    let listed = listed.iter().map(|(n, s)| put(pod(name(c), *n, *s)));
                    let said = listed.chain(gone).filter_map(|change| merge.handle_remote(&of(c), change).ok());
                    said.flatten().collect()
                }
                Step::Remove(c) => merge.remove_remote(&of(c)),
                Step::Add(c) => merge.add_remote(of(c), domain(name(c))),
                Step::Wait(millis) => {
                    now += Duration::from_millis(u64::from(millis));
                    merge.handle_tick(now)
                }
            };
            changes.into_iter().for_each(|c| told.apply(c));
            prop_assert_eq!(flat(merge.view()), flat(&super::merge(merge.local(), merge.remotes())));
            prop_assert_eq!(flat(&told), flat(merge.view()));
        }
    }
}
