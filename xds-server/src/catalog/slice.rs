//! What the mesh takes from an EndpointSlice.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use tulle_model::{Health, NamespacedName, Protocol};

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SliceFacts {
    pub(super) service: Option<NamespacedName>,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<SliceEndpoint>,
    /// The weight of each of its endpoints, if the slice tells one.
    pub(super) weight: Option<u32>,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct SlicePort {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct SliceEndpoint {
    pub(super) addresses: Vec<IpAddr>,
    /// The pod behind it; none in slices written by hand.
    pub(super) pod: Option<NamespacedName>,
    pub(super) node: String,
    pub(super) zone: String,
    pub(super) hostname: String,
    /// May get new connections.
    pub(super) health: Health,
}

impl SliceFacts {
    pub(super) fn of(slice: &EndpointSlice) -> Self {
        let namespace = slice
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let mut warnings = Vec::new();
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|l| l.get("kubernetes.io/service-name"));
        if service.is_none() {
            warnings.push("no label kubernetes.io/service-name: it serves no service".to_owned());
        }
        let known_family = matches!(slice.address_type.as_str(), "IPv4" | "IPv6");
        if !known_family {
            warnings.push(format!(
                "addressType {:?} is not served: expected IPv4 or IPv6",
                slice.address_type.chars().take(32).collect::<String>()
            ));
        }
        let endpoints = slice.endpoints.iter().filter(|_| known_family);
        let endpoints: Vec<SliceEndpoint> = endpoints
            .filter_map(|e| endpoint_of(e, &namespace, &mut warnings))
            .collect();
        let ports = slice.ports.iter().flatten().filter_map(|p| {
            let protocol = match p.protocol.as_deref() {
                None | Some("" | "TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => return None,
            };
            let port = u16::try_from(p.port?).ok().filter(|p| *p != 0)?;
            Some(SlicePort {
                name: p.name.clone().unwrap_or_default(),
                port,
                protocol,
            })
        });
        SliceFacts {
            service: service.map(|s| NamespacedName::new(namespace.clone(), s.clone())),
            ports: ports.collect(),
            endpoints,
            weight: weight_of(slice, &mut warnings),
            warnings,
        }
    }

    /// The pods that the slice names.
    pub(super) fn pods(&self) -> impl Iterator<Item = NamespacedName> + '_ {
        self.endpoints.iter().filter_map(|e| e.pod.clone())
    }

    /// The nodes of endpoints that no pod stands behind.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &String> {
        self.endpoints
            .iter()
            .filter(|e| e.pod.is_none() && !e.node.is_empty())
            .map(|e| &e.node)
    }
}

/// Cilium's weight of a slice's endpoints; 0 keeps new connections away while others serve.
fn weight_of(slice: &EndpointSlice, warnings: &mut Vec<String>) -> Option<u32> {
    let text = slice.metadata.annotations.as_ref()?.get(WEIGHT_KEY)?;
    match text.trim().parse::<u16>() {
        Ok(weight) => Some(u32::from(weight)),
        Err(_) => {
            let found: String = text.chars().take(64).collect();
            warnings.push(format!(
                "annotation {WEIGHT_KEY} has the unknown value {found:?}, taken as none: expected 0–65535"
            ));
            None
        }
    }
}

fn endpoint_of(
    endpoint: &Endpoint,
    namespace: &str,
    warnings: &mut Vec<String>,
) -> Option<SliceEndpoint> {
    let mut addresses = Vec::new();
    for text in endpoint.addresses.iter().take(ADDRESSES_MAX) {
        match text.parse() {
            Ok(ip) => addresses.push(ip),
            Err(_) if warnings.len() < WARNINGS_MAX => {
                let found: String = text.chars().take(64).collect();
                warnings.push(format!("endpoint address {found:?} is not an IP address"));
            }
            Err(_) => {}
        }
    }
    let target = endpoint
        .target_ref
        .as_ref()
        .filter(|t| t.kind.as_deref() == Some("Pod"));
    let pod = target.and_then(|t| {
        let namespace = t.namespace.clone().unwrap_or_else(|| namespace.to_owned());
        Some(NamespacedName::new(namespace, t.name.clone()?))
    });
    // A missing condition means ready (an API server that knows nothing better). What terminates is never ready, unless
    // its service publishes addresses of any state; whether it still serves is then told by `serving`.
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    Some(SliceEndpoint {
        addresses,
        pod,
        node: endpoint.node_name.clone().unwrap_or_default(),
        zone: endpoint.zone.clone().unwrap_or_default(),
        hostname: endpoint.hostname.clone().unwrap_or_default(),
        health: match (terminating, ready, serving) {
            (false, true, _) => Health::Healthy,
            (true, _, true) => Health::Terminating,
            (false, false, _) | (true, _, false) => Health::Unhealthy,
        },
    })
}

const ADDRESSES_MAX: usize = 100;
const WARNINGS_MAX: usize = 8;
const WEIGHT_KEY: &str = "service.cilium.io/weight";
