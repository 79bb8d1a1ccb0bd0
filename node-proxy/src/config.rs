//! What the program is told at start: flags → [`RawConfig`] → [`Config`].
//!
//! Every fault is reported at once, each with its flag, so that nobody mends them one by one. Only this module looks at the
//! command line, and only here files are read because a flag names them.

mod cgroup;
mod raw;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tulle_datapath::{Enforcement, Pacing, SockmapMode};
use tulle_model::{ClusterName, TrustDomain};

use crate::plane::InboundMode;

pub use cgroup::{OwnCgroupError, own_cgroup};
pub use raw::RawConfig;

/// The settings of one node proxy; nothing in it means "default" any more.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster of this node.
    pub cluster: ClusterName,
    /// The name of this node.
    pub node: String,
    /// The trust domain of this cluster.
    pub trust_domain: TrustDomain,
    /// Where the CNI plugin describes the pods of this node.
    pub pod_dir: PathBuf,
    /// Where the xds-server is.
    pub xds: XdsAddress,
    /// What proves the xds-server, as PEM.
    pub xds_root_pem: String,
    /// The file with this node's token, read anew for each use.
    pub token: PathBuf,
    /// Processes below this cgroup are captured.
    pub capture_cgroup: PathBuf,
    /// Where the kernel's side is pinned.
    pub pin_dir: PathBuf,
    /// The proxy's own cgroup, never captured.
    pub proxy_cgroup: PathBuf,
    /// What happens to plaintext from outside the mesh.
    pub inbound: InboundMode,
    /// Which sockets are joined in the kernel.
    pub sockmap: SockmapMode,
    /// Which connections send by the clock.
    pub pacing: Pacing,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// How long connections may go on after a signal.
    pub drain_timeout: Duration,
    /// The node's own addresses, from which probes come.
    pub host_addresses: Vec<IpAddr>,
    /// How pods of this node reach each other.
    pub same_node: SameNode,
    /// Whether connections to other proxies of this mesh have lanes.
    pub lanes: Lanes,
    /// How a connection that policy denies looks to whoever opens it.
    pub denied: Enforcement,
    /// How long an address counts for a name that a pod resolved, at least.
    pub names_ttl_min: Duration,
    /// Where the last known view is kept; without it a restart needs the xds-server.
    pub state: Option<PathBuf>,
}

/// How pods of one node reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameNode {
    /// Without encryption, since nothing leaves the host; only where no policy has a say.
    Direct,
    /// As between nodes.
    Mtls,
}

/// Whether this proxy offers lanes to others, and takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// Where the peer offers them too.
    On,
    /// HBONE only, as to a peer of another mesh.
    Off,
}

/// `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdsAddress {
    /// The whole, as gRPC wants it.
    pub url: String,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Something is wrong with one flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// One sentence: what was found, what was expected.
    pub message: String,
}

/// The command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(
    /// All that is wrong, in the order of the flags; never empty.
    pub Vec<ConfigFault>,
);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command line cannot be used:")?;
        for ConfigFault { flag, message } in &self.0 {
            write!(f, "\n  {flag}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

#[cfg(test)]
mod tests;
