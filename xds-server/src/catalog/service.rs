//! What the mesh takes from a service, and how its annotations share it between clusters.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Service as KubeService, ServicePort as KubePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tulle_model::{
    AppProtocol, Protocol, Service, ServicePort, Sharing, TrafficDistribution, TrafficPolicy,
};

use super::{CLUSTER_DOMAIN, labels};

pub(super) mod annotations;

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceFacts {
    /// None for services that the mesh cannot serve.
    pub(super) service: Option<Arc<Service>>,
    /// Names of target ports that are names, by service port: one number may serve two protocols.
    pub(super) named_targets: BTreeMap<(u16, Protocol), String>,
    pub(super) warnings: Vec<String>,
}

impl ServiceFacts {
    pub(super) fn of(object: &KubeService) -> Self {
        let mut warnings = Vec::new();
        let name = object.metadata.name.clone().unwrap_or_default();
        let namespace = object
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let default_spec = ServiceSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&default_spec);
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        let mut service = Service {
            hostname: format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}"),
            name,
            namespace,
            labels: labels::shared(object.metadata.labels.as_ref()),
            sharing: annotations::sharing_of(&annotations, &mut warnings),
            ..Service::default()
        };
        let (ports, named_targets) = ports_of(spec, &mut warnings);
        service.ports = ports;
        if spec.type_.as_deref() == Some("ExternalName") {
            let named = alias(&mut service, spec, &mut warnings);
            return ServiceFacts {
                service: named.then(|| Arc::new(service)),
                named_targets: BTreeMap::new(),
                warnings,
            };
        }
        service.addresses = addresses_of(spec, &mut warnings);
        service.publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
        service.session_affinity = session_affinity_of(spec, &mut warnings);
        service.internal_traffic_policy = traffic_policy_of(spec, &mut warnings);
        service.traffic_distribution = traffic_distribution_of(spec, &mut warnings);
        service.algorithm = annotations::algorithm_of(&annotations, &mut warnings);
        service.failover = annotations::failover_of(&annotations, &mut warnings);
        ServiceFacts {
            service: Some(Arc::new(service)),
            named_targets,
            warnings,
        }
    }
}

/// The ports that the mesh can serve, and the names of those targets that are names.
fn ports_of(
    spec: &ServiceSpec,
    warnings: &mut Vec<String>,
) -> (Vec<ServicePort>, BTreeMap<(u16, Protocol), String>) {
    let mut ports = Vec::new();
    let mut named_targets = BTreeMap::new();
    for port in spec.ports.iter().flatten() {
        match port_of(port) {
            Ok((port, target_name)) => {
                if let Some(target) = target_name {
                    named_targets.insert((port.port, port.protocol), target);
                }
                ports.push(port);
            }
            Err(message) => warnings.push(message),
        }
    }
    (ports, named_targets)
}

/// Makes the service another name for the one that its spec tells; says whether that is a name.
fn alias(service: &mut Service, spec: &ServiceSpec, warnings: &mut Vec<String>) -> bool {
    let text = spec.external_name.as_deref().unwrap_or_default();
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |l: &str| (1..=63).contains(&l.len()) && !l.contains(|c: char| !is_name_char(c));
    let valid = name.len() <= NAME_LEN_MAX && name.split('.').all(label);
    if !valid {
        let found = shorten(text);
        warnings.push(format!(
            "externalName {found:?} is not a DNS name: the service is left out"
        ));
    }
    if service.sharing.global {
        warnings.push(
            "a service of type ExternalName has no endpoints to share: it is not global".to_owned(),
        );
    }
    service.sharing = Sharing::default();
    service.external_name = Some(name);
    valid
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

fn session_affinity_of(spec: &ServiceSpec, warnings: &mut Vec<String>) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let found = shorten(other);
            warnings.push(format!(
                "sessionAffinity {found:?} is not known, taken as None: expected None or ClientIP"
            ));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    match seconds.map(u32::try_from) {
        None => Some(SESSION_AFFINITY_SECS),
        Some(Ok(seconds @ 1..=SESSION_AFFINITY_SECS_MAX)) => Some(seconds),
        Some(Ok(_) | Err(_)) => {
            warnings.push(format!(
                "a session affinity of {} seconds is not valid, taken as {SESSION_AFFINITY_SECS}: expected 1–{SESSION_AFFINITY_SECS_MAX}",
                seconds.unwrap_or_default()
            ));
            Some(SESSION_AFFINITY_SECS)
        }
    }
}

