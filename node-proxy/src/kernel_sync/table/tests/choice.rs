//! Which frontends, backends and routes a view makes.

use tulle_datapath::Path;
use tulle_model::{PortMapping, Protocol, ServicePort, TunnelProtocol};

use super::*;
use crate::testing::Fixture;

fn check(mesh: &Fixture, node: &NodeView, local: &[&str], expected: &[&str]) {
    assert_eq!(
        lines(&kernel_table(&mesh.directory(), node, &captured(local))),
        expected
    );
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
