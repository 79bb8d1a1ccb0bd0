//! Numbers of workloads, services and our own messages.

use prost::Message;

use super::{Raw, check, extension, map_entry, one_entry, raw, raw_extension};
use crate::{tulle, workload};

fn gateway() -> workload::GatewayAddress {
    let address = workload::NetworkAddress {
        network: "net".into(),
        address: vec![1, 2, 3, 4],
        length: Some(0),
    };
    workload::GatewayAddress {
        destination: Some(workload::GatewayDestination::Address(address)),
        hbone_mtls_port: 15008,
    }
}

fn raw_gateway() -> Raw {
    raw()
        .message(2, raw().bytes(1, "net").bytes(2, [1, 2, 3, 4]).number(3, 0))
        .number(3, 15008)
}

fn port() -> workload::Port {
    workload::Port {
        service_port: 80,
        target_port: 8080,
        app_protocol: 5,
    }
}

fn raw_port() -> Raw {
    raw().number(1, 80).number(2, 8080).number(3, 5)
}

fn whole_workload() -> workload::Workload {
    workload::Workload {
        uid: "uid".into(),
        name: "name".into(),
        namespace: "namespace".into(),
        addresses: vec![vec![1, 2, 3, 4], vec![7; 16]],
        hostname: "hostname".into(),
        network: "network".into(),
        tunnel_protocol: 1,
        trust_domain: "td".into(),
        service_account: "sa".into(),
        waypoint: Some(gateway()),
        node: "node".into(),
        canonical_name: "cn".into(),
        canonical_revision: "cr".into(),
        workload_type: 3,
        workload_name: "wn".into(),
        native_tunnel: true,
        authorization_policies: vec!["a/b".into(), "c/d".into()],
        status: 1,
        cluster_id: "cluster".into(),
        network_gateway: Some(gateway()),
        services: [(
            "ns/host".into(),
            workload::PortList {
                ports: vec![port()],
            },
        )]
        .into(),
        application_tunnel: Some(workload::ApplicationTunnel {
            protocol: 1,
            port: 15088,
        }),
        locality: Some(workload::Locality {
            region: "r".into(),
            zone: "z".into(),
            subzone: "s".into(),
        }),
        network_mode: 1,
        extensions: vec![extension()],
        capacity: Some(300),
    }
}

#[test]
fn workload_fields() {
    let expected = whole_workload();
    let services = raw()
        .bytes(1, "ns/host")
        .message(2, raw().message(1, raw_port()));
    let made = raw()
        .bytes(1, "name")
        .bytes(2, "namespace")
        .bytes(3, [1, 2, 3, 4])
        .bytes(3, [7; 16])
        .bytes(4, "network")
        .number(5, 1)
        .bytes(6, "td")
        .bytes(7, "sa")
        .message(8, raw_gateway())
        .bytes(9, "node")
        .bytes(10, "cn")
        .bytes(11, "cr")
        .number(12, 3)
        .bytes(13, "wn")
        .number(14, 1)
        .bytes(16, "a/b")
        .bytes(16, "c/d")
        .number(17, 1)
        .bytes(18, "cluster")
        .message(19, raw_gateway())
        .bytes(20, "uid")
        .bytes(21, "hostname")
        .message(22, services)
        .message(23, raw().number(1, 1).number(2, 15088))
        .message(24, raw().bytes(1, "r").bytes(2, "z").bytes(3, "s"))
        .number(25, 1)
        .message(26, raw_extension())
        .message(27, raw().number(1, 300));
    check(made.clone(), expected.clone());
    let address = workload::Address {
        r#type: Some(workload::AddressType::Workload(Box::new(expected))),
    };
    check(raw().message(1, made), address);
}

