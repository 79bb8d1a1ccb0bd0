//! Services.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use tulle_model::{AppProtocol, Service, ServicePort, Sharing};

use super::{
    DecodeResourceError,
    field::{
        address_bits, check_gateway, check_key, read_enum, read_extras, read_network_address,
        read_port, read_protocol, write_ip,
    },
    labels::read_labels,
};
use crate::{
    pack, tulle, type_url,
    workload::{self, Address, AddressType, Extension, IpFamilies, NetworkAddress},
};

use self::{
    balancing::{read_load_balancing, write_load_balancing},
    extras::{Choice, read_choice, read_failover, write_extras},
};

mod balancing;
mod extras;

/// Writes a service.
///
/// What ztunnel can do of affinity and readiness is said in `load_balancing` as well, so that it acts alike.
pub fn encode_service(service: &Service) -> Address {
    let extras = write_extras(service);
    let extension = (extras != tulle::ServiceExtras::default()).then(|| Extension {
        name: tulle::SERVICE_EXTENSION.to_owned(),
        config: Some(pack(type_url::SERVICE_EXTRAS, &extras)),
    });
    let write_address = |ip: &IpAddr| NetworkAddress {
        network: String::new(),
        address: write_ip(*ip),
        length: None,
    };
    let wire = workload::Service {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        hostname: service.hostname.clone(),
        addresses: service.addresses.iter().map(write_address).collect(),
        ports: service.ports.iter().map(write_port).collect(),
        subject_alt_names: service.subject_alt_names.clone(),
        waypoint: None,
        load_balancing: write_load_balancing(service),
        ip_families: write_families(&service.addresses).into(),
        extensions: extension.into_iter().collect(),
        // istiod's mark of services that Kubernetes owns; all of ours are.
        canonical: true,
        ingress_use_waypoint: false,
        weighted_waypoints: Vec::new(),
        visibility: workload::Visibility::Public.into(),
    };
    Address {
        r#type: Some(AddressType::Service(Box::new(wire))),
    }
}

pub(super) fn read_service(wire: workload::Service) -> Result<Service, DecodeResourceError> {
    check_key("service", &wire.namespace, "hostname", &wire.hostname)?;
    check_gateway("service.waypoint", wire.waypoint.as_ref())?;
    for (i, weighted) in wire.weighted_waypoints.iter().enumerate() {
        let field = format!("service.weighted_waypoints[{i}].destination");
        if weighted.destination.is_none() {
            return Err(DecodeResourceError::field(field, "nothing", "a gateway"));
        }
        check_gateway(&field, weighted.destination.as_ref())?;
    }
    let _: IpFamilies = read_enum(|| "service.ip_families".to_owned(), wire.ip_families)?;
    let (routed, allow_unhealthy) = read_load_balancing(wire.load_balancing.as_ref())?;
    let marked = wire
        .extensions
        .iter()
        .any(|e| e.name == tulle::SERVICE_EXTENSION);
    let extras: tulle::ServiceExtras = read_extras(
        "service",
        &wire.extensions,
        tulle::SERVICE_EXTENSION,
        type_url::SERVICE_EXTRAS,
    )?;
    // Our own word says all that the other one can say, and more.
    let choice = if marked {
        read_choice(&extras)?
    } else {
        routed
    };
    let mut addresses = Vec::with_capacity(wire.addresses.len());
    for (i, address) in wire.addresses.iter().enumerate() {
        let (ip, len) = read_network_address(&format!("service.addresses[{i}]"), address)?;
        // A block of virtual addresses (ServiceEntry) has no place in the model: its clients connect as to no service.
        if len.is_none_or(|len| len == address_bits(ip)) {
            addresses.push(ip);
        }
    }
    Ok(Service {
        name: wire.name,
        namespace: wire.namespace,
        hostname: wire.hostname,
        labels: read_labels(extras.labels),
        addresses,
        ports: read_ports(&wire.ports, extras.ports)?,
        subject_alt_names: wire.subject_alt_names,
        sharing: Sharing {
            global: extras.global,
            shared: extras.shared,
            affinity: choice.affinity,
        },
        publish_not_ready: extras.publish_not_ready || allow_unhealthy,
        external_name: (!extras.external_name.is_empty()).then_some(extras.external_name),
        session_affinity: extras.session_affinity_secs,
        internal_traffic_policy: choice.policy,
        traffic_distribution: choice.distribution,
        algorithm: choice.algorithm,
        failover: extras.failover.map(read_failover).transpose()?,
    })
}

fn write_families(addresses: &[IpAddr]) -> IpFamilies {
    match (
        addresses.iter().any(IpAddr::is_ipv4),
        addresses.iter().any(IpAddr::is_ipv6),
    ) {
        (false, false) => IpFamilies::Automatic,
        (true, false) => IpFamilies::Ipv4Only,
        (false, true) => IpFamilies::Ipv6Only,
        (true, true) => IpFamilies::Dual,
    }
}

fn write_port(port: &ServicePort) -> workload::Port {
    let app_protocol = match port.app_protocol {
        AppProtocol::Unknown => workload::AppProtocol::Unknown,
        AppProtocol::Http11 => workload::AppProtocol::Http11,
        AppProtocol::Http2 => workload::AppProtocol::Http2,
        AppProtocol::Grpc => workload::AppProtocol::Grpc,
        AppProtocol::Tcp => workload::AppProtocol::Tcp,
        AppProtocol::Tls => workload::AppProtocol::Tls,
    };
    workload::Port {
        service_port: u32::from(port.port),
        target_port: u32::from(port.target_port),
        app_protocol: app_protocol.into(),
    }
}

/// Each port takes the first entry of the extras that is for its number and not yet taken: a service may have one
/// number for TCP and for UDP.
fn read_ports(
    wire: &[workload::Port],
    extras: Vec<tulle::PortExtras>,
) -> Result<Vec<ServicePort>, DecodeResourceError> {
    let mut extras_by_port: BTreeMap<u32, VecDeque<tulle::PortExtras>> = BTreeMap::new();
    for extra in extras {
        extras_by_port
            .entry(extra.port)
            .or_default()
            .push_back(extra);
    }
    let mut ports = Vec::with_capacity(wire.len());
    for (i, port) in wire.iter().enumerate() {
        let app_protocol = read_app_protocol(port.app_protocol);
        let of_port = extras_by_port.get_mut(&port.service_port);
        let extra = of_port.and_then(VecDeque::pop_front).unwrap_or_default();
        let field = || {
            format!(
                "service.extensions[mesh.tulle.io/service].ports[{}].protocol",
                extra.port
            )
        };
        let protocol = read_protocol(field, &extra.protocol)?;
        ports.push(ServicePort {
            name: extra.name,
            port: read_port(
                || format!("service.ports[{i}].service_port"),
                port.service_port,
            )?,
            target_port: read_port(
                || format!("service.ports[{i}].target_port"),
                port.target_port,
            )?,
            protocol,
            app_protocol,
        });
    }
    Ok(ports)
}

/// A hint only: as in ztunnel, a value of a later version does not make the service bad.
fn read_app_protocol(value: i32) -> AppProtocol {
    match workload::AppProtocol::try_from(value) {
        Ok(workload::AppProtocol::Http11) => AppProtocol::Http11,
        Ok(workload::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(workload::AppProtocol::Grpc) => AppProtocol::Grpc,
        Ok(workload::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(workload::AppProtocol::Tls) => AppProtocol::Tls,
        Ok(workload::AppProtocol::Unknown) | Err(_) => AppProtocol::Unknown,
    }
}
