//! Another mesh's node proxy in the place of Tulle's, by a program that is given by path.
//!
//! The peer gets what a user of it would give it: the mesh's own xds-server and authority, the node's token, redirection inside of the
//! pods' namespaces as its own installation makes it, and a CNI agent that hands the pods over. Nothing of it is tuned, except that its
//! log of every connection is off, which can only help it.

mod agent;
mod redirect;
mod zds;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Instant,
};

use anyhow::{Context as _, Error, Result, bail, ensure};
use tulle_lab::{ForeignProxy, Lab, NodeAccess, wait_until};

use self::agent::Agent;
use crate::rig::{READY_DEADLINE, http_get};

/// Which program stands in for the node proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// A ztunnel: other peers have other ways to be fed.
    program: PathBuf,
}

/// The peer's processes on some nodes, each with its agent.
#[derive(Debug)]
pub(super) struct PeerNodes {
    nodes: Vec<PeerNode>,
}

#[derive(Debug)]
struct PeerNode {
    name: String,
    access: NodeAccess,
    program: PathBuf,
    agent: Agent,
}

impl FromStr for Peer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Peer> {
        let (kind, path) = text
            .split_once('=')
            .with_context(|| format!("`{text}` is not `ztunnel=PATH`"))?;
        ensure!(
            kind == "ztunnel",
            "there is no peer `{kind}`; there is `ztunnel`"
        );
        let program = PathBuf::from(path);
        let metadata = fs::metadata(&program)
            .with_context(|| format!("the peer's program {} is not there", program.display()))?;
        ensure!(
            metadata.is_file() && metadata.permissions().mode() & 0o111 != 0,
            "the peer's program {} is not an executable file",
            program.display()
        );
        Ok(Peer {
            program: program.canonicalize()?,
        })
    }
}

impl PeerNodes {
    /// Starts the peer and its agent on the nodes, and waits until each is ready.
    pub(super) fn start(lab: &Lab, peer: &Peer, names: &[&str]) -> Result<PeerNodes> {
        redirect::check()?;
        let mut nodes = Vec::new();
        for name in names {
            let access = lab.node_access(name)?;
            let agent = Agent::start(access.directory.join(SOCKET), access.pod_files.clone())?;
            let node = PeerNode {
                name: (*name).to_owned(),
                access,
                program: peer.program.clone(),
                agent,
            };
            node.start(lab)?;
            nodes.push(node);
        }
        for node in &nodes {
            node.wait_until_ready(lab)?;
        }
        Ok(PeerNodes { nodes })
    }

    /// Starts the peer of a node again.
    pub(super) fn restart(&self, lab: &Lab, name: &str) -> Result<()> {
        let node = self.nodes.iter().find(|node| node.name == name);
        let node = node.with_context(|| format!("no peer runs on {name}"))?;
        lab.stop_foreign(name)?;
        node.start(lab)?;
        node.wait_until_ready(lab)
    }
}

impl PeerNode {
    fn start(&self, lab: &Lab) -> Result<()> {
        let directory = self.access.directory.clone();
        let program = ForeignProxy {
            command: vec![
                self.program.clone().into(),
                "proxy".into(),
                "ztunnel".into(),
            ],
            environment: environment(&self.name, &self.access),
            directory,
        };
        Ok(lab.start_foreign(&self.name, program)?)
    }

    /// Ready is a ztunnel that has the mesh and its pods.
    fn wait_until_ready(&self, lab: &Lab) -> Result<()> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), READINESS_PORT);
        let mut last = Ok(String::new());
        let ready = wait_until(Instant::now() + READY_DEADLINE, || {
            let answer = lab.inside_node(&self.name, || http_get(address, READINESS_PATH));
            last = answer.map_err(Error::from).and_then(|answer| Ok(answer?));
            // A process that has ended will not become ready.
            last.is_ok() || matches!(lab.foreign_process(&self.name), Ok(None))
        });
        let name = &self.name;
        let log = || log_end(&lab.foreign_log(name).unwrap_or_default());
        if lab.foreign_process(name)?.is_none() {
            bail!("the ztunnel of {name} has ended: {}", log());
        }
        last.with_context(|| format!("the ztunnel of {name} is not ready: {}", log()))?;
        if let Some(fault) = self.agent.fault() {
            bail!("the agent of {name}: {fault}");
        }
        ensure!(
            ready,
            "the ztunnel of {name} is not ready within {READY_DEADLINE:?}"
        );
        Ok(())
    }
}

/// As its own installation sets it, with the mesh's xds-server in istiod's place.
fn environment(node: &str, access: &NodeAccess) -> Vec<(String, String)> {
    let root = access.root.display().to_string();
    let pairs = [
        ("RUST_LOG", "info,access=off".to_owned()),
        ("XDS_ADDRESS", access.server.clone()),
        ("CA_ADDRESS", access.server.clone()),
        ("XDS_ROOT_CA", root.clone()),
        ("CA_ROOT_CA", root),
        ("ALT_XDS_HOSTNAME", SERVER_NAME.to_owned()),
        ("ALT_CA_HOSTNAME", SERVER_NAME.to_owned()),
        ("AUTH_TOKEN", access.token.display().to_string()),
        ("CLUSTER_ID", access.cluster.clone()),
        ("TRUST_DOMAIN", access.trust_domain.clone()),
        ("NODE_NAME", node.to_owned()),
        ("POD_NAME", format!("ztunnel-{node}")),
        ("POD_NAMESPACE", "istio-system".to_owned()),
        ("SERVICE_ACCOUNT", "ztunnel".to_owned()),
        ("INSTANCE_IP", access.address.to_string()),
        (
            "INPOD_UDS",
            access.directory.join(SOCKET).display().to_string(),
        ),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn log_end(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(LOG_LINES_SHOWN).collect();
    lines.reverse();
    match lines.as_slice() {
        [] => format!("its log {} is empty", file.display()),
        lines => format!("its log ends:\n{}", lines.join("\n")),
    }
}

/// Why the peer is not asked about this path.
pub(super) const ONE_TRUST_DOMAIN: &str =
    "a ztunnel accepts peers of its own trust domain only, and each cluster has one of its own";

const SOCKET: &str = "ztunnel.sock";
/// Under which name the xds-server's certificate is made out.
const SERVER_NAME: &str = "xds-server.tulle-system.svc";
const READINESS_PORT: u16 = 15021;
const READINESS_PATH: &str = "/healthz/ready";
const LOG_LINES_SHOWN: usize = 20;

#[cfg(test)]
mod tests;
