//! Workloads.

use std::{collections::BTreeMap, sync::Arc};

use tulle_model::{
    ClusterName, Health, Locality, NamedPort, NamespacedName, PortMapping, Protocol, SmallMap,
    Text, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use super::{
    DecodeResourceError,
    field::{
        check_gateway, read_enum, read_extras, read_ip, read_port, read_protocol, read_service_key,
        write_ip,
    },
    labels::{read_labels, small_map, write_labels},
};
use crate::{
    pack, resource_version, tulle, type_url,
    workload::{self as wire, Address, AddressType, Extension},
};

/// Writes a workload.
pub fn encode_workload(workload: &Workload) -> Address {
    let extras = tulle::WorkloadExtras {
        demoted: workload.demoted,
        labels: write_labels(&workload.labels),
        pod_hostname: workload.hostname.clone().into(),
        terminating: workload.health == Health::Terminating,
        service_ports: workload
            .services
            .iter()
            .filter_map(write_all_ports)
            .collect(),
        namespace_labels: write_labels(&workload.namespace_labels),
        named_ports: workload.named_ports.iter().map(write_named_port).collect(),
    };
    let extension = (extras != tulle::WorkloadExtras::default()).then(|| Extension {
        name: tulle::WORKLOAD_EXTENSION.to_owned(),
        config: Some(pack(type_url::WORKLOAD_EXTRAS, &extras)),
    });
    let message = wire::Workload {
        uid: workload.uid.0.to_string(),
        name: workload.name.clone(),
        namespace: workload.namespace.clone().into(),
        addresses: workload.addresses.iter().map(|ip| write_ip(*ip)).collect(),
        hostname: String::new(),
        network: String::new(),
        tunnel_protocol: write_tunnel(workload.tunnel_protocol).into(),
        trust_domain: workload.trust_domain.to_string(),
        service_account: workload.service_account.clone().into(),
        waypoint: None,
        node: workload.node.clone().into(),
        canonical_name: workload.canonical_name.clone().into(),
        canonical_revision: workload.canonical_revision.clone().into(),
        workload_type: write_kind(workload.kind).into(),
        workload_name: workload.owner_name.clone().into(),
        native_tunnel: false,
        authorization_policies: workload.authorization_policies.clone(),
        status: write_health(workload.health).into(),
        cluster_id: workload.cluster.to_string(),
        network_gateway: None,
        services: workload.services.iter().map(write_ports).collect(),
        application_tunnel: None,
        locality: write_locality(&workload.locality),
        network_mode: write_network_mode(workload.host_network).into(),
        extensions: extension.into_iter().collect(),
        capacity: (workload.capacity != CAPACITY_DEFAULT).then_some(workload.capacity),
    };
    Address {
        r#type: Some(AddressType::Workload(Box::new(message))),
    }
}

pub(super) fn read_workload(message: wire::Workload) -> Result<Workload, DecodeResourceError> {
    let field = |name: &str| format!("workload.{name}");
    if message.uid.is_empty() {
        return Err(DecodeResourceError::field(
            "workload.uid",
            "nothing",
            "a uid",
        ));
    }
    check_gateway("workload.waypoint", message.waypoint.as_ref())?;
    check_gateway("workload.network_gateway", message.network_gateway.as_ref())?;
    check_application_tunnel(message.application_tunnel.as_ref())?;
    let extras: tulle::WorkloadExtras = read_extras(
        "workload",
        &message.extensions,
        tulle::WORKLOAD_EXTENSION,
        type_url::WORKLOAD_EXTRAS,
    )?;
    let mut addresses = Vec::with_capacity(message.addresses.len());
    for (i, bytes) in message.addresses.iter().enumerate() {
        addresses.push(read_ip(|| format!("workload.addresses[{i}]"), bytes)?);
    }
    let trust_domain = or_default(message.trust_domain, TRUST_DOMAIN_DEFAULT);
    let trust_domain = trust_domain.parse().map_err(|_| {
        DecodeResourceError::field(
            field("trust_domain"),
            format!("{trust_domain:?}"),
            "a trust domain",
        )
    })?;
    Ok(Workload {
        uid: WorkloadUid(message.uid.into()),
        name: message.name,
        namespace: message.namespace.into(),
        service_account: or_default(message.service_account, SERVICE_ACCOUNT_DEFAULT).into(),
        trust_domain,
        cluster: read_cluster(&message.cluster_id)?,
        node: message.node.into(),
        addresses,
        hostname: extras.pod_hostname.into(),
        labels: read_labels(extras.labels),
        namespace_labels: Arc::new(read_labels(extras.namespace_labels)),
        named_ports: read_named_ports(extras.named_ports)?,
        locality: message.locality.map(read_locality).unwrap_or_default(),
        canonical_name: message.canonical_name.into(),
        canonical_revision: message.canonical_revision.into(),
        kind: read_kind(message.workload_type),
        owner_name: message.workload_name.into(),
        tunnel_protocol: read_tunnel(message.tunnel_protocol)?,
        health: read_health(
            read_enum(|| field("status"), message.status)?,
            extras.terminating,
        ),
        host_network: match read_enum(|| field("network_mode"), message.network_mode)? {
            wire::NetworkMode::Standard => false,
            wire::NetworkMode::HostNetwork => true,
        },
        services: small_map(read_services(&message.services, extras.service_ports)?.into_iter()),
        authorization_policies: message.authorization_policies,
        capacity: message.capacity.unwrap_or(CAPACITY_DEFAULT),
        demoted: extras.demoted,
    })
}

fn write_named_port((name, named): (&Text, &NamedPort)) -> (String, tulle::NamedPort) {
    let port = tulle::NamedPort {
        port: u32::from(named.port),
        protocol: named.protocol.to_string(),
    };
    (name.into(), port)
}

fn read_named_ports(
    ports: BTreeMap<String, tulle::NamedPort>,
) -> Result<SmallMap<Text, NamedPort>, DecodeResourceError> {
    let read = |(name, named): (String, tulle::NamedPort)| {
        let field = || format!("workload.extensions[mesh.tulle.io/workload].named_ports[{name}]");
        let port = NamedPort {
            port: read_port(field, named.port)?,
            protocol: read_protocol(field, &named.protocol)?,
        };
        Ok((name.into(), port))
    };
    ports.into_iter().map(read).collect()
}

fn or_default(text: String, default: &str) -> String {
    if text.is_empty() {
        default.to_owned()
    } else {
        text
    }
}

/// Istio's cluster ids are any text ("Kubernetes" is its default), the mesh's names are not: what is no name becomes one.
///
/// Equal ids become equal names in every process. Letters are lowered; if more had to change, a hash of the id follows, so
/// that two ids that differ only in what was lost stay two.
fn read_cluster(id: &str) -> Result<ClusterName, DecodeResourceError> {
    let id = if id.is_empty() {
        CLUSTER_ID_DEFAULT
    } else {
        id
    };
    let lower = id.to_ascii_lowercase();
    if let Ok(name) = lower.parse() {
        return Ok(name);
    }
    let keep = |c: char| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '-'
        }
    };
    let head: String = lower
        .chars()
        .take(CLUSTER_NAME_HEAD_LEN)
        .map(keep)
        .collect();
    let name = format!(
        "{}-{}",
        head.trim_matches('-'),
        resource_version(id.as_bytes())
    );
    let name = name.trim_matches('-');
    name.parse().map_err(|_| {
        DecodeResourceError::field(
            "workload.cluster_id",
            format!("{id:?}"),
            "the id of a cluster",
        )
    })
}

