//! The lab's file: which clusters and nodes there are, which program stands in for which image.
//!
//! All faults of a file are reported at once, each with its key. Nothing is started or looked up
//! here.

mod raw;

#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};
use thiserror::Error;

/// Everything that the lab's file says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabConfig {
    /// The rig's name: several rigs may run on one machine.
    pub rig: String,
    /// Whether nodes run a node proxy.
    pub mesh: Mesh,
    /// Where a cluster publishes what it shares.
    pub store: Store,
    /// Whether clusters learn of each other without being told.
    pub connect: Connect,
    /// Whether every cluster runs a name server, the service `kube-system/kube-dns`.
    pub cluster_dns: bool,
    /// The clusters, in the order of the file.
    pub clusters: Vec<ClusterConfig>,
    /// Stand-ins for images; the first match counts.
    pub images: Vec<ImageRule>,
    /// How long a pod that ends goes on serving after its endpoints were marked, as a `preStop`
    /// sleep would do.
    pub stop_delay: Duration,
    /// More arguments for every node proxy.
    pub node_proxy_arguments: Vec<String>,
    /// More arguments for every xds-server.
    pub xds_server_arguments: Vec<String>,
    /// Where `node-proxy` and `xds-server` lie; beside the running program if not given.
    pub binaries: Option<PathBuf>,
    /// The text that this was read from.
    pub text: String,
}

/// What carries the pods' traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mesh {
    /// Every node runs a node proxy, every cluster an xds-server.
    Tulle,
    /// Every cluster runs an xds-server; the nodes wait for proxies that somebody else starts.
    ControlPlane,
    /// Plain routing: no service addresses, no names.
    None,
}

/// Where a cluster publishes what it shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// In an etcd of its own.
    Etcd,
    /// Nowhere: the cluster stands alone.
    Memory,
}

/// Whether clusters learn of each other without being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connect {
    /// Clusters that are up are connected.
    Auto,
    /// Only `tulle lab connect` connects.
    Manual,
    /// Clusters do not even publish what they share, until `tulle clustermesh enable` and `connect`.
    Off,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its name.
    pub name: String,
    /// Its number, from which its addresses follow.
    pub id: u8,
    /// The trust domain of its identities.
    pub trust_domain: String,
    /// Its pods' IPv4 addresses: a /16, each node has a /24 of it.
    pub pod_subnet: Ipv4Net,
    /// Its pods' IPv6 addresses: a /48, each node has a /64 of it.
    pub pod_subnet_v6: Ipv6Net,
    /// Its services' IPv4 addresses.
    pub service_subnet: Ipv4Net,
    /// Its services' IPv6 addresses.
    pub service_subnet_v6: Ipv6Net,
    /// Its worker nodes.
    pub nodes: Vec<NodeConfig>,
}

/// One worker node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its place in the cluster, from 1.
    pub index: u8,
    /// The labels of its Node object.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// Which program stands in for images that match a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRule {
    /// The pattern; `*` stands for any text.
    pub pattern: String,
    /// The stand-in.
    pub program: Program,
}

/// The stand-in for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// Debian's nginx on port 80, in a private copy of the host's root file system.
    Nginx,
    /// A small JSON answer on port 80, in a private copy of the host's root file system; made to
    /// run `curl` in.
    JsonMock,
    /// The container's own command on the host's root file system.
    Host,
}

/// The lab's file is not usable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadConfigError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not YAML of the expected form.
    #[error("{file}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, with the line.
        message: String,
    },
    /// The text says something impossible.
    #[error("{file}: {}", faults.join("; "))]
    Faults {
        /// The file.
        file: String,
        /// Each fault with its key.
        faults: Vec<String>,
    },
}

impl LabConfig {
    /// Reads the lab that is built in.
    ///
    /// # Errors
    /// Never in practice: a test reads it.
    pub fn built_in() -> Result<LabConfig, ReadConfigError> {
        LabConfig::parse("lab.yaml (built in)", BUILT_IN)
    }

    /// Reads a lab's file from its text; `file` names it in errors.
    ///
    /// # Errors
    /// With every fault that the text has.
    pub fn parse(file: &str, text: &str) -> Result<LabConfig, ReadConfigError> {
        raw::parse(file, text)
    }

