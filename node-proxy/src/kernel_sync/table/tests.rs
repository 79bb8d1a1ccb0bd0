use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use proptest::prelude::*;
use tulle_balance::Ejected;
use tulle_datapath::{KernelTable, Path};
use tulle_model::{
    Affinity, Authorization, AuthorizationAction, AuthorizationScope, Change, Directory, Health,
    PortMapping, Protocol, ServicePort, TunnelProtocol, WorkloadUid,
};

use super::{NodeView, Sources, TableCache, kernel_table};
use crate::{
    config::SameNode,
    kernel_sync::{Touched, tests::changed},
    plane::InboundMode,
    testing::{Fixture, pod, service, serving},
};

fn node() -> NodeView {
    NodeView {
        cluster: "koornacht".parse().unwrap(),
        node: "koornacht-worker".to_owned(),
        same_node: SameNode::Direct,
        inbound: InboundMode::Permissive,
    }
}

fn captured(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|text| text.parse().unwrap()).collect()
}

/// The table as text: `vip/protocol -> backend path, …` and `address path`.
fn lines(table: &KernelTable) -> Vec<String> {
    let frontends = table.frontends.iter().map(|frontend| {
        let backends: Vec<String> = frontend
            .backends
            .iter()
            .map(|b| format!("{} {:?}", b.address, b.path))
            .collect();
        format!("{} -> {}", frontend.address, backends.join(", "))
    });
    let routes = table
        .workloads
        .iter()
        .map(|route| format!("{} {:?}", route.address, route.path));
    frontends.chain(routes).collect()
}

fn check(mesh: &Fixture, node: &NodeView, local: &[&str], expected: &[&str]) {
    assert_eq!(
        lines(&kernel_table(&mesh.directory(), node, &captured(local))),
        expected
    );
}

fn policy(scope: AuthorizationScope, namespace: &str) -> Change {
    Change::Policy(Arc::new(Authorization {
        name: "p".to_owned(),
        namespace: namespace.to_owned(),
        scope,
        action: AuthorizationAction::Allow,
        rules: Vec::new(),
        dry_run: false,
    }))
}

#[test]
fn each_backend_has_its_way() {
    let mut mesh = Fixture::default();
    let rebel = service("default", "rebel-base", &["172.20.1.7"]);
    let key = rebel.key();
    mesh.add_service(rebel);
    mesh.add_pod(serving(
        pod("koornacht", "default", "here", &["10.1.1.5"]),
        &key,
    ));
    mesh.add_pod(serving(
        pod("koornacht", "default", "here-uncaptured", &["10.1.1.6"]),
        &key,
    ));
    mesh.add_pod(serving(pod("tion", "default", "far", &["10.2.1.5"]), &key));
    let mut outside = serving(pod("koornacht", "default", "outside", &["10.1.1.7"]), &key);
    outside.tunnel_protocol = TunnelProtocol::None;
    mesh.add_pod(outside);
    check(
        &mesh,
        &node(),
        &["10.1.1.5"],
        &[
            "172.20.1.7:80/TCP -> 10.1.1.5:8080 Direct, 10.1.1.6:8080 Proxy, 10.1.1.7:8080 Plain, 10.2.1.5:8080 Proxy",
            "10.1.1.5 Direct",
            "10.1.1.6 Proxy",
            "10.2.1.5 Proxy",
        ],
    );
}

