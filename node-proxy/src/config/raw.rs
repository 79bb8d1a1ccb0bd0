//! The command line as it was typed, and its conversion.

use std::{
    fmt::Display,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Parser;
use tulle_datapath::{Enforcement, Pacing, SockmapMode};

use super::{Config, ConfigFault, ConfigFaults, Lanes, SameNode, XdsAddress, own_cgroup};
use crate::plane::InboundMode;

/// The node's proxy of the Tulle mesh.
///
/// All values are texts here: what they mean is decided in one place, so that every mistake is reported in one go.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "node-proxy", version)]
pub struct RawConfig {
    /// The cluster of this node (required)
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The name of this node, as in Kubernetes (required)
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The trust domain of the cluster (required)
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: Option<String>,
    /// Where the CNI plugin describes this node's pods (required)
    #[arg(long, value_name = "DIR")]
    pub pod_dir: Option<PathBuf>,
    /// The xds-server, https://host:port (required)
    #[arg(long, value_name = "URL")]
    pub xds: Option<String>,
    /// Root certificates that prove the xds-server, PEM (required)
    #[arg(long, value_name = "FILE")]
    pub xds_root: Option<PathBuf>,
    /// This node's token (required)
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// Processes below this cgroup (v2) are captured (required)
    #[arg(long, value_name = "DIR")]
    pub capture_cgroup: Option<PathBuf>,
    /// Where the kernel's side is pinned, on a bpffs (required)
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// The proxy's cgroup, never captured [default: its own]
    #[arg(long, value_name = "DIR")]
    pub proxy_cgroup: Option<PathBuf>,
    /// Plaintext from outside the mesh: permissive or strict
    #[arg(long, value_name = "MODE", default_value = "permissive")]
    pub inbound: String,
    /// Which sockets are joined in the kernel: auto (where no program can tell), off, to-proxy or full
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub sockmap: String,
    /// What sends by the clock where BBR is the system's default: auto (only what crosses a network) or system (all)
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub pacing: String,
    /// Where the admin server listens; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin: String,
    /// How long connections may go on after SIGTERM, in seconds
    #[arg(long, value_name = "SECS", default_value = "10")]
    pub drain_timeout: String,
    /// An address of the node, from which the kubelet probes; may be repeated
    #[arg(long, value_name = "IP")]
    pub host_address: Vec<String>,
    /// How pods of this node reach each other: direct or mtls
    #[arg(long, value_name = "MODE", default_value = "direct")]
    pub same_node: String,
    /// Lanes to other proxies of this mesh, in either direction: on, or off (HBONE to everybody)
    #[arg(long, value_name = "MODE", default_value = "on")]
    pub lanes: String,
    /// How a connection that policy denies looks: drop (nobody answers) or reject (the call fails at once)
    #[arg(long, value_name = "MODE", default_value = "drop")]
    pub denied: String,
    /// How long an address counts for the name that a pod resolved to it, at least, in seconds: for policies with toFQDNs
    #[arg(long, value_name = "SECS", default_value = "3600")]
    pub names_min_ttl: String,
    /// Keep the last known view here and start from it
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigFaults;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigFaults> {
        let mut faults = Faults::default();
        let f = &mut faults;
        let cluster = f.required("--cluster", raw.cluster, |text| parsed(&text));
        let node = f.required("--node", raw.node, node_name);
        let trust_domain = f.required("--trust-domain", raw.trust_domain, |text| parsed(&text));
        let pod_dir = f.required("--pod-dir", raw.pod_dir, directory);
        let xds = f.required("--xds", raw.xds, xds_address);
        let xds_root_pem = f.required("--xds-root", raw.xds_root, root_pem);
        let token = f.required("--token", raw.token, token_file);
        let capture_cgroup = f.required("--capture-cgroup", raw.capture_cgroup, cgroup);
        let pin_dir = f.required("--pin-dir", raw.pin_dir, absolute);
        let proxy_cgroup = match raw.proxy_cgroup {
            Some(path) => f.value("--proxy-cgroup", cgroup(path)),
            None => f.value("--proxy-cgroup", own_cgroup().map_err(|e| with_causes(&e))),
        };
        let inbound = f.value("--inbound", inbound_mode(&raw.inbound));
        let sockmap = f.value("--sockmap", sockmap_mode(&raw.sockmap));
        let pacing = f.value("--pacing", pacing_mode(&raw.pacing));
        let admin = f.value("--admin", admin_address(&raw.admin));
        let drain_timeout = f.value("--drain-timeout", drain_timeout(&raw.drain_timeout));
        let hosts = raw
            .host_address
            .iter()
            .map(|text| address(text))
            .collect::<Result<_, _>>();
        let host_addresses: Option<Vec<IpAddr>> = f.value("--host-address", hosts);
        let denied = f.value("--denied", denied_mode(&raw.denied));
        let names_ttl_min = f.value("--names-min-ttl", names_ttl_min(&raw.names_min_ttl));
        let same_node = f.value("--same-node", same_node_mode(&raw.same_node));
        let lanes = f.value("--lanes", lanes_mode(&raw.lanes));
        let state = match raw.state {
            Some(path) => f.value("--state", state_file(path)).map(Some),
            None => Some(None),
        };
        let config = || {
            Some(Config {
                cluster: cluster?,
                node: node?,
                trust_domain: trust_domain?,
                pod_dir: pod_dir?,
                xds: xds?,
                xds_root_pem: xds_root_pem?,
                token: token?,
                capture_cgroup: capture_cgroup?,
                pin_dir: pin_dir?,
                proxy_cgroup: proxy_cgroup?,
                inbound: inbound?,
                sockmap: sockmap?,
                pacing: pacing?,
                admin: admin?,
                drain_timeout: drain_timeout?,
                host_addresses: host_addresses?,
                same_node: same_node?,
                lanes: lanes?,
                denied: denied?,
                names_ttl_min: names_ttl_min?,
                state: state?,
            })
        };
        config().ok_or(ConfigFaults(faults.0))
    }
}

/// Collects what is wrong, and hands on what is right.
#[derive(Default)]
struct Faults(Vec<ConfigFault>);

impl Faults {
    fn value<T>(&mut self, flag: &'static str, value: Result<T, String>) -> Option<T> {
        value
            .map_err(|message| self.0.push(ConfigFault { flag, message }))
            .ok()
    }

    fn required<R, T>(
        &mut self,
        flag: &'static str,
        raw: Option<R>,
        convert: impl FnOnce(R) -> Result<T, String>,
    ) -> Option<T> {
        let value = raw.ok_or_else(|| "is missing".to_owned()).and_then(convert);
        self.value(flag, value)
    }
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A node's name is a DNS subdomain (RFC 1123), as Kubernetes demands.
fn node_name(text: String) -> Result<String, String> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(valid) {
        return Err(format!(
            "{text:?} is not a node's name: expected 1–253 of a-z, 0-9, '-', '.'"
        ));
    }
    Ok(text)
}

fn directory(path: PathBuf) -> Result<PathBuf, String> {
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(format!("{} is not a directory", path.display())),
        Err(error) => Err(format!("{} cannot be used: {error}", path.display())),
    }
}

