//! Histories of several clusters, and the view after them.

mod histories;
mod truth;

use proptest::prelude::*;
use tulle_model::{
    Affinity, AppProtocol, Authorization, AuthorizationAction, AuthorizationScope, Health,
    Locality, PortMapping, Protocol, Service, ServicePort, Sharing, SmallMap, Text, TunnelProtocol,
    WorkloadKind,
};

use super::{rules::mapped_ports, *};

const OWN: &str = "koornacht";

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn domain(name: &str) -> TrustDomain {
    format!("{name}.tulle").parse().unwrap()
}

fn key(service: &str) -> NamespacedName {
    NamespacedName::new("shop", format!("{service}.shop.svc.cluster.local"))
}

fn service(name: &str, global: bool, shared: bool) -> Service {
    Service {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        hostname: format!("{name}.shop.svc.cluster.local"),
        addresses: vec!["172.20.1.5".parse().unwrap()],
        ports: vec![port("", 80, 8080)],
        subject_alt_names: Vec::new(),
        sharing: Sharing {
            global,
            shared,
            affinity: Affinity::None,
        },
        ..Service::default()
    }
}

fn port(name: &str, port: u16, target_port: u16) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        port,
        target_port,
        protocol: Protocol::Tcp,
        app_protocol: AppProtocol::Unknown,
    }
}