#[test]
fn direct_needs_everybodys_consent() {
    let mut mesh = Fixture::default();
    mesh.add_pod(pod(
        "koornacht",
        "default",
        "here",
        &["10.1.1.5", "fd00:10:1::5"],
    ));
    let both = ["10.1.1.5", "fd00:10:1::5"];
    let way = |mesh: &Directory, node: &NodeView, local: &[&str]| {
        kernel_table(mesh, node, &captured(local)).workloads[0].path
    };
    let directory = mesh.directory();
    assert_eq!(way(&directory, &node(), &both), Path::Direct);
    assert_eq!(
        way(&directory, &node(), &both[..1]),
        Path::Proxy,
        "one address is not captured"
    );
    let with = |change: fn(&mut NodeView)| {
        let mut node = node();
        change(&mut node);
        way(&directory, &node, &both)
    };
    assert_eq!(with(|node| node.same_node = SameNode::Mtls), Path::Proxy);
    assert_eq!(with(|node| node.inbound = InboundMode::Strict), Path::Proxy);
    assert_eq!(
        with(|node| node.node = "koornacht-worker2".to_owned()),
        Path::Proxy
    );
    assert_eq!(
        with(|node| node.cluster = "tion".parse().unwrap()),
        Path::Proxy
    );
    let under = |change: Change| {
        let mut directory = directory.clone();
        directory.apply(change);
        way(&directory, &node(), &both)
    };
    assert_eq!(
        under(policy(AuthorizationScope::Global, "root")),
        Path::Proxy
    );
    assert_eq!(
        under(policy(AuthorizationScope::Namespace, "default")),
        Path::Proxy
    );
    assert_eq!(
        under(policy(AuthorizationScope::Namespace, "other")),
        Path::Direct
    );
    assert_eq!(
        under(policy(AuthorizationScope::WorkloadSelector, "default")),
        Path::Direct
    );
    // Named by the workload, also when the policy itself has not arrived.
    let mut selected = pod("koornacht", "default", "here", &both);
    selected.authorization_policies = vec!["default/late".to_owned()];
    assert_eq!(under(Change::Workload(Arc::new(selected))), Path::Proxy);
}

#[test]
fn families_ports_and_protocols_stay_apart() {
    let mut mesh = Fixture::default();
    let mut dual = service("default", "dual", &["172.20.1.9", "fd00:20:1::9"]);
    dual.ports.push(ServicePort {
        name: "dns".to_owned(),
        port: 53,
        target_port: 0,
        protocol: Protocol::Udp,
        app_protocol: tulle_model::AppProtocol::Unknown,
    });
    let key = dual.key();
    mesh.add_service(dual);
    let mut both = serving(
        pod("koornacht", "default", "a", &["10.1.1.5", "fd00:10:1::5"]),
        &key,
    );
    let named = PortMapping {
        service_port: 53,
        target_port: 5353,
        protocol: Protocol::Udp,
    };
    both.services.get_mut(&key).unwrap().push(named);
    mesh.add_pod(both);
    mesh.add_pod(serving(
        pod("koornacht", "default", "b", &["10.1.1.6"]),
        &key,
    ));
    check(
        &mesh,
        &node(),
        &[],
        &[
            "172.20.1.9:53/UDP -> 10.1.1.5:5353 Plain",
            "172.20.1.9:80/TCP -> 10.1.1.5:8080 Proxy, 10.1.1.6:8080 Proxy",
            "[fd00:20:1::9]:53/UDP -> [fd00:10:1::5]:5353 Plain",
            "[fd00:20:1::9]:80/TCP -> [fd00:10:1::5]:8080 Proxy",
            "10.1.1.5 Proxy",
            "10.1.1.6 Proxy",
            "fd00:10:1::5 Proxy",
        ],
    );
}

#[test]
fn a_service_without_endpoints_is_known_and_empty() {
    let mut mesh = Fixture::default();
    let lonely = service("default", "lonely", &["172.20.1.9"]);
    let key = lonely.key();
    mesh.add_service(lonely);
    mesh.add_service(service("default", "headless", &[]));
    let mut sick = serving(pod("koornacht", "default", "sick", &["10.1.1.5"]), &key);
    sick.health = Health::Unhealthy;
    mesh.add_pod(sick);
    check(
        &mesh,
        &node(),
        &[],
        &["172.20.1.9:80/TCP -> ", "10.1.1.5 Proxy"],
    );
}

