use super::{Health, PortMapping, TunnelProtocol, Workload, WorkloadKind, WorkloadUid};
use crate::{NamespacedName, Protocol, ServicePort};

/// With the fields that must be there; all others by default.
fn bare() -> Workload {
    let stored = r#"{
        "uid": "c//Pod/ns/p", "name": "p", "namespace": "ns", "service_account": "sa", "trust_domain": "td",
        "cluster": "c", "node": "n", "addresses": ["10.0.0.1", "fd00::1"]
    }"#;
    serde_json::from_str(stored).unwrap()
}

fn key() -> NamespacedName {
    NamespacedName::new("ns", "s.ns.svc.cluster.local")
}

fn check(ports: &[(u16, u16)], service_port: u16, target_port: u16, expected: &[&str]) {
    let ports = ports.iter().map(|(service_port, target_port)| PortMapping {
        service_port: *service_port,
        target_port: *target_port,
        ..PortMapping::default()
    });
    let port = port(Protocol::Tcp, service_port, target_port);
    let workload = Workload {
        services: [(key(), ports.collect())].into_iter().collect(),
        ..bare()
    };
    let served = workload.serving_addresses(&key(), &port);
    let served: Vec<String> = served.map(|address| address.to_string()).collect();
    assert_eq!(
        served,
        expected,
        "{ports:?} {service_port}→{target_port}",
        ports = workload.services
    );
}

fn port(protocol: Protocol, port: u16, target_port: u16) -> ServicePort {
    ServicePort {
        port,
        target_port,
        protocol,
        ..ServicePort::default()
    }
}

#[test]
fn what_is_not_stored_has_defaults() {
    let workload = bare();
    assert_eq!(workload.capacity, 1);
    assert_eq!(workload.health, Health::Healthy);
    assert_eq!(workload.kind, WorkloadKind::Pod);
    assert_eq!(workload.tunnel_protocol, TunnelProtocol::None);
    assert!(!workload.demoted && !workload.host_network);
}

#[test]
fn uids_of_pods_have_istiods_form() {
    let uid = WorkloadUid::of_pod(&"koornacht".parse().unwrap(), "default", "x-wing");
    assert_eq!(uid.to_string(), "koornacht//Pod/default/x-wing");
}

#[test]
fn the_identity_is_made_of_the_workloads_own_names() {
    assert_eq!(bare().identity().to_string(), "spiffe://td/ns/ns/sa/sa");
}

/// The workload's own port, else the service's; none of both = it does not serve there.
#[test]
fn the_port_is_the_workloads_own_then_the_services() {
    check(&[(80, 8080)], 80, 0, &["10.0.0.1:8080", "[fd00::1]:8080"]);
    check(
        &[(80, 8080)],
        80,
        9090,
        &["10.0.0.1:8080", "[fd00::1]:8080"],
    );
    check(&[(80, 0)], 80, 9090, &["10.0.0.1:9090", "[fd00::1]:9090"]);
    check(
        &[(81, 8081), (80, 8080)],
        80,
        9090,
        &["10.0.0.1:8080", "[fd00::1]:8080"],
    );
    check(
        &[(81, 8081)],
        80,
        9090,
        &["10.0.0.1:9090", "[fd00::1]:9090"],
    );
    check(&[], 80, 9090, &["10.0.0.1:9090", "[fd00::1]:9090"]);
    check(&[(80, 0)], 80, 0, &[]);
    check(&[], 80, 0, &[]);
}

/// DNS is the usual case: port 53 of both protocols, with a target of its own for each.
#[test]
fn each_protocol_has_its_own_target() {
    let mapping = |protocol, target_port| PortMapping {
        service_port: 53,
        target_port,
        protocol,
    };
    let mut workload = bare();
    let mut check = |mappings: Vec<PortMapping>, expected: [(Protocol, u16); 2]| {
        workload.services = [(key(), mappings)].into_iter().collect();
        for (protocol, target) in expected {
            let mut served = workload.serving_addresses(&key(), &port(protocol, 53, 9));
            assert_eq!(served.next().unwrap().port(), target, "{protocol}");
        }
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    check(
        vec![mapping(tcp, 1053), mapping(udp, 2053)],
        [(tcp, 1053), (udp, 2053)],
    );
    check(
        vec![mapping(udp, 2053), mapping(tcp, 1053)],
        [(tcp, 1053), (udp, 2053)],
    );
    // A server that names no protocol means both.
    check(vec![mapping(tcp, 1053)], [(tcp, 1053), (udp, 1053)]);
    check(vec![], [(tcp, 9), (udp, 9)]);
}

#[test]
fn a_workload_does_not_serve_what_it_does_not_name() {
    assert_eq!(
        bare()
            .serving_addresses(&key(), &port(Protocol::Tcp, 80, 8080))
            .count(),
        0
    );
}

#[test]
fn a_workload_survives_storage() {
    let workload = Workload {
        services: [(
            key(),
            vec![PortMapping {
                service_port: 80,
                target_port: 8080,
                ..PortMapping::default()
            }],
        )]
        .into_iter()
        .collect(),
        labels: [("app".into(), "x".into())].into_iter().collect(),
        demoted: true,
        capacity: 0,
        ..bare()
    };
    let stored = serde_json::to_string(&workload).unwrap();
    assert_eq!(serde_json::from_str::<Workload>(&stored).unwrap(), workload);
}