fn workload(of: &str, name: &str, services: &[(&str, u16, u16)]) -> Workload {
    Workload {
        uid: WorkloadUid::of_pod(&cluster(of), "shop", name),
        name: name.to_owned(),
        namespace: "shop".into(),
        service_account: "default".into(),
        trust_domain: domain(of),
        cluster: cluster(of),
        node: format!("{of}-worker").into(),
        addresses: vec!["10.2.1.5".parse().unwrap()],
        hostname: Text::default(),
        labels: SmallMap::new(),
        locality: Locality::default(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        owner_name: name.into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        host_network: false,
        services: services
            .iter()
            .map(|(s, service_port, target_port)| {
                let mapping = PortMapping {
                    service_port: *service_port,
                    target_port: *target_port,
                    ..PortMapping::default()
                };
                (key(s), vec![mapping])
            })
            .collect(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: Arc::default(),
        named_ports: SmallMap::new(),
        demoted: false,
    }
}

fn bundle(of: &str, roots: &str) -> TrustBundle {
    TrustBundle {
        trust_domain: domain(of),
        roots_pem: roots.to_owned(),
    }
}

fn policy(name: &str) -> Authorization {
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: AuthorizationScope::Namespace,
        action: AuthorizationAction::Deny,
        rules: Vec::new(),
        dry_run: false,
    }
}

fn put(value: Workload) -> Change {
    Change::Workload(Arc::new(value))
}

fn put_service(value: Service) -> Change {
    Change::Service(Arc::new(value))
}

/// A mesh of koornacht and tion, tion alive, both with the service `web`.
fn mesh(local: Sharing, remote: Sharing) -> Merge {
    let mut merge = Merge::new(cluster(OWN));
    merge.handle_local(Change::Bundle(Arc::new(bundle(OWN, "k"))));
    merge.handle_local(put_service(Service {
        sharing: local,
        ..service("web", true, true)
    }));
    merge.handle_local(put(workload(OWN, "a", &[("web", 80, 8080)])));
    merge.add_remote(cluster("tion"), domain("tion"));
    merge.handle_heartbeat(&cluster("tion"), 1, Duration::ZERO);
    let tion = cluster("tion");
    let remote = Service {
        sharing: remote,
        ..service("web", true, true)
    };
    merge.handle_remote(&tion, put_service(remote)).unwrap();
    merge
        .handle_remote(&tion, put(workload("tion", "b", &[("web", 80, 8080)])))
        .unwrap();
    merge
        .handle_remote(&tion, Change::Bundle(Arc::new(bundle("tion", "t"))))
        .unwrap();
    merge
}

fn sharing(global: bool, shared: bool) -> Sharing {
    Sharing {
        global,
        shared,
        affinity: Affinity::None,
    }
}

/// Names of the workloads that serve `web` in the view.
fn endpoints(merge: &Merge) -> Vec<String> {
    merge
        .view()
        .endpoints(&key("web"))
        .map(|w| w.name.clone())
        .collect()
}

fn remote_workload(merge: &Merge) -> Arc<Workload> {
    let uid = WorkloadUid::of_pod(&cluster("tion"), "shop", "b");
    merge
        .view()
        .workload(&uid)
        .cloned()
        .expect("the remote workload is in the view")
}

#[test]
fn endpoints_need_global_at_both_and_shared_there() {
    for local_global in [false, true] {
        for local_shared in [false, true] {
            for remote_global in [false, true] {
                for remote_shared in [false, true] {
                    let (local, remote) = (
                        sharing(local_global, local_shared),
                        sharing(remote_global, remote_shared),
                    );
                    let merge = mesh(local, remote);
                    // Whether it shares its own says nothing about what it uses.
                    let expected: &[&str] = if local_global && remote_global && remote_shared {
                        &["a", "b"]
                    } else {
                        &["a"]
                    };
                    assert_eq!(endpoints(&merge), expected, "{local:?} {remote:?}");
                    // As an identity it is there in any case.
                    assert!(!remote_workload(&merge).demoted);
                }
            }
        }
    }
}

#[test]
fn annotations_of_the_lab_act_at_once() {
    let mut merge = mesh(sharing(false, false), sharing(false, false));
    let tion = cluster("tion");
    assert_eq!(endpoints(&merge), ["a"]);
    merge.handle_local(put_service(service("web", true, true)));
    assert_eq!(endpoints(&merge), ["a"]);
    merge
        .handle_remote(&tion, put_service(service("web", true, true)))
        .unwrap();
    assert_eq!(endpoints(&merge), ["a", "b"]);
    // Scaled to nothing here: only the other cluster's are left.
    let gone = Change::WorkloadGone(WorkloadUid::of_pod(&cluster(OWN), "shop", "a"));
    merge.handle_local(gone);
    assert_eq!(endpoints(&merge), ["b"]);
    merge.handle_local(put(workload(OWN, "a", &[("web", 80, 8080)])));
    merge
        .handle_remote(&tion, put_service(service("web", true, false)))
        .unwrap();
    assert_eq!(endpoints(&merge), ["a"]);
    merge
        .handle_remote(&tion, put_service(service("web", true, true)))
        .unwrap();
    merge.handle_local(put_service(service("web", false, false)));
    assert_eq!(endpoints(&merge), ["a"]);
}

#[test]
fn remote_services_stay_where_they_are() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let mut other = service("only-there", true, true);
    other.addresses = vec!["172.20.2.9".parse().unwrap()];
    merge
        .handle_remote(&cluster("tion"), put_service(other))
        .unwrap();
    let lonely = workload("tion", "c", &[("only-there", 80, 8080)]);
    merge.handle_remote(&cluster("tion"), put(lonely)).unwrap();
    assert_eq!(merge.view().services().count(), 1);
    assert!(
        merge
            .view()
            .service_at("172.20.2.9".parse().unwrap())
            .is_none()
    );
    let uid = WorkloadUid::of_pod(&cluster("tion"), "shop", "c");
    assert!(merge.view().workload(&uid).unwrap().services.is_empty());
}

#[test]
fn service_that_goes_here_takes_the_remote_endpoints_along() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    merge.handle_local(Change::ServiceGone(key("web")));
    assert!(remote_workload(&merge).services.is_empty());
    assert!(merge.view().service(&key("web")).is_none());
    merge.handle_local(put_service(service("web", true, true)));
    assert_eq!(endpoints(&merge), ["a", "b"]);
    merge
        .handle_remote(&cluster("tion"), Change::ServiceGone(key("web")))
        .unwrap();
    assert_eq!(endpoints(&merge), ["a"]);
}

