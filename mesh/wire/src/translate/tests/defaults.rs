//! What an empty field means, and what real servers send that Tulle has no notion of.

use prost::Message;
use tulle_model::{Affinity, Service, TrafficDistribution, TrafficPolicy, Workload};

use super::super::{DecodedAddress, decode_address, encode_service};
use crate::{
    Any,
    workload::{
        self as wire, Address, AddressType, ApplicationTunnel, Extension, GatewayAddress,
        GatewayDestination, LoadBalancing, NamespacedHostname, NetworkAddress,
    },
};

fn read_workload(message: wire::Workload) -> Workload {
    let address = Address {
        r#type: Some(AddressType::Workload(Box::new(message))),
    };
    match decode_address(&address.encode_to_vec()) {
        Ok(DecodedAddress::Workload(workload)) => workload,
        other => panic!("{other:?}"),
    }
}

fn read_service(message: wire::Service) -> Service {
    let address = Address {
        r#type: Some(AddressType::Service(Box::new(message))),
    };
    match decode_address(&address.encode_to_vec()) {
        Ok(DecodedAddress::Service(service)) => service,
        other => panic!("{other:?}"),
    }
}

fn bare_service() -> wire::Service {
    wire::Service {
        namespace: "ns".into(),
        hostname: "h".into(),
        ..Default::default()
    }
}

#[test]
fn empty_fields_of_a_workload_mean_what_they_mean_to_ztunnel() {
    let workload = read_workload(wire::Workload {
        uid: "u".into(),
        ..Default::default()
    });
    assert_eq!(workload.trust_domain.as_str(), "cluster.local");
    assert_eq!(workload.service_account, "default");
    assert_eq!(workload.cluster.as_str(), "kubernetes");
    assert_eq!(workload.capacity, 1);
    assert_eq!(workload.tunnel_protocol, tulle_model::TunnelProtocol::None);
    assert!(!workload.host_network && !workload.demoted);
}

#[test]
fn any_cluster_id_of_istio_becomes_a_name() {
    let name = |id: &str| {
        let message = wire::Workload {
            uid: "u".into(),
            cluster_id: id.into(),
            ..Default::default()
        };
        read_workload(message).cluster.to_string()
    };
    assert_eq!(name("koornacht"), "koornacht");
    assert_eq!(name("Kubernetes"), "kubernetes");
    for id in [
        "gke_project_region_cluster-with-a-long-name",
        "a_b",
        "_",
        "ß",
        "-",
        "é-é-é-é-é-é-é-é-é-é",
    ] {
        assert!(name(id).len() <= 32, "{id}");
        assert_eq!(name(id), name(id));
    }
    assert_ne!(name("a_b"), name("a.b"));
    assert_ne!(name("a_b"), name("a-b"));
}

#[test]
fn what_the_model_cannot_say_is_left_out() {
    let gateway = GatewayAddress {
        destination: Some(GatewayDestination::Hostname(NamespacedHostname {
            namespace: "n".into(),
            hostname: "h".into(),
        })),
        hbone_mtls_port: 15008,
    };
    let foreign = Extension {
        name: "io.istio/other".into(),
        config: Some(Any {
            type_url: "type.googleapis.com/x".into(),
            value: vec![0xff],
        }),
    };
    let workload = read_workload(wire::Workload {
        uid: "NetworkGateway/net/1.2.3.4/15008".into(),
        network: "net".into(),
        hostname: "example.com".into(),
        waypoint: Some(gateway.clone()),
        network_gateway: Some(gateway.clone()),
        native_tunnel: true,
        application_tunnel: Some(ApplicationTunnel {
            protocol: 1,
            port: 15088,
        }),
        extensions: vec![foreign.clone()],
        capacity: Some(7),
        ..Default::default()
    });
    assert_eq!(workload.capacity, 7);
    assert_eq!(
        workload.hostname, "",
        "the wire's hostname is a name to resolve, not the pod's"
    );
    let service = read_service(wire::Service {
        waypoint: Some(gateway),
        visibility: 77, // ztunnel: unknown visibility is PUBLIC
        extensions: vec![foreign],
        ..bare_service()
    });
    assert_eq!(service.key().to_string(), "ns/h");
}

/// Kinds of owners and application protocols are hints: those of a later version must not lose the resource.
#[test]
fn hints_of_later_versions_are_ignored() {
    let workload = read_workload(wire::Workload {
        uid: "u".into(),
        workload_type: 9,
        ..Default::default()
    });
    assert_eq!(workload.kind, tulle_model::WorkloadKind::Pod);
    let port = wire::Port {
        service_port: 80,
        target_port: 80,
        app_protocol: 9,
    };
    let service = read_service(wire::Service {
        ports: vec![port],
        ..bare_service()
    });
    assert_eq!(
        service.ports[0].app_protocol,
        tulle_model::AppProtocol::Unknown
    );
}

#[test]
fn only_whole_addresses_become_virtual_addresses() {
    let address = |bytes: &[u8], length| NetworkAddress {
        network: "n".into(),
        address: bytes.into(),
        length,
    };
    let addresses = vec![
        address(&[10, 0, 0, 1], None),
        address(&[10, 0, 0, 2], Some(32)),
        address(&[10, 1, 0, 0], Some(16)),
        address(&[0; 16], Some(128)),
    ];
    let service = read_service(wire::Service {
        addresses,
        ..bare_service()
    });
    let texts: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.1", "10.0.0.2", "::"]);
}