fn read_services(
    wire: &BTreeMap<String, wire::PortList>,
    mut extras: BTreeMap<String, tulle::PortMappings>,
) -> Result<BTreeMap<NamespacedName, Vec<PortMapping>>, DecodeResourceError> {
    let mut services = BTreeMap::new();
    for (text, list) in wire {
        let key = read_service_key(|| "workload.services".to_owned(), text)?;
        let field = |name: &str| format!("workload.services[{text}].ports.{name}");
        let mut ports = Vec::with_capacity(list.ports.len());
        for port in &list.ports {
            ports.push(PortMapping {
                service_port: read_port(|| field("service_port"), port.service_port)?,
                target_port: read_port(|| field("target_port"), port.target_port)?,
                protocol: Protocol::Tcp,
            });
        }
        if let Some(all) = extras.remove(text) {
            ports = read_all_ports(text, all)?;
        }
        services.insert(key, ports);
    }
    match extras.into_keys().next() {
        None => Ok(services),
        Some(stranger) => Err(DecodeResourceError::field(
            service_ports_field(&stranger),
            "a service that the workload does not serve",
            "one of workload.services",
        )),
    }
}

/// Foreign readers take the last mapping of a port number for TCP, so what they get holds TCP only.
fn write_ports((key, ports): (&NamespacedName, &Vec<PortMapping>)) -> (String, wire::PortList) {
    let write = |port: &PortMapping| wire::Port {
        service_port: u32::from(port.service_port),
        target_port: u32::from(port.target_port),
        app_protocol: wire::AppProtocol::Unknown.into(),
    };
    let tcp = ports.iter().filter(|p| p.protocol == Protocol::Tcp);
    let ports = tcp.map(write).collect();
    (key.to_string(), wire::PortList { ports })
}

fn write_all_ports(
    (key, ports): (&NamespacedName, &Vec<PortMapping>),
) -> Option<(String, tulle::PortMappings)> {
    let write = |port: &PortMapping| tulle::PortMapping {
        service_port: u32::from(port.service_port),
        target_port: u32::from(port.target_port),
        protocol: port.protocol.to_string(),
    };
    let needed = ports.iter().any(|p| p.protocol != Protocol::Tcp);
    needed.then(|| {
        let ports = ports.iter().map(write).collect();
        (key.to_string(), tulle::PortMappings { ports })
    })
}

