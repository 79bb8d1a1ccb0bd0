//! What is refused, and that the refusal names the field.

mod policy;

use prost::Message;

use super::super::{DecodeResourceError, decode_address, decode_bundle};
use crate::{
    Any, tulle, type_url,
    workload::{
        Address, AddressType, ApplicationTunnel, Extension, GatewayAddress, GatewayDestination,
        LoadBalancing, NetworkAddress, Port, PortList, Service, WeightedWaypoint, Workload,
    },
};

fn good_workload() -> Workload {
    Workload {
        uid: "c//Pod/ns/p".into(),
        name: "p".into(),
        namespace: "ns".into(),
        ..Workload::default()
    }
}

fn good_service() -> Service {
    Service {
        name: "s".into(),
        namespace: "ns".into(),
        hostname: "s.ns.svc".into(),
        ..Service::default()
    }
}

fn check(result: Result<(), DecodeResourceError>, field: &str) {
    let error = result.expect_err(field);
    assert_eq!(error.field_path(), Some(field), "{error}");
    assert!(error.to_string().contains(field), "{error}");
}

fn check_workload(edit: impl FnOnce(&mut Workload), field: &str) {
    let mut workload = good_workload();
    edit(&mut workload);
    let address = Address {
        r#type: Some(AddressType::Workload(Box::new(workload))),
    };
    check(decode_address(&address.encode_to_vec()).map(drop), field);
}

fn check_service(edit: impl FnOnce(&mut Service), field: &str) {
    let mut service = good_service();
    edit(&mut service);
    let address = Address {
        r#type: Some(AddressType::Service(Box::new(service))),
    };
    check(decode_address(&address.encode_to_vec()).map(drop), field);
}