/// Scope: NODE 4, CLUSTER 5, NETWORK 6. Mode: STRICT 1, FAILOVER 2.
#[test]
fn load_balancing_of_others_is_read_as_far_as_it_goes() {
    let read = |routing_preference: &[i32], mode, health_policy| {
        let load_balancing = Some(LoadBalancing {
            routing_preference: routing_preference.to_vec(),
            mode,
            health_policy,
        });
        let service = read_service(wire::Service {
            load_balancing,
            ..bare_service()
        });
        (service.sharing.affinity, service.publish_not_ready)
    };
    assert_eq!(read(&[5], 2, 0), (Affinity::Local, false));
    assert_eq!(read(&[5, 4], 2, 0), (Affinity::LocalNode, false));
    assert_eq!(read(&[6, 1, 2], 2, 0), (Affinity::None, false));
    assert_eq!(read(&[4], 1, 0), (Affinity::None, false));
    assert_eq!(read(&[], 0, 1), (Affinity::None, true));
    assert_eq!(read(&[], 3, 1), (Affinity::None, true));
}

/// REGION 1, ZONE 2, SUBZONE 3. What istiod makes of Kubernetes' fields comes back as those.
#[test]
fn distances_of_istiod_are_read() {
    let read = |routing_preference: &[i32], mode| {
        let load_balancing = Some(LoadBalancing {
            routing_preference: routing_preference.to_vec(),
            mode,
            health_policy: 0,
        });
        let service = read_service(wire::Service {
            load_balancing,
            ..bare_service()
        });
        assert_eq!(service.sharing.affinity, Affinity::None);
        (
            service.internal_traffic_policy,
            service.traffic_distribution,
        )
    };
    use {TrafficDistribution as Near, TrafficPolicy as Policy};
    assert_eq!(read(&[4], 1), (Policy::Local, Near::Any));
    assert_eq!(read(&[6, 1, 2], 2), (Policy::Cluster, Near::PreferSameZone));
    assert_eq!(
        read(&[6, 1, 2, 3, 4], 2),
        (Policy::Cluster, Near::PreferSameNode)
    );
    assert_eq!(read(&[1, 2, 4], 2), (Policy::Cluster, Near::PreferSameNode));
    assert_eq!(read(&[2, 1], 2), (Policy::Cluster, Near::Any));
}

/// ztunnel ignores our extras; what it can do, it must be told in its own words.
#[test]
fn ztunnel_is_told_affinity_and_readiness() {
    let mut service = read_service(bare_service());
    service.sharing.affinity = Affinity::LocalNode;
    service.publish_not_ready = true;
    service.addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let Some(AddressType::Service(message)) = encode_service(&service).r#type else {
        panic!("no service")
    };
    let told = LoadBalancing {
        routing_preference: vec![5, 4],
        mode: 2,
        health_policy: 1,
    };
    assert_eq!(message.load_balancing, Some(told));
    assert_eq!(message.ip_families, 3);
    assert!(message.canonical);
}

#[test]
fn ztunnel_is_told_distances() {
    let check = |edit: fn(&mut Service), scopes: &[i32], mode| {
        let mut service = read_service(bare_service());
        edit(&mut service);
        let Some(AddressType::Service(message)) = encode_service(&service).r#type else {
            panic!("no service")
        };
        let told = message.load_balancing.unwrap();
        assert_eq!(
            (told.routing_preference.as_slice(), told.mode),
            (scopes, mode)
        );
    };
    check(
        |s| s.internal_traffic_policy = TrafficPolicy::Local,
        &[5, 4],
        1,
    );
    let zone = |s: &mut Service| s.traffic_distribution = TrafficDistribution::PreferSameZone;
    check(zone, &[1, 2], 2);
    check(
        |s| s.traffic_distribution = TrafficDistribution::PreferSameNode,
        &[1, 2, 4],
        2,
    );
    let both = |s: &mut Service| {
        s.sharing.affinity = Affinity::Local;
        s.traffic_distribution = TrafficDistribution::PreferSameZone;
    };
    check(both, &[5, 1, 2], 2);
}

/// A reader that knows two states of health takes a terminating workload for an unhealthy one, and has TCP ports only.
#[test]
fn foreign_readers_see_what_they_understand() {
    let mut workload = read_workload(wire::Workload {
        uid: "u".into(),
        ..Default::default()
    });
    workload.health = tulle_model::Health::Terminating;
    let mapping = |target_port, protocol| tulle_model::PortMapping {
        service_port: 53,
        target_port,
        protocol,
    };
    let ports = vec![
        mapping(1053, tulle_model::Protocol::Tcp),
        mapping(2053, tulle_model::Protocol::Udp),
    ];
    workload.services = [("n/s".parse().unwrap(), ports)].into_iter().collect();
    let Some(AddressType::Workload(message)) = super::super::encode_workload(&workload).r#type
    else {
        panic!("no workload")
    };
    assert_eq!(message.status, 1);
    let told: Vec<u32> = message.services["n/s"]
        .ports
        .iter()
        .map(|p| p.target_port)
        .collect();
    assert_eq!(told, [1053]);
    assert_eq!(read_workload(*message), workload);
}

/// What a plain service needs no extension for.
#[test]
fn a_plain_service_carries_no_extras() {
    let service = read_service(bare_service());
    let Some(AddressType::Service(message)) = encode_service(&service).r#type else {
        panic!("no service")
    };
    assert_eq!(message.extensions, []);
    assert_eq!(message.load_balancing, None);
}
