//! The view is tested through its keys (`keyed`); here is what only it decides.

use super::*;
use crate::cilium::values::L4Address;

#[test]
fn ports_belong_together_by_name_and_protocol() {
    let l4 = |protocol: &str, port| L4Address {
        protocol: protocol.to_owned(),
        port,
    };
    let ports = |list: &[(&str, &str, u16)]| -> Ports {
        let named = list
            .iter()
            .map(|(name, protocol, port)| ((*name).to_owned(), l4(protocol, *port)));
        named.collect()
    };
    let mut value = ClusterService {
        name: "dns".to_owned(),
        namespace: "n".to_owned(),
        ..ClusterService::default()
    };
    let frontend = ports(&[("tcp", "TCP", 53), ("udp", "UDP", 53), ("odd", "SCTP", 1)]);
    value
        .frontends
        .insert("10.0.0.1".to_owned(), frontend.clone());
    value.frontends.insert("fd00::1".to_owned(), frontend);
    let service = service_of(&value, "dns.n.svc.cluster.local");
    assert_eq!(service.ports.len(), 2);
    assert_eq!(service.addresses.len(), 2);
    let served = mappings_of(
        &service.ports,
        &ports(&[("tcp", "TCP", 5353), ("udp", "TCP", 1)]),
    );
    let found: Vec<_> = served
        .iter()
        .map(|m| (m.service_port, m.target_port))
        .collect();
    assert_eq!(found, [(53, 5353)]);
}

#[test]
fn a_headless_service_has_its_backends_ports() {
    let mut value = ClusterService::default();
    let port = L4Address {
        protocol: "TCP".to_owned(),
        port: 8080,
    };
    let ports = Ports::from([("http".to_owned(), port)]);
    value.backends.insert("10.0.0.9".to_owned(), ports.clone());
    let service = service_of(&value, "s");
    assert!(service.addresses.is_empty());
    let mapping = mappings_of(&service.ports, &ports)[0];
    assert_eq!((mapping.service_port, mapping.target_port), (8080, 8080));
}