#[test]
fn service_fields() {
    let hostname = workload::NamespacedHostname {
        namespace: "n".into(),
        hostname: "h".into(),
    };
    let by_name = workload::GatewayAddress {
        destination: Some(workload::GatewayDestination::Hostname(hostname)),
        hbone_mtls_port: 1,
    };
    let expected = workload::Service {
        name: "name".into(),
        namespace: "namespace".into(),
        hostname: "hostname".into(),
        addresses: vec![workload::NetworkAddress {
            network: "net".into(),
            address: vec![9; 4],
            length: None,
        }],
        ports: vec![port()],
        subject_alt_names: vec!["spiffe://a".into()],
        waypoint: Some(by_name.clone()),
        load_balancing: Some(workload::LoadBalancing {
            routing_preference: vec![6, 1],
            mode: 2,
            health_policy: 1,
        }),
        ip_families: 3,
        extensions: vec![extension()],
        canonical: true,
        ingress_use_waypoint: true,
        weighted_waypoints: vec![workload::WeightedWaypoint {
            destination: Some(by_name),
            weight: 30,
        }],
        visibility: 1,
    };
    let raw_by_name = || {
        raw()
            .message(1, raw().bytes(1, "n").bytes(2, "h"))
            .number(3, 1)
    };
    let made = raw()
        .bytes(1, "name")
        .bytes(2, "namespace")
        .bytes(3, "hostname")
        .message(4, raw().bytes(1, "net").bytes(2, [9; 4]))
        .message(5, raw_port())
        .bytes(6, "spiffe://a")
        .message(7, raw_by_name())
        .message(8, raw().bytes(1, [6, 1]).number(2, 2).number(3, 1))
        .number(9, 3)
        .message(10, raw_extension())
        .number(11, 1)
        .number(12, 1)
        .message(13, raw().message(1, raw_by_name()).number(2, 30))
        .number(14, 1);
    check(made.clone(), expected.clone());
    let address = workload::Address {
        r#type: Some(workload::AddressType::Service(Box::new(expected))),
    };
    check(raw().message(2, made), address);
}

#[test]
fn our_own_fields() {
    let bundle = tulle::TrustBundle {
        trust_domain: "td".into(),
        roots_pem: "pem".into(),
    };
    check(raw().bytes(1, "td").bytes(2, "pem"), bundle);
    let ports = vec![tulle::PortExtras {
        port: 53,
        name: "dns".into(),
        protocol: "UDP".into(),
    }];
    let service = tulle::ServiceExtras {
        global: true,
        shared: true,
        affinity: "local".into(),
        ports,
        publish_not_ready: true,
        external_name: "e".into(),
        session_affinity_secs: Some(0),
        internal_traffic_policy: "Local".into(),
        traffic_distribution: "PreferSameNode".into(),
        algorithm: "maglev".into(),
        failover: Some(tulle::FailoverExtras {
            order: vec![
                tulle::FailoverTarget {
                    cluster: Some("c".into()),
                    region: None,
                },
                tulle::FailoverTarget {
                    cluster: None,
                    region: Some("r".into()),
                },
            ],
            spill_at: 70,
        }),
        labels: one_entry("app", "x"),
    };
    let order = raw()
        .message(1, raw().bytes(1, "c"))
        .message(1, raw().bytes(2, "r"))
        .number(2, 70);
    let made = raw()
        .number(1, 1)
        .number(2, 1)
        .bytes(3, "local")
        .message(4, raw().number(1, 53).bytes(2, "dns").bytes(3, "UDP"))
        .number(5, 1)
        .bytes(6, "e")
        .number(7, 0)
        .bytes(8, "Local")
        .bytes(9, "PreferSameNode")
        .bytes(10, "maglev")
        .message(11, order)
        .message(12, map_entry("app", "x"));
    check(made, service);
}

#[test]
fn our_own_fields_of_a_workload() {
    let mapping = tulle::PortMapping {
        service_port: 53,
        target_port: 1053,
        protocol: "UDP".into(),
    };
    let mappings = tulle::PortMappings {
        ports: vec![mapping],
    };
    let named = tulle::NamedPort {
        port: 80,
        protocol: "TCP".into(),
    };
    let workload = tulle::WorkloadExtras {
        demoted: true,
        labels: one_entry("app", "x"),
        pod_hostname: "h".into(),
        terminating: true,
        service_ports: [("n/s".to_owned(), mappings)].into(),
        namespace_labels: one_entry("team", "y"),
        named_ports: [("web".to_owned(), named)].into(),
    };
    let mapping = raw().number(1, 53).number(2, 1053).bytes(3, "UDP");
    let entry = raw().bytes(1, "n/s").message(2, raw().message(1, mapping));
    let named = raw().number(1, 80).bytes(2, "TCP");
    check(
        raw()
            .number(1, 1)
            .message(2, map_entry("app", "x"))
            .bytes(3, "h")
            .number(4, 1)
            .message(5, entry)
            .message(6, map_entry("team", "y"))
            .message(7, raw().bytes(1, "web").message(2, named)),
        workload,
    );
}

/// Fields of later versions are skipped.
#[test]
fn unknown_fields_are_skipped() {
    let made = raw().bytes(1, "name").number(1000, 7).bytes(1001, "later");
    let expected = workload::Workload {
        name: "name".into(),
        ..Default::default()
    };
    assert_eq!(
        workload::Workload::decode(made.0.as_slice()).unwrap(),
        expected
    );
}