fn traffic_policy_of(spec: &ServiceSpec, warnings: &mut Vec<String>) -> TrafficPolicy {
    match spec.internal_traffic_policy.as_deref() {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            let found = shorten(other);
            warnings.push(format!(
                "internalTrafficPolicy {found:?} is not known, taken as Cluster: expected Cluster or Local"
            ));
            TrafficPolicy::Cluster
        }
    }
}

fn traffic_distribution_of(spec: &ServiceSpec, warnings: &mut Vec<String>) -> TrafficDistribution {
    match spec.traffic_distribution.as_deref() {
        None | Some("") => TrafficDistribution::Any,
        Some("PreferClose" | "PreferSameZone") => TrafficDistribution::PreferSameZone,
        Some("PreferSameNode") => TrafficDistribution::PreferSameNode,
        Some(other) => {
            let found = shorten(other);
            warnings.push(format!(
                "trafficDistribution {found:?} is not known, taken as none: expected PreferSameZone, PreferSameNode or PreferClose"
            ));
            TrafficDistribution::Any
        }
    }
}

/// Enough of somebody's text to find it again.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

fn addresses_of(spec: &ServiceSpec, warnings: &mut Vec<String>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip) {
        match text.parse() {
            Ok(ip) if !addresses.contains(&ip) => addresses.push(ip),
            Ok(_) => {}
            // `None` is headless; empty is a service that the API server has not seen yet.
            Err(_) if text == "None" || text.is_empty() => {}
            Err(_) => warnings.push(format!("cluster IP {text:?} is not an address")),
        }
    }
    addresses
}

/// The port, and the name of its target when that is a name.
fn port_of(port: &KubePort) -> Result<(ServicePort, Option<String>), String> {
    let number = u16::try_from(port.port).ok().filter(|p| *p != 0);
    let number = number.ok_or_else(|| format!("port {} is not a port number", port.port))?;
    let name = port.name.clone().unwrap_or_default();
    let protocol = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(other) => {
            return Err(format!(
                "port {number} has the protocol {other}, which the mesh does not serve"
            ));
        }
    };
    let (target_port, target_name) = match &port.target_port {
        None => (number, None),
        Some(IntOrString::Int(0)) => (number, None),
        Some(IntOrString::Int(target)) => {
            let target = u16::try_from(*target).map_err(|_| {
                format!("target port {target} of port {number} is not a port number")
            })?;
            (target, None)
        }
        Some(IntOrString::String(text)) => match text.parse::<u16>() {
            Ok(target) if target != 0 => (target, None),
            Ok(_) | Err(_) => (0, Some(text.clone())),
        },
    };
    let app_protocol = app_protocol_of(port.app_protocol.as_deref(), &name);
    Ok((
        ServicePort {
            name,
            port: number,
            target_port,
            protocol,
            app_protocol,
        },
        target_name,
    ))
}

/// `appProtocol`, or what stands before the first dash of the port's name, as Istio reads it.
fn app_protocol_of(explicit: Option<&str>, port_name: &str) -> AppProtocol {
    let by_name = port_name.split('-').next().unwrap_or_default();
    let text = explicit.unwrap_or(by_name).to_ascii_lowercase();
    match text.as_str() {
        "http" | "http1" | "kubernetes.io/ws" => AppProtocol::Http11,
        "http2" | "h2c" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "tls" | "https" | "kubernetes.io/wss" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}

/// Kubernetes' default and limit.
const SESSION_AFFINITY_SECS: u32 = 10_800;
const SESSION_AFFINITY_SECS_MAX: u32 = 86_400;
const NAME_LEN_MAX: usize = 253;