#[test]
fn an_endpoint_of_the_other_family_does_not_stand_for_its_cluster() {
    let mut mesh = Fixture::default();
    let mut near = service("default", "near", &["172.20.1.9"]);
    near.sharing.global = true;
    near.sharing.affinity = Affinity::Local;
    let key = near.key();
    mesh.add_service(near);
    mesh.add_pod(serving(
        pod("koornacht", "default", "v6", &["fd00:10:1::5"]),
        &key,
    ));
    mesh.add_pod(serving(pod("tion", "default", "v4", &["10.2.1.5"]), &key));
    let table = kernel_table(&mesh.directory(), &node(), &BTreeSet::new());
    assert_eq!(lines(&table)[0], "172.20.1.9:80/TCP -> 10.2.1.5:8080 Proxy");
}

#[test]
fn an_address_of_two_services_goes_to_the_first_by_name() {
    let mut mesh = Fixture::default();
    mesh.add_service(service("b", "late", &["172.20.1.9"]));
    let first = service("a", "first", &["172.20.1.9"]);
    let key = first.key();
    mesh.add_service(first);
    mesh.add_pod(serving(pod("tion", "a", "p", &["10.2.1.5"]), &key));
    let mut cache = TableCache::default();
    let all = Touched {
        everything: true,
        ..Touched::default()
    };
    let sources = Sources {
        directory: &mesh.directory(),
        node: &node(),
        captured: &BTreeSet::new(),
        ejected: &Ejected::none(),
    };
    let _changes = cache.update(&sources, &all);
    let (table, [_, _, _, conflicts]) = (cache.table(), cache.sizes());
    assert_eq!(conflicts, 1);
    assert_eq!(table.frontends.len(), 1);
    assert_eq!(table.frontends[0].backends.len(), 1);
}

#[test]
fn the_nodes_own_address_is_no_pods() {
    let mut mesh = Fixture::default();
    let mut host = pod("koornacht", "kube-system", "agent", &["172.18.1.11"]);
    host.host_network = true;
    mesh.add_pod(host);
    check(&mesh, &node(), &[], &[]);
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    PutService {
        number: u8,
        headless: bool,
        affinity: u8,
    },
    PutPod {
        number: u8,
        services: u8,
        sick: bool,
        demoted: bool,
        cluster: u8,
        selected: bool,
    },
    DropService(u8),
    DropPod(u8),
    PutPolicy {
        everywhere: bool,
    },
    DropPolicy,
    Capture(u8),
    Eject(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, any::<bool>(), 0..4_u8).prop_map(|(number, headless, affinity)| {
            Step::PutService {
                number,
                headless,
                affinity,
            }
        }),
        (
            0..6_u8,
            0..16_u8,
            any::<bool>(),
            any::<bool>(),
            0..2_u8,
            any::<bool>()
        )
            .prop_map(|(number, services, sick, demoted, cluster, selected)| {
                Step::PutPod {
                    number,
                    services,
                    sick,
                    demoted,
                    cluster,
                    selected,
                }
            }),
        (0..4_u8).prop_map(Step::DropService),
        (0..6_u8).prop_map(Step::DropPod),
        any::<bool>().prop_map(|everywhere| Step::PutPolicy { everywhere }),
        Just(Step::DropPolicy),
        any::<u8>().prop_map(Step::Capture),
        (0..8_u8).prop_map(Step::Eject),
    ];
    prop::collection::vec(step, 1..40)
}

fn test_service(number: u8) -> tulle_model::Service {
    service(
        "default",
        &format!("s{number}"),
        &[&format!("172.20.1.{number}")],
    )
}

