//! The values of a clustermesh-apiserver's etcd: JSON as Go writes it, fields in the same order.
//!
//! Reading takes `null` for any map or list, and skips fields of later versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

/// `cilium/cluster-config/<cluster>`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// The cluster's id.
    #[serde(skip_serializing_if = "is_zero")]
    pub id: u32,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// What a cluster can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Capabilities {
    /// It marks what was written whole.
    #[serde(skip_serializing_if = "is_false")]
    pub synced_canaries: bool,
    /// It is a copy of another cluster, under other keys.
    #[serde(skip_serializing_if = "is_false")]
    pub cached: bool,
    /// 255 or 511: how numbers of identities are split.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_connected_clusters: u32,
    /// Missing in old versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_exports_enabled: Option<bool>,
    /// Whether endpoints travel in slices as well, or only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint_slices_export_mode: String,
}

/// `cilium/state/services/v1/<cluster>/<namespace>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterService {
    /// The cluster's name.
    pub cluster: String,
    /// The service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses, with their ports by name.
    #[serde(deserialize_with = "or_default")]
    pub frontends: BTreeMap<String, Ports>,
    /// The endpoints' addresses, with their ports by name.
    #[serde(deserialize_with = "or_default")]
    pub backends: BTreeMap<String, Ports>,
    /// Host names of endpoints by address.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub hostnames: BTreeMap<String, String>,
    /// Zones of endpoints by address.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub zones: BTreeMap<String, BackendZone>,
    /// The service's labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Which pods it selects.
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
    /// It uses others' endpoints.
    pub include_external: bool,
    /// Others may use its endpoints.
    pub shared: bool,
    /// The cluster's id.
    #[serde(rename = "clusterID")]
    pub cluster_id: u32,
}

/// Ports by name; an unnamed port has the empty one.
pub type Ports = BTreeMap<String, L4Address>;

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct L4Address {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Its number.
    pub port: u16,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendZone {
    /// Its zone.
    pub zone: String,
    /// The zones that should use it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<ForZone>,
}

/// A zone that should use an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ForZone {
    /// Its name.
    pub name: String,
}

/// `cilium/state/ip/v1/default/<ip>`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressIdentity {
    /// The address.
    #[serde(rename = "IP")]
    pub ip: String,
    /// Of prefixes: base64 of the mask.
    #[serde(rename = "Mask")]
    pub mask: Option<String>,
    /// The node's address.
    #[serde(rename = "HostIP")]
    pub host_ip: String,
    /// The number of its labels.
    #[serde(rename = "ID")]
    pub id: u32,
    /// The key of encryption.
    #[serde(rename = "Key")]
    pub key: u8,
    /// Unused.
    #[serde(rename = "Metadata")]
    pub metadata: String,
    /// The pod's namespace.
    #[serde(rename = "K8sNamespace", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The pod's name.
    #[serde(rename = "K8sPodName", skip_serializing_if = "String::is_empty")]
    pub pod_name: String,
    /// The pod's service account.
    #[serde(rename = "K8sServiceAccount", skip_serializing_if = "String::is_empty")]
    pub service_account: String,
    /// The pod's ports that have names.
    #[serde(
        rename = "NamedPorts",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub named_ports: Vec<NamedPort>,
}

/// A port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
}

/// `cilium/state/nodes/v1/<cluster>/<node>`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Its addresses.
    #[serde(rename = "IPAddresses", deserialize_with = "or_default")]
    pub addresses: Vec<NodeAddress>,
    /// Its pods' range.
    #[serde(rename = "IPv4AllocCIDR")]
    pub ipv4_range: Option<IpNet>,
    /// More ranges.
    #[serde(rename = "IPv4SecondaryAllocCIDRs")]
    pub ipv4_more: Option<Vec<IpNet>>,
    /// Its pods' range.
    #[serde(rename = "IPv6AllocCIDR")]
    pub ipv6_range: Option<IpNet>,
    /// More ranges.
    #[serde(rename = "IPv6SecondaryAllocCIDRs")]
    pub ipv6_more: Option<Vec<IpNet>>,
    /// Where its health is asked.
    #[serde(rename = "IPv4HealthIP")]
    pub ipv4_health: String,
    /// Where its health is asked.
    #[serde(rename = "IPv6HealthIP")]
    pub ipv6_health: String,
    /// Where its ingress is.
    #[serde(rename = "IPv4IngressIP")]
    pub ipv4_ingress: String,
    /// Where its ingress is.
    #[serde(rename = "IPv6IngressIP")]
    pub ipv6_ingress: String,
    /// The cluster's id.
    #[serde(rename = "ClusterID")]
    pub cluster_id: u32,
    /// Where it is known from.
    pub source: String,
    /// The key of encryption.
    pub encryption_key: u8,
    /// Its labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// Its WireGuard key.
    pub wireguard_pub_key: String,
    /// Of its running kernel.
    #[serde(rename = "BootID")]
    pub boot_id: String,
}

/// An address of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// What it is for.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The address.
    #[serde(rename = "IP")]
    pub ip: String,
}

/// Go's `net.IPNet`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IpNet {
    /// The address.
    #[serde(rename = "IP")]
    pub ip: String,
    /// Base64 of the mask's bytes.
    pub mask: String,
}

impl IpNet {
    /// A range from its usual spelling, `10.0.0.0/8`.
    pub fn from_text(text: &str) -> Option<Self> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let (ip, len) = text.split_once('/')?;
        let (ip, len): (std::net::IpAddr, u32) = (ip.parse().ok()?, len.parse().ok()?);
        let mask = match ip {
            std::net::IpAddr::V4(_) if len <= u32::BITS => {
                let mask = u32::MAX.checked_shl(u32::BITS - len).unwrap_or(0);
                STANDARD.encode(mask.to_be_bytes())
            }
            std::net::IpAddr::V6(_) if len <= u128::BITS => {
                let mask = u128::MAX.checked_shl(u128::BITS - len).unwrap_or(0);
                STANDARD.encode(mask.to_be_bytes())
            }
            _ => return None,
        };
        let ip = ip.to_string();
        Some(IpNet { ip, mask })
    }
}

fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + DeserializeOwned,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
pub(super) mod tests;