fn cgroup(path: PathBuf) -> Result<PathBuf, String> {
    let path = directory(path)?;
    if path.join("cgroup.controllers").exists() {
        Ok(path)
    } else {
        Err(format!(
            "{} is not a cgroup: expected a directory of cgroup v2",
            path.display()
        ))
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{} is not an absolute path", path.display()))
    }
}

fn xds_address(text: String) -> Result<XdsAddress, String> {
    let refused = || format!("{text:?} is not an address: expected https://host:port");
    let url: http::Uri = text.parse().map_err(|_| refused())?;
    let path_is_empty = matches!(url.path(), "" | "/") && url.query().is_none();
    match (url.scheme_str(), url.host(), url.port_u16()) {
        (Some("https"), Some(host), Some(port)) if port != 0 && path_is_empty => {
            let host = host.trim_matches(['[', ']']).to_owned();
            Ok(XdsAddress {
                host,
                port,
                url: text.trim_end_matches('/').to_owned(),
            })
        }
        _ => Err(refused()),
    }
}

fn root_pem(path: PathBuf) -> Result<String, String> {
    let pem = fs::read_to_string(&path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(pem)
    } else {
        Err(format!(
            "{} holds no certificate: expected PEM",
            path.display()
        ))
    }
}

fn token_file(path: PathBuf) -> Result<PathBuf, String> {
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().is_empty() => Err(format!("{} is empty", path.display())),
        Ok(_) => Ok(path),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// The file itself need not exist yet, but its directory must, or every save would fail.
fn state_file(path: PathBuf) -> Result<PathBuf, String> {
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    directory(parent.to_owned())?;
    if path.is_dir() {
        return Err(format!(
            "{} is a directory: expected a file",
            path.display()
        ));
    }
    Ok(path)
}

fn inbound_mode(text: &str) -> Result<InboundMode, String> {
    match text {
        "permissive" => Ok(InboundMode::Permissive),
        "strict" => Ok(InboundMode::Strict),
        _ => Err(format!(
            "{text:?} is not a mode: expected permissive or strict"
        )),
    }
}

fn sockmap_mode(text: &str) -> Result<SockmapMode, String> {
    match text {
        "auto" => Ok(SockmapMode::Auto),
        "off" => Ok(SockmapMode::Off),
        "to-proxy" => Ok(SockmapMode::ToProxy),
        "full" => Ok(SockmapMode::Full),
        _ => Err(format!(
            "{text:?} is not a mode: expected auto, off, to-proxy or full"
        )),
    }
}

fn pacing_mode(text: &str) -> Result<Pacing, String> {
    match text {
        "auto" => Ok(Pacing::Auto),
        "system" => Ok(Pacing::System),
        _ => Err(format!("{text:?} is not a mode: expected auto or system")),
    }
}

fn denied_mode(text: &str) -> Result<Enforcement, String> {
    match text {
        "drop" => Ok(Enforcement::Drop),
        "reject" => Ok(Enforcement::Reject),
        _ => Err(format!("{text:?} is not a mode: expected drop or reject")),
    }
}

fn same_node_mode(text: &str) -> Result<SameNode, String> {
    match text {
        "direct" => Ok(SameNode::Direct),
        "mtls" => Ok(SameNode::Mtls),
        _ => Err(format!("{text:?} is not a mode: expected direct or mtls")),
    }
}

fn lanes_mode(text: &str) -> Result<Lanes, String> {
    match text {
        "on" => Ok(Lanes::On),
        "off" => Ok(Lanes::Off),
        _ => Err(format!("{text:?} is not a mode: expected on or off")),
    }
}

/// The dump shows the whole mesh and asks nobody for a password: it stays on the node.
fn admin_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(address) => Err(format!(
            "{address} is not on loopback: expected 127.0.0.1:PORT or [::1]:PORT"
        )),
        Err(_) => Err(format!(
            "{text:?} is not an address: expected 127.0.0.1:PORT or [::1]:PORT"
        )),
    }
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse::<u64>()
        .ok()
        .filter(|seconds| *seconds <= DRAIN_SECS_MAX);
    let refused = || format!("{text:?} is not a time: expected 0–{DRAIN_SECS_MAX} seconds");
    seconds.map(Duration::from_secs).ok_or_else(refused)
}

fn names_ttl_min(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse::<u64>()
        .ok()
        .filter(|seconds| *seconds <= NAMES_TTL_MIN_SECS_MAX);
    let refused =
        || format!("{text:?} is not a time: expected 0–{NAMES_TTL_MIN_SECS_MAX} seconds (a week)");
    seconds.map(Duration::from_secs).ok_or_else(refused)
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address"))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// No service manager waits longer than an hour for a process to end.
const DRAIN_SECS_MAX: u64 = 3600;
/// Addresses are given to others sooner than this.
const NAMES_TTL_MIN_SECS_MAX: u64 = 7 * 24 * 3600;