#[test]
fn the_unedited_resources_are_good() {
    for of in [
        AddressType::Workload(Box::new(good_workload())),
        AddressType::Service(Box::new(good_service())),
    ] {
        let address = Address { r#type: Some(of) };
        decode_address(&address.encode_to_vec()).unwrap();
    }
}

#[test]
fn an_address_of_no_kind_is_refused() {
    check(decode_address(&[]).map(drop), "type");
    // Field 3: a kind of a later version.
    check(decode_address(&[0x1a, 0x00]).map(drop), "type");
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for bytes in [
        &[0xff][..],
        &[0x0a, 0x05, 0x01],
        &[0x0a, 0x03, 0xa2, 0x01, 0xff],
    ] {
        let error = decode_address(bytes).unwrap_err();
        assert!(
            matches!(error, DecodeResourceError::Protobuf(_)),
            "{error:?}"
        );
        assert_eq!(error.field_path(), None);
    }
}

#[test]
fn unknown_enum_values_of_a_workload_are_refused() {
    check_workload(|w| w.tunnel_protocol = 3, "workload.tunnel_protocol");
    check_workload(|w| w.tunnel_protocol = 2, "workload.tunnel_protocol"); // LEGACY_ISTIO_MTLS
    check_workload(|w| w.status = 9, "workload.status");
    check_workload(|w| w.status = -1, "workload.status");
    check_workload(|w| w.network_mode = 2, "workload.network_mode");
    let tunnel = |protocol, port| Some(ApplicationTunnel { protocol, port });
    check_workload(
        |w| w.application_tunnel = tunnel(2, 0),
        "workload.application_tunnel.protocol",
    );
    check_workload(
        |w| w.application_tunnel = tunnel(1, 65_536),
        "workload.application_tunnel.port",
    );
}

#[test]
fn addresses_of_a_wrong_length_are_refused() {
    for len in [0, 3, 5, 15, 17] {
        check_workload(
            |w| w.addresses = vec![vec![1; 4], vec![1; len]],
            "workload.addresses[1]",
        );
    }
    let address = |len| NetworkAddress {
        address: vec![1; len],
        ..Default::default()
    };
    check_service(
        |s| s.addresses = vec![address(16), address(3)],
        "service.addresses[1].address",
    );
    let block = |len| NetworkAddress {
        address: vec![1; 4],
        length: Some(len),
        ..Default::default()
    };
    check_service(
        |s| s.addresses = vec![block(33)],
        "service.addresses[0].length",
    );
    check_service(
        |s| s.addresses = vec![block(256 + 8)],
        "service.addresses[0].length",
    );
}

#[test]
fn names_that_cannot_be_a_key_are_refused() {
    check_workload(|w| w.uid.clear(), "workload.uid");
    check_workload(
        |w| w.trust_domain = "Cluster.Local".into(),
        "workload.trust_domain",
    );
    for key in ["no-slash", "/host", "ns/", "a/b/c"] {
        check_workload(
            |w| w.services = [(key.to_owned(), PortList::default())].into(),
            "workload.services",
        );
    }
    check_service(|s| s.namespace.clear(), "service.namespace");
    check_service(|s| s.hostname.clear(), "service.hostname");
    check_service(|s| s.hostname = "a/b".into(), "service.hostname");
}

#[test]
fn ports_above_the_range_are_refused() {
    let port = |service_port, target_port, app_protocol| Port {
        service_port,
        target_port,
        app_protocol,
    };
    let served = |port| [("ns/h".to_owned(), PortList { ports: vec![port] })].into();
    check_workload(
        |w| w.services = served(port(65_536, 1, 0)),
        "workload.services[ns/h].ports.service_port",
    );
    check_workload(
        |w| w.services = served(port(1, 65_536, 0)),
        "workload.services[ns/h].ports.target_port",
    );
    check_service(
        |s| s.ports = vec![port(1, 1, 0), port(70_000, 1, 0)],
        "service.ports[1].service_port",
    );
    check_service(
        |s| s.ports = vec![port(1, u32::MAX, 0)],
        "service.ports[0].target_port",
    );
}

#[test]
fn gateways_without_a_place_are_refused() {
    let nowhere = GatewayAddress {
        destination: None,
        hbone_mtls_port: 15008,
    };
    let short = GatewayAddress {
        destination: Some(GatewayDestination::Address(NetworkAddress {
            address: vec![1; 3],
            ..Default::default()
        })),
        hbone_mtls_port: 15008,
    };
    check_workload(
        |w| w.waypoint = Some(nowhere.clone()),
        "workload.waypoint.destination",
    );
    check_workload(
        |w| w.network_gateway = Some(nowhere.clone()),
        "workload.network_gateway.destination",
    );
    check_workload(
        |w| w.waypoint = Some(short),
        "workload.waypoint.address.address",
    );
    check_service(
        |s| s.waypoint = Some(nowhere.clone()),
        "service.waypoint.destination",
    );
    let unset = WeightedWaypoint {
        destination: None,
        weight: 1,
    };
    check_service(
        |s| s.weighted_waypoints = vec![unset],
        "service.weighted_waypoints[0].destination",
    );
    let weighted = WeightedWaypoint {
        destination: Some(nowhere),
        weight: 1,
    };
    check_service(
        |s| s.weighted_waypoints = vec![weighted],
        "service.weighted_waypoints[0].destination.destination",
    );
}

#[test]
fn unknown_enum_values_of_a_service_are_refused() {
    check_service(|s| s.ip_families = 4, "service.ip_families");
    let balance = |routing_preference, mode, health_policy| {
        Some(LoadBalancing {
            routing_preference,
            mode,
            health_policy,
        })
    };
    let field = |name: &str| format!("service.load_balancing.{name}");
    check_service(
        |s| s.load_balancing = balance(vec![6, 7], 0, 0),
        &field("routing_preference[1]"),
    );
    check_service(
        |s| s.load_balancing = balance(vec![0], 0, 0),
        &field("routing_preference[0]"),
    );
    check_service(|s| s.load_balancing = balance(vec![], 4, 0), &field("mode"));
    check_service(
        |s| s.load_balancing = balance(vec![], 0, 2),
        &field("health_policy"),
    );
}

#[test]
fn bad_extras_are_refused() {
    let extension = |name: &str, type_url: &str, value: Vec<u8>| {
        vec![Extension {
            name: name.into(),
            config: Some(Any {
                type_url: type_url.into(),
                value,
            }),
        }]
    };
    let wrong_type = || extension(tulle::SERVICE_EXTENSION, type_url::WORKLOAD_EXTRAS, vec![]);
    check_service(
        |s| s.extensions = wrong_type(),
        "service.extensions[mesh.tulle.io/service].config",
    );
    let empty = Extension {
        name: tulle::WORKLOAD_EXTENSION.into(),
        config: None,
    };
    check_workload(
        |w| w.extensions = vec![empty],
        "workload.extensions[mesh.tulle.io/workload].config",
    );
    let affinity = tulle::ServiceExtras {
        affinity: "nearby".into(),
        ..Default::default()
    };
    let with = |extras: &tulle::ServiceExtras| {
        extension(
            tulle::SERVICE_EXTENSION,
            type_url::SERVICE_EXTRAS,
            extras.encode_to_vec(),
        )
    };
    check_service(
        |s| s.extensions = with(&affinity),
        "service.extensions[mesh.tulle.io/service].affinity",
    );
    let sctp = tulle::PortExtras {
        port: 9,
        name: "x".into(),
        protocol: "SCTP".into(),
    };
    let ports = tulle::ServiceExtras {
        ports: vec![sctp],
        ..Default::default()
    };
    let edit = |s: &mut Service| {
        s.ports = vec![Port {
            service_port: 9,
            target_port: 9,
            app_protocol: 0,
        }];
        s.extensions = with(&ports);
    };
    check_service(
        edit,
        "service.extensions[mesh.tulle.io/service].ports[9].protocol",
    );
}

/// A word that this build does not know could mean that an endpoint must not be used; guessing is worse than refusing.
#[test]
fn words_of_later_versions_are_refused() {
    let with = |extras: tulle::ServiceExtras| Extension {
        name: tulle::SERVICE_EXTENSION.into(),
        config: Some(crate::pack(type_url::SERVICE_EXTRAS, &extras)),
    };
    let check = |edit: fn(&mut tulle::ServiceExtras), field: &str| {
        let mut extras = tulle::ServiceExtras::default();
        edit(&mut extras);
        let path = format!("service.extensions[mesh.tulle.io/service].{field}");
        check_service(|s| s.extensions = vec![with(extras)], &path);
    };
    fn failover(e: &mut tulle::ServiceExtras) -> &mut tulle::FailoverExtras {
        e.failover.get_or_insert_default()
    }
    fn place(cluster: Option<&str>, region: Option<&str>) -> tulle::FailoverTarget {
        tulle::FailoverTarget {
            cluster: cluster.map(str::to_owned),
            region: region.map(str::to_owned),
        }
    }
    check(
        |e| e.internal_traffic_policy = "local".into(),
        "internal_traffic_policy",
    );
    check(
        |e| e.traffic_distribution = "PreferClose".into(),
        "traffic_distribution",
    );
    check(|e| e.algorithm = "first".into(), "algorithm");
    check(|e| failover(e).spill_at = 101, "failover.spill_at");
    check(|e| failover(e).spill_at = 1 << 20, "failover.spill_at");
    let (neither, both) = ("failover.order[1]", "failover.order[0]");
    check(
        |e| failover(e).order = vec![place(None, Some("r")), place(None, None)],
        neither,
    );
    check(
        |e| failover(e).order = vec![place(Some("c"), Some("r"))],
        both,
    );
    check(
        |e| failover(e).order = vec![place(Some("NO"), None)],
        "failover.order[0]",
    );
    check(
        |e| failover(e).order = vec![place(None, Some("r")); 65],
        "failover.order",
    );
}

#[test]
fn bad_mappings_of_ports_are_refused() {
    let check = |service: &str, protocol: &str, target_port, field: &str| {
        let mapping = tulle::PortMapping {
            service_port: 53,
            target_port,
            protocol: protocol.into(),
        };
        let mappings = tulle::PortMappings {
            ports: vec![mapping],
        };
        let extras = tulle::WorkloadExtras {
            service_ports: [(service.to_owned(), mappings)].into(),
            ..Default::default()
        };
        let edit = |w: &mut Workload| {
            w.services = [("n/s".to_owned(), PortList::default())].into();
            w.extensions = vec![Extension {
                name: tulle::WORKLOAD_EXTENSION.into(),
                config: Some(crate::pack(type_url::WORKLOAD_EXTRAS, &extras)),
            }];
        };
        let path = "workload.extensions[mesh.tulle.io/workload].service_ports";
        check_workload(edit, &format!("{path}{field}"));
    };
    check("n/s", "SCTP", 53, "[n/s].protocol");
    check("n/s", "UDP", 65_536, "[n/s].target_port");
    check("n/other", "UDP", 53, "[n/other]");
}

#[test]
fn a_bundle_needs_a_trust_domain() {
    for domain in ["", "UPPER", "a/b"] {
        let bundle = tulle::TrustBundle {
            trust_domain: domain.into(),
            roots_pem: "x".into(),
        };
        check(
            decode_bundle(&bundle.encode_to_vec()).map(drop),
            "bundle.trust_domain",
        );
    }
}

/// What a peer wrote is cut before it reaches a log, in values and in keys of maps.
#[test]
fn the_text_of_an_error_is_short() {
    let trust_domain = "X".repeat(1 << 20);
    let bundle = tulle::TrustBundle {
        trust_domain,
        roots_pem: String::new(),
    };
    let of_bundle = decode_bundle(&bundle.encode_to_vec()).unwrap_err();
    let mut workload = good_workload();
    let port = Port {
        service_port: 65_536,
        ..Default::default()
    };
    let key = format!("ns/{}", "h".repeat(1 << 20));
    workload.services = [(key, PortList { ports: vec![port] })].into();
    let address = Address {
        r#type: Some(AddressType::Workload(Box::new(workload))),
    };
    let of_workload = decode_address(&address.encode_to_vec()).unwrap_err();
    for error in [of_bundle, of_workload] {
        assert!(error.to_string().len() < 800, "{}", error.to_string().len());
    }
}
