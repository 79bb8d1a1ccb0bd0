//! Clusters that come, fall silent, go, and say what is not theirs to say.

use super::*;

#[test]
fn silent_cluster_is_demoted_and_restored() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let tion = cluster("tion");
    let at = |millis| Duration::from_millis(millis);
    let just_before = SILENT_AFTER - at(1);
    assert!(merge.handle_tick(just_before).is_empty());
    let changes = merge.handle_tick(SILENT_AFTER);
    assert!(
        matches!(&changes[..], [Change::Workload(w)] if w.demoted && !w.services.is_empty()),
        "{changes:?}"
    );
    assert!(
        merge.handle_tick(SILENT_AFTER + at(100)).is_empty(),
        "told once"
    );
    // The same value again is no sign of life, a new one is.
    assert!(merge.handle_heartbeat(&tion, 1, at(9_000)).is_empty());
    assert!(remote_workload(&merge).demoted);
    // What changes meanwhile stays demoted.
    merge
        .handle_remote(&tion, put(workload("tion", "c", &[("web", 80, 8080)])))
        .unwrap();
    assert!(
        merge
            .view()
            .endpoints(&key("web"))
            .filter(|w| w.name == "c")
            .all(|w| w.demoted)
    );
    let changes = merge.handle_heartbeat(&tion, 2, at(10_000));
    assert_eq!(changes.len(), 2);
    assert!(merge.view().workloads().all(|w| !w.demoted));
    assert_eq!(endpoints(&merge), ["a", "b", "c"]);
}

#[test]
fn cluster_without_a_heartbeat_starts_demoted() {
    let mut merge = Merge::new(cluster(OWN));
    let tion = cluster("tion");
    merge.add_remote(tion.clone(), domain("tion"));
    merge
        .handle_remote(&tion, put(workload("tion", "b", &[])))
        .unwrap();
    assert!(remote_workload(&merge).demoted);
    merge.handle_heartbeat(&tion, 7, Duration::from_secs(100));
    assert!(!remote_workload(&merge).demoted);
}

#[test]
fn cluster_that_is_no_longer_configured_goes_whole() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let changes = merge.remove_remote(&cluster("tion"));
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(endpoints(&merge), ["a"]);
    assert_eq!(merge.view().bundles().count(), 1);
    assert!(merge.remove_remote(&cluster("tion")).is_empty());
    let refused = merge.handle_remote(&cluster("tion"), put(workload("tion", "b", &[])));
    assert!(matches!(refused, Err(RefuseRemoteError::Unknown { .. })));
}

#[test]
fn cluster_speaks_for_itself_only() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let tion = cluster("tion");
    let own = workload(OWN, "a", &[]);
    let mut check = |change: Change| {
        let before = merge.view().workloads_len();
        let refused = merge.handle_remote(&tion, change.clone());
        assert!(refused.is_err(), "{change:?}");
        assert_eq!(merge.view().workloads_len(), before);
    };
    check(put(own.clone()));
    check(put(Workload {
        uid: WorkloadUid("tion//Pod/shop/x".into()),
        ..own.clone()
    }));
    check(put(Workload {
        cluster: cluster("tion"),
        ..own.clone()
    }));
    check(put(Workload {
        trust_domain: domain(OWN),
        ..workload("tion", "x", &[])
    }));
    check(Change::WorkloadGone(own.uid));
    check(Change::Bundle(Arc::new(bundle(OWN, "mine"))));
    assert_eq!(endpoints(&merge), ["a", "b"]);
    // Its own policies do not reach us.
    merge
        .handle_remote(&tion, Change::Policy(Arc::new(policy("theirs"))))
        .unwrap();
    assert_eq!(merge.view().policies().count(), 0);
    let bound = Workload {
        authorization_policies: vec!["shop/p".to_owned()],
        ..workload("tion", "b", &[])
    };
    merge.handle_remote(&tion, put(bound)).unwrap();
    assert!(remote_workload(&merge).authorization_policies.is_empty());
}

#[test]
fn shared_trust_domain_needs_the_same_roots() {
    let mut merge = Merge::new(cluster(OWN));
    merge.handle_local(Change::Bundle(Arc::new(bundle(OWN, "k"))));
    let twin = cluster("twin");
    merge.add_remote(twin.clone(), domain(OWN));
    merge
        .handle_remote(&twin, Change::Bundle(Arc::new(bundle(OWN, "k"))))
        .unwrap();
    let refused = merge.handle_remote(&twin, Change::Bundle(Arc::new(bundle(OWN, "other"))));
    assert!(matches!(
        refused,
        Err(RefuseRemoteError::ForeignBundle { .. })
    ));
    // Removing the twin does not remove the own roots.
    merge
        .handle_remote(&twin, Change::BundleGone(domain(OWN)))
        .unwrap();
    merge.remove_remote(&twin);
    assert_eq!(
        merge
            .view()
            .bundles()
            .map(|b| b.roots_pem.as_str())
            .collect::<Vec<_>>(),
        ["k"]
    );
}

#[test]
fn unchanged_remote_workload_is_shared_not_copied() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let original = Arc::new(workload("tion", "b", &[("web", 80, 8080)]));
    merge
        .handle_remote(&cluster("tion"), Change::Workload(Arc::clone(&original)))
        .unwrap();
    // It was known with equal content; another pod shows what is taken over as it is.
    let fresh = Arc::new(workload("tion", "fresh", &[("web", 80, 8080)]));
    merge
        .handle_remote(&cluster("tion"), Change::Workload(Arc::clone(&fresh)))
        .unwrap();
    assert!(Arc::ptr_eq(
        merge.view().workload(&fresh.uid).unwrap(),
        &fresh
    ));
}