fn change_of(step: &Step) -> Option<Change> {
    Some(match *step {
        Step::PutService {
            number,
            headless,
            affinity,
        } => {
            let mut service = test_service(number);
            if headless {
                service.addresses.clear();
            }
            let affinities = [
                Affinity::None,
                Affinity::Local,
                Affinity::Remote,
                Affinity::LocalNode,
            ];
            service.sharing.affinity = affinities[usize::from(affinity)];
            Change::Service(Arc::new(service))
        }
        Step::PutPod {
            number,
            services,
            sick,
            demoted,
            cluster,
            selected,
        } => {
            let cluster = ["koornacht", "tion"][usize::from(cluster)];
            // Two pods share each address, as when a pod is replaced.
            let mut workload = pod(
                cluster,
                "default",
                &format!("p{number}"),
                &[&format!("10.1.1.{}", number / 2)],
            );
            for service in (0..4).filter(|bit| services & (1 << bit) != 0) {
                workload = serving(workload, &test_service(service).key());
            }
            workload.health = if sick {
                Health::Unhealthy
            } else {
                Health::Healthy
            };
            workload.demoted = demoted;
            if selected {
                workload.authorization_policies.push("default/x".to_owned());
            }
            Change::Workload(Arc::new(workload))
        }
        Step::DropService(number) => Change::ServiceGone(test_service(number).key()),
        Step::DropPod(number) => {
            let cluster = "koornacht".parse().unwrap();
            Change::WorkloadGone(WorkloadUid::of_pod(
                &cluster,
                "default",
                &format!("p{number}"),
            ))
        }
        Step::PutPolicy { everywhere: true } => policy(AuthorizationScope::Global, "default"),
        Step::PutPolicy { everywhere: false } => policy(AuthorizationScope::Namespace, "default"),
        Step::DropPolicy => Change::PolicyGone("default/p".parse().unwrap()),
        Step::Capture(_) | Step::Eject(_) => return None,
    })
}

/// Endpoints that are out; bits name them.
fn ejected_of(mask: u8) -> Ejected {
    let numbers = (0..3).filter(|bit| mask & (1 << bit) != 0);
    Ejected::new(
        numbers.map(|n| format!("10.1.1.{n}:8080").parse().unwrap()),
        80,
    )
}

#[test]
fn a_release_reaches_every_pod_that_claims_the_address() {
    let pod = |number, services| Step::PutPod {
        number,
        services,
        sick: false,
        demoted: false,
        cluster: 0,
        selected: false,
    };
    // Pods 4 and 5 have one address; the one that is not found by it serves the service.
    check_steps(&[
        pod(4, 8),
        pod(5, 4),
        Step::Capture(28),
        Step::PutService {
            number: 2,
            headless: false,
            affinity: 0,
        },
        Step::Capture(32),
    ])
    .unwrap();
}

proptest! {
    #[test]
    fn a_kept_table_equals_a_new_one(steps in steps()) {
        check_steps(&steps)?;
    }
}

fn check_steps(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut directory = Directory::default();
    let mut local = BTreeSet::new();
    let mut ejected = Ejected::none();
    let mut kept = TableCache::default();
    let mut told = KernelTable::default();
    let node = node();
    let everything = Touched {
        everything: true,
        ..Touched::default()
    };
    for step in [None].into_iter().chain(steps.iter().map(Some)) {
        let mut touched = Touched::default();
        match step.map(|step| (step, change_of(step))) {
            None => touched = everything.clone(),
            Some((_, Some(change))) => {
                touched.note(&directory, &change);
                directory.apply(change);
            }
            Some((Step::Capture(mask), _)) => {
                local = (0..3)
                    .filter(|bit| mask & (1 << bit) != 0)
                    .map(|n| format!("10.1.1.{n}").parse().unwrap())
                    .collect();
            }
            Some((Step::Eject(mask), _)) => {
                ejected = ejected_of(*mask);
                let all = (0..3).map(|n| format!("10.1.1.{n}").parse().unwrap());
                touched.note_addresses(&directory, all);
            }
            Some((step, None)) => unreachable!("{step:?}"),
        }
        let sources = Sources {
            directory: &directory,
            node: &node,
            captured: &local,
            ejected: &ejected,
        };
        let update = kept.update(&sources, &touched);
        let mut new = TableCache::default();
        let _all = new.update(&sources, &everything);
        prop_assert_eq!(&kept, &new, "after {:?}", step);
        changed(&mut told, &update.changes);
        prop_assert_eq!(&told, &new.table(), "told after {:?}", step);
        let [frontends, backends, routes, _] = kept.sizes();
        prop_assert_eq!(frontends, told.frontends.len());
        prop_assert_eq!(routes, told.workloads.len());
        prop_assert!(backends >= told.frontends.iter().map(|f| f.backends.len()).sum());
    }
    Ok(())
}