    /// Reads a lab's file.
    ///
    /// # Errors
    /// If it cannot be read or says something impossible.
    pub fn read(path: &std::path::Path) -> Result<LabConfig, ReadConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ReadConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        LabConfig::parse(&path.display().to_string(), &text)
    }

    /// The same lab under another rig's name.
    ///
    /// # Errors
    /// If the name is not one.
    pub fn with_rig(&self, rig: &str) -> Result<LabConfig, ReadConfigError> {
        let rig = LabConfig::check_rig_name(rig)?;
        // The text is kept with the rig and read by later commands, so it must name the rig as
        // well.
        let lines = self.text.lines().filter(|line| !line.starts_with("rig:"));
        let text = format!("rig: {rig}\n{}\n", lines.collect::<Vec<_>>().join("\n"));
        LabConfig::parse("lab.yaml", &text)
    }

    /// The same lab, whose clusters stand alone until an operator connects them.
    ///
    /// # Errors
    /// Never in practice: only one known word changes.
    pub fn without_connections(&self) -> Result<LabConfig, ReadConfigError> {
        let lines = self.text.lines();
        let lines = lines.filter(|line| !line.starts_with("connect:"));
        let text = format!("connect: off\n{}\n", lines.collect::<Vec<_>>().join("\n"));
        LabConfig::parse("lab.yaml", &text)
    }

    /// Whether `rig` may be the name of a rig.
    ///
    /// # Errors
    /// If it may not.
    pub fn check_rig_name(rig: &str) -> Result<&str, ReadConfigError> {
        raw::check_rig_name(rig)
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&ClusterConfig> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// The stand-in for an image, if the table has one.
    pub fn program_for(&self, image: &str) -> Option<Program> {
        let tagged = match image.rsplit('/').next() {
            Some(last) if last.contains(':') || last.contains('@') => image.to_owned(),
            _ => format!("{image}:latest"),
        };
        let full = format!("docker.io/{tagged}");
        self.images
            .iter()
            .find(|rule| matches(&rule.pattern, &tagged) || matches(&rule.pattern, &full))
            .map(|rule| rule.program)
    }
}

impl ClusterConfig {
    /// The address of its control plane (xds-server, etcd).
    pub fn control_plane(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, self.id, CONTROL_PLANE_HOST)
    }

    /// The IPv6 address of its control plane.
    pub fn control_plane_v6(&self) -> Ipv6Addr {
        self.link_v6(CONTROL_PLANE_HOST)
    }

    /// The router's address on the cluster's link.
    pub fn router(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, self.id, ROUTER_HOST)
    }

    /// The router's IPv6 address on the cluster's link.
    pub fn router_v6(&self) -> Ipv6Addr {
        self.link_v6(ROUTER_HOST)
    }

    /// A node's address on the cluster's link.
    pub fn node_address(&self, node: &NodeConfig) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, self.id, CONTROL_PLANE_HOST + node.index)
    }

    /// A node's IPv6 address on the cluster's link.
    pub fn node_address_v6(&self, node: &NodeConfig) -> Ipv6Addr {
        self.link_v6(CONTROL_PLANE_HOST + node.index)
    }

    /// The address of the cluster's DNS.
    pub fn dns(&self) -> Ipv4Addr {
        let base = u32::from(self.service_subnet.network());
        Ipv4Addr::from(base + DNS_HOST)
    }

    /// The cluster's link (nodes and control plane).
    pub fn link_subnet(&self) -> String {
        format!("172.18.{}.0/24", self.id)
    }

    /// The cluster's link in IPv6.
    pub fn link_subnet_v6(&self) -> String {
        format!("fd00:18:{:x}::/64", self.id)
    }

    /// The IPv4 address of the pod with number `host` (2–254) on a node.
    pub fn pod_address(&self, node: &NodeConfig, host: u8) -> Ipv4Addr {
        let base = u32::from(self.pod_subnet.network());
        Ipv4Addr::from(base + u32::from(node.index) * 256 + u32::from(host))
    }

    /// The IPv6 address of the pod with number `host` on a node.
    pub fn pod_address_v6(&self, node: &NodeConfig, host: u8) -> Ipv6Addr {
        let base = u128::from(self.pod_subnet_v6.network());
        Ipv6Addr::from(base + (u128::from(node.index) << 64) + u128::from(host))
    }

    fn link_v6(&self, host: u8) -> Ipv6Addr {
        // The last group reads like the IPv4 address: .11 is ::11.
        let group =
            u16::from(host / 100) * 256 + u16::from(host / 10 % 10) * 16 + u16::from(host % 10);
        let id = u16::from(self.id);
        Ipv6Addr::new(0xfd00, 0x18, id, 0, 0, 0, 0, group)
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The lab that is built in.
pub const BUILT_IN: &str = include_str!("../lab.yaml");

const ROUTER_HOST: u8 = 1;
const CONTROL_PLANE_HOST: u8 = 10;
const DNS_HOST: u32 = 10;
