use futures::FutureExt as _;
use tulle_model::Change;
use tulle_wire::type_url;

use super::*;
use crate::snapshot::tests::workload;

fn snapshot(len: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..len {
        let pod = workload(&format!("p{n}"), "10.1.1.1", None);
        snapshot.apply(Change::Workload(Arc::new(pod)));
    }
    snapshot
}

fn whole() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url::ADDRESS.to_owned(),
        ..Default::default()
    }
}

#[test]
fn only_large_answers_need_a_place() {
    let (small, large) = (snapshot(10), snapshot(SMALL_LEN_MAX + 1));
    assert!(!is_large(&whole(), &small));
    assert!(is_large(&whole(), &large));
    let acknowledgement = DeltaDiscoveryRequest {
        response_nonce: "1".to_owned(),
        ..whole()
    };
    assert!(!is_large(&acknowledgement, &large));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let one = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["a"]),
        ..whole()
    };
    assert!(!is_large(&one, &large));
    let later_all = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["a", "*"]),
        response_nonce: "1".to_owned(),
        ..whole()
    };
    assert!(is_large(&later_all, &large));
    // Whoever comes back is told what it lacks.
    let held = (0..SMALL_LEN_MAX).map(|n| (format!("p{n}"), "1".to_owned()));
    let returning = DeltaDiscoveryRequest {
        initial_resource_versions: held.collect(),
        ..whole()
    };
    assert!(!is_large(&returning, &large));
    let unknown = DeltaDiscoveryRequest {
        type_url: "x".to_owned(),
        ..whole()
    };
    assert!(!is_large(&unknown, &large));
}

#[tokio::test(start_paused = true)]
async fn a_few_at_a_time_in_order_and_nobody_for_ever() {
    let (waiting, large) = (Gauge::default(), snapshot(SMALL_LEN_MAX + 1));
    let entrance = Entrance::with_places(1, waiting.clone());
    let mut visits = [(); 3].map(|()| entrance.visit());
    for visit in &mut visits {
        assert_eq!(visit.put_aside(whole(), &large), None);
        assert!(visit.is_waiting());
    }
    let [first, second, third] = &mut visits;
    assert_eq!(waiting.get(), 3);
    // Asked in another order than they came in, they stand where they stood when they first asked.
    assert!(first.admitted().now_or_never().is_some());
    assert!(second.admitted().now_or_never().is_none());
    assert!(third.admitted().now_or_never().is_none());
    assert_eq!(waiting.get(), 2);
    // Whoever is inside asks for more without waiting again.
    assert!(first.put_aside(whole(), &large).is_some());
    first.leave();
    assert!(third.admitted().now_or_never().is_none());
    assert!(second.admitted().now_or_never().is_some());
    // A slow one gives its place up, and is told the rest all the same.
    let both = async {
        tokio::select! {
            _never = second.admitted() => unreachable!("nothing was put aside"),
            _request = third.admitted() => {}
        }
    };
    tokio::time::timeout(STAY_MAX * 2, both).await.unwrap();
    assert_eq!(waiting.get(), 0);
    // A stream that ends while it waits leaves the queue.
    drop(entrance.visit());
    let mut gone = entrance.visit();
    gone.put_aside(whole(), &large);
    assert!(gone.admitted().now_or_never().is_none());
    drop(gone);
    assert_eq!(waiting.get(), 0);
    third.leave();
    let mut last = entrance.visit();
    last.put_aside(whole(), &large);
    assert!(last.admitted().now_or_never().is_some());
}