#[test]
fn ports_belong_together_by_name() {
    let check = |here: Vec<ServicePort>,
                 there: Vec<ServicePort>,
                 own: &[(u16, u16)],
                 expected: Option<&[(u16, u16)]>| {
        let pairs = |pairs: &[(u16, u16)]| -> Vec<PortMapping> {
            let mapping = |(service_port, target_port): &(u16, u16)| PortMapping {
                service_port: *service_port,
                target_port: *target_port,
                ..PortMapping::default()
            };
            pairs.iter().map(mapping).collect()
        };
        let here = Service {
            ports: here,
            ..service("web", true, true)
        };
        let there = Service {
            ports: there,
            ..service("web", true, true)
        };
        assert_eq!(
            mapped_ports(&here, &there, &pairs(own)),
            expected.map(pairs),
            "{here:?} {there:?}"
        );
    };
    // The usual case: nothing to translate.
    check(
        vec![port("", 80, 8080)],
        vec![port("", 80, 8080)],
        &[(80, 8080)],
        Some(&[(80, 8080)]),
    );
    // Other target port there: the endpoint's own counts.
    check(
        vec![port("", 80, 8080)],
        vec![port("", 80, 9090)],
        &[(80, 9090)],
        Some(&[(80, 9090)]),
    );
    // Other service port there: found by its name.
    check(
        vec![port("http", 80, 8080)],
        vec![port("http", 8000, 9090)],
        &[(8000, 9090)],
        Some(&[(80, 9090)]),
    );
    // The endpoint says nothing: the service there does.
    check(
        vec![port("http", 80, 0)],
        vec![port("http", 80, 9090)],
        &[],
        Some(&[(80, 9090)]),
    );
    // Named differently, same number.
    check(
        vec![port("web", 80, 0)],
        vec![port("http", 80, 0)],
        &[(80, 7070)],
        Some(&[(80, 7070)]),
    );
    // A port that is not there is not served; when none is, nothing is.
    check(
        vec![port("a", 1, 1), port("b", 2, 2)],
        vec![port("a", 1, 1)],
        &[(1, 1)],
        Some(&[(1, 1)]),
    );
    check(
        vec![port("b", 2, 2)],
        vec![port("a", 1, 1)],
        &[(1, 1)],
        None,
    );
    // Headless services may have no ports at all.
    check(vec![], vec![], &[], Some(&[]));
}

/// Whoever owns the service's address and name decides what the service is; the others only lend endpoints.
#[test]
fn the_own_clusters_object_is_the_service() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let other = Service {
        session_affinity: Some(60),
        internal_traffic_policy: tulle_model::TrafficPolicy::Local,
        algorithm: tulle_model::Algorithm::Maglev,
        ports: vec![port("", 8080, 9090)],
        ..service("web", true, true)
    };
    let tion = cluster("tion");
    merge.handle_remote(&tion, put_service(other)).unwrap();
    let here = merge.view().service(&key("web")).unwrap();
    assert_eq!(**here, service("web", true, true));
    // What changes here, changes here at once, and no endpoint with it.
    let mine = Service {
        session_affinity: Some(30),
        ..service("web", true, true)
    };
    let told = merge.handle_local(put_service(mine.clone()));
    assert_eq!(told, [put_service(mine)]);
}

#[test]
fn each_protocol_of_a_port_is_mapped_by_itself() {
    let udp = |number, target| ServicePort {
        protocol: Protocol::Udp,
        ..port("dns", number, target)
    };
    let mapping = |service_port, target_port, protocol| PortMapping {
        service_port,
        target_port,
        protocol,
    };
    let of = |ports: Vec<ServicePort>| Service {
        ports,
        ..service("web", true, true)
    };
    let here = of(vec![udp(53, 0), port("dns-tcp", 53, 0)]);
    let there = of(vec![port("dns-tcp", 5300, 0), udp(5300, 0)]);
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let own = [mapping(5300, 2053, tcp), mapping(5300, 1053, udp)];
    assert_eq!(
        mapped_ports(&here, &there, &own).unwrap(),
        [mapping(53, 1053, udp), mapping(53, 2053, tcp)]
    );
}

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

fn pod(of: &str, number: u8, services: u8) -> Workload {
    let names = ["s0", "s1", "s2"];
    let served: Vec<(&str, u16, u16)> = names
        .iter()
        .enumerate()
        .filter(|(n, _)| services & (1 << n) != 0)
        .map(|(_, s)| (*s, 80, 8080))
        .collect();
    workload(of, &format!("p{number}"), &served)
}

/// The view by name, so that two directories can be compared.
fn flat(view: &Directory) -> BTreeMap<String, String> {
    let workloads = view
        .workloads()
        .map(|w| (w.uid.0.to_string(), format!("{w:?}")));
    let services = view
        .services()
        .map(|s| (s.key().to_string(), format!("{s:?}")));
    let bundles = view
        .bundles()
        .map(|b| (b.trust_domain.to_string(), format!("{b:?}")));
    workloads.chain(services).chain(bundles).collect()
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
