//! What the mesh takes from a service, and how its annotations share it between clusters.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Service as KubeService, ServicePort as KubePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tulle_model::{Affinity, AppProtocol, Protocol, Service, ServicePort, Sharing};

use super::CLUSTER_DOMAIN;

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
        if spec.type_.as_deref() == Some("ExternalName") {
            warnings.push("type ExternalName is left to the pods' own resolver".to_owned());
            return ServiceFacts {
                service: None,
                named_targets: BTreeMap::new(),
                warnings,
            };
        }
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        let sharing = sharing_of(&annotations, &mut warnings);
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
        let service = Service {
            hostname: format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}"),
            name,
            namespace,
            addresses: addresses_of(spec, &mut warnings),
            ports,
            subject_alt_names: Vec::new(),
            sharing,
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            ..Service::default()
        };
        ServiceFacts {
            service: Some(Arc::new(service)),
            named_targets,
            warnings,
        }
    }
}

/// Reads the sharing of a service from its annotations, in both spellings; the newer wins.
///
/// Booleans are Cilium's: `true` in any case is true, everything else is false.
pub(super) fn sharing_of(
    annotations: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Sharing {
    let global = flag(
        annotations,
        "service.cilium.io/global",
        "io.cilium/global-service",
        warnings,
    );
    let shared = flag(
        annotations,
        "service.cilium.io/shared",
        "io.cilium/shared-service",
        warnings,
    );
    let affinity_key = "service.cilium.io/affinity";
    let affinity = value(annotations, affinity_key, "io.cilium/service-affinity");
    let affinity = match affinity.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "none") => Affinity::None,
        Some("local" | "local-cluster") => Affinity::Local,
        Some("remote") => Affinity::Remote,
        Some("local-node") => Affinity::LocalNode,
        Some(other) => {
            let found: String = other.chars().take(64).collect();
            warnings.push(format!(
                "annotation {affinity_key} has the unknown value {found:?}, taken as none: expected none, local, remote or local-node"
            ));
            Affinity::None
        }
    };
    let global = global.unwrap_or(false);
    Sharing {
        global,
        shared: global && shared.unwrap_or(true),
        affinity,
    }
}

fn value<'a>(annotations: &'a BTreeMap<String, String>, new: &str, old: &str) -> Option<&'a str> {
    annotations
        .get(new)
        .or_else(|| annotations.get(old))
        .map(|v| v.trim())
}

fn flag(
    annotations: &BTreeMap<String, String>,
    new: &str,
    old: &str,
    warnings: &mut Vec<String>,
) -> Option<bool> {
    let text = value(annotations, new, old)?;
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let found: String = other.chars().take(64).collect();
            warnings.push(format!(
                "annotation {new} has the unknown value {found:?}, taken as false: expected true or false"
            ));
            Some(false)
        }
    }
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