#[test]
fn an_address_is_gone_when_nobody_has_it_any_more() {
    let node = node();
    let mut directory = Directory::default();
    let mut cache = TableCache::default();
    let (captured, ejected) = (BTreeSet::new(), Ejected::none());
    let mut step = |change: Change| {
        let mut touched = Touched::default();
        touched.note(&directory, &change);
        directory.apply(change);
        let sources = Sources {
            directory: &directory,
            node: &node,
            captured: &captured,
            ejected: &ejected,
        };
        let update = cache.update(&sources, &touched);
        (update.gone, cache.silent().len())
    };
    let put = |workload| Change::Workload(Arc::new(workload));
    let gone = |name| {
        let cluster = "tion".parse().unwrap();
        Change::WorkloadGone(WorkloadUid::of_pod(&cluster, "default", name))
    };
    let a = pod("tion", "default", "a", &["10.2.1.5"]);
    let address: IpAddr = "10.2.1.5".parse().unwrap();
    assert_eq!(step(put(a.clone())), (vec![], 0));
    let mut unready = a.clone();
    unready.health = Health::Unhealthy;
    assert_eq!(step(put(unready)), (vec![], 0), "it is still there");
    let mut silent = a.clone();
    silent.demoted = true;
    assert_eq!(step(put(silent)), (vec![], 1));
    assert_eq!(step(put(a)), (vec![], 0));
    // Another pod has the address before the first one leaves.
    assert_eq!(
        step(put(pod("tion", "default", "b", &["10.2.1.5"]))),
        (vec![], 0)
    );
    assert_eq!(step(gone("a")), (vec![], 0));
    assert_eq!(step(gone("b")), (vec![address], 0));
    // The address of a pod on its host's network is the host's.
    let mut host = pod("tion", "default", "h", &["172.18.2.11"]);
    host.host_network = true;
    assert_eq!(step(put(host)), (vec![], 0));
    assert_eq!(step(gone("h")), (vec![], 0));
}

/// Prints what one endpoint's change costs in a mesh of 10,000 services with ten endpoints each.
#[test]
fn one_endpoints_change_costs_what_it_touches() {
    let mut directory = Directory::default();
    let put = |workload| Change::Workload(Arc::new(workload));
    let endpoint = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        let name = format!("s{}", number / 10);
        let key = service("default", &name, &[]).key();
        let ip = format!("10.{a}.{b}.{c}");
        serving(pod("tion", "default", &format!("p{number}"), &[&ip]), &key)
    };
    for number in 0..10_000_u32 {
        let [_, _, a, b] = number.to_be_bytes();
        let vip = format!("172.20.{a}.{b}");
        let service = service("default", &format!("s{number}"), &[&vip]);
        directory.apply(Change::Service(Arc::new(service)));
    }
    for number in 0..100_000 {
        directory.apply(put(endpoint(number)));
    }
    let (node, captured, ejected) = (node(), BTreeSet::new(), Ejected::none());
    let mut cache = TableCache::default();
    let mut times = Vec::new();
    for round in 0..200_u32 {
        let mut touched = Touched {
            everything: round == 0,
            ..Touched::default()
        };
        let mut workload = endpoint(round * 499);
        workload.health = Health::Unhealthy;
        let change = put(workload);
        touched.note(&directory, &change);
        directory.apply(change);
        let sources = Sources {
            directory: &directory,
            node: &node,
            captured: &captured,
            ejected: &ejected,
        };
        let began = std::time::Instant::now();
        let update = cache.update(&sources, &touched);
        times.push(began.elapsed());
        if round > 0 {
            assert_eq!(update.changes.frontends.len(), 1);
            assert_eq!(update.changes.frontends[0].backends.len(), 9);
        }
    }
    let whole = times.remove(0);
    times.sort_unstable();
    println!(
        "the whole table {whole:?}, one change {:?}, at worst {:?}",
        times[99], times[198]
    );
    assert!(times[99] * 100 < whole, "{:?} of {whole:?}", times[99]);
}