fn read_all_ports(
    service: &str,
    all: tulle::PortMappings,
) -> Result<Vec<PortMapping>, DecodeResourceError> {
    let field = |name: &str| format!("{}.{name}", service_ports_field(service));
    let read = |port: tulle::PortMapping| {
        Ok(PortMapping {
            service_port: read_port(|| field("service_port"), port.service_port)?,
            target_port: read_port(|| field("target_port"), port.target_port)?,
            protocol: read_protocol(|| field("protocol"), &port.protocol)?,
        })
    };
    all.ports.into_iter().map(read).collect()
}

fn service_ports_field(service: &str) -> String {
    format!(
        "workload.extensions[{}].service_ports[{service}]",
        tulle::WORKLOAD_EXTENSION
    )
}

fn check_application_tunnel(
    tunnel: Option<&wire::ApplicationTunnel>,
) -> Result<(), DecodeResourceError> {
    let Some(tunnel) = tunnel else { return Ok(()) };
    let field = |name: &str| format!("workload.application_tunnel.{name}");
    let _: wire::ApplicationTunnelProtocol = read_enum(|| field("protocol"), tunnel.protocol)?;
    read_port(|| field("port"), tunnel.port).map(|_| ())
}

fn read_tunnel(value: i32) -> Result<TunnelProtocol, DecodeResourceError> {
    let field = || "workload.tunnel_protocol".to_owned();
    match read_enum(field, value)? {
        wire::TunnelProtocol::None => Ok(TunnelProtocol::None),
        wire::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        wire::TunnelProtocol::LegacyIstioMtls => Err(DecodeResourceError::field(
            field(),
            "LEGACY_ISTIO_MTLS",
            "NONE or HBONE",
        )),
    }
}

fn write_tunnel(of: TunnelProtocol) -> wire::TunnelProtocol {
    match of {
        TunnelProtocol::None => wire::TunnelProtocol::None,
        TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
    }
}

/// Telemetry only: as in ztunnel, a value of a later version does not make the workload bad.
fn read_kind(value: i32) -> WorkloadKind {
    match wire::WorkloadType::try_from(value) {
        Ok(wire::WorkloadType::Deployment) => WorkloadKind::Deployment,
        Ok(wire::WorkloadType::Cronjob) => WorkloadKind::CronJob,
        Ok(wire::WorkloadType::Job) => WorkloadKind::Job,
        Ok(wire::WorkloadType::Pod) | Err(_) => WorkloadKind::Pod,
    }
}

fn write_kind(of: WorkloadKind) -> wire::WorkloadType {
    match of {
        WorkloadKind::Deployment => wire::WorkloadType::Deployment,
        WorkloadKind::CronJob => wire::WorkloadType::Cronjob,
        WorkloadKind::Pod => wire::WorkloadType::Pod,
        WorkloadKind::Job => wire::WorkloadType::Job,
    }
}

/// Our third state is told beside the two that others know.
fn read_health(of: wire::WorkloadStatus, terminating: bool) -> Health {
    match (of, terminating) {
        (wire::WorkloadStatus::Healthy, _) => Health::Healthy,
        (wire::WorkloadStatus::Unhealthy, true) => Health::Terminating,
        (wire::WorkloadStatus::Unhealthy, false) => Health::Unhealthy,
    }
}

fn write_health(of: Health) -> wire::WorkloadStatus {
    match of {
        Health::Healthy => wire::WorkloadStatus::Healthy,
        Health::Terminating | Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
    }
}

fn write_network_mode(host_network: bool) -> wire::NetworkMode {
    if host_network {
        wire::NetworkMode::HostNetwork
    } else {
        wire::NetworkMode::Standard
    }
}

fn read_locality(of: wire::Locality) -> Locality {
    Locality {
        region: of.region.into(),
        zone: of.zone.into(),
        subzone: of.subzone.into(),
    }
}

fn write_locality(of: &Locality) -> Option<wire::Locality> {
    (*of != Locality::default()).then(|| wire::Locality {
        region: of.region.clone().into(),
        zone: of.zone.clone().into(),
        subzone: of.subzone.clone().into(),
    })
}

const TRUST_DOMAIN_DEFAULT: &str = "cluster.local";
const SERVICE_ACCOUNT_DEFAULT: &str = "default";
const CLUSTER_ID_DEFAULT: &str = "Kubernetes";
const CAPACITY_DEFAULT: u32 = 1;
/// Leaves room for `-` and 16 hex digits in the 32 bytes of a cluster's name.
const CLUSTER_NAME_HEAD_LEN: usize = 15;
