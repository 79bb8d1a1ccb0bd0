//! The real part: a lab with one cluster of one node, and the files that bind the simulated ones to it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tulle_e2e::rig::http_get;
use tulle_lab::{DownGuard, Lab, LabConfig, UpOptions};
use tulle_xds_server::{server::SERVER_DNS_NAME, store::EtcdSettings};

use crate::{
    nodes::Server,
    plan::{NAMESPACE, Plan, SERVICE_PORT, service_address},
    process::Process,
};

/// The lab, until it is dropped.
#[derive(Debug)]
pub struct Rig {
    lab: Lab,
    _down: DownGuard,
}

impl Rig {
    /// Brings the lab up.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(binaries: &Path) -> Result<Rig> {
        let down = DownGuard::fresh(RIG)?;
        let lab = Lab::up(UpOptions {
            config: Some(LabConfig::parse(RIG, LAB_FILE)?),
            binaries: Some(binaries.to_owned()),
            ..UpOptions::default()
        })?;
        Ok(Rig { lab, _down: down })
    }

    /// Moves this thread into the network of the cluster's control plane; threads that it starts afterwards are born there.
    ///
    /// # Errors
    /// When the namespace is not there.
    pub fn enter_control_plane(&self) -> Result<()> {
        let opened = self
            .lab
            .inside_control_plane(CLUSTER, || fs::File::open("/proc/thread-self/ns/net"))??;
        let kind = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(opened.as_fd(), kind)?)
    }

    /// The cluster's etcd, with all rights: the simulated clusters live in it as well.
    ///
    /// # Errors
    /// When the cluster is not in the lab's file.
    pub fn etcd(&self) -> Result<EtcdSettings> {
        let pki = self.directory().join("etcd/pki");
        Ok(EtcdSettings {
            endpoints: vec![self.etcd_address()?],
            ca: pki.join("ca.crt").into(),
            cert: pki.join("root.crt").into(),
            key: pki.join("root.key").into(),
            server_name: None,
        })
    }

    /// Where nodes connect to.
    ///
    /// # Errors
    /// When the cluster's root certificate cannot be read.
    pub fn server(&self) -> Result<Server> {
        let root = self.directory().join("ca/root-cert.pem");
        let address = self.control_plane()?;
        Ok(Server {
            address: format!("https://{address}:{XDS_PORT}"),
            root_pem: fs::read_to_string(&root).with_context(|| root.display().to_string())?,
            name: SERVER_DNS_NAME.to_owned(),
            node_proxy: format!("spiffe://{CLUSTER}.tulle/ns/tulle-system/sa/node-proxy")
                .parse()?,
        })
    }

    /// Gives the nodes their tokens.
    ///
    /// # Errors
    /// When the file of the tokens cannot be changed.
    pub fn admit_nodes(&self, count: usize) -> Result<()> {
        let path = self.directory().join("node-tokens.json");
        let mut tokens: BTreeMap<String, String> = serde_json::from_slice(&fs::read(&path)?)?;
        for number in 0..count {
            let digest = Sha256::digest(token(number));
            let hash = digest.iter().fold(String::new(), |mut text, byte| {
                // Writing into a text cannot fail.
                write!(text, "{byte:02x}").ok();
                text
            });
            tokens.insert(format!("sim-node-{number}"), hash);
        }
        let mut nodes = String::new();
        for number in 0..count {
            write!(
                nodes,
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: sim-node-{number}}}\n"
            )?;
        }
        self.write_manifest("sim-nodes.yaml", &nodes)?;
        replace(&path, &serde_json::to_string(&tokens)?)
    }

    /// Creates the cluster's own half of every global service.
    ///
    /// # Errors
    /// When the manifests cannot be written.
    pub fn create_services(&self, plan: Plan) -> Result<()> {
        self.write_manifest(
            "sim-namespace.yaml",
            &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"),
        )?;
        let all: Vec<usize> = (0..plan.services).collect();
        for (number, part) in all.chunks(SERVICES_OF_FILE).enumerate() {
            let mut text = String::new();
            for service in part {
                let address = service_address(*service)?;
                write!(
                    text,
                    "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{service}\n  namespace: {NAMESPACE}\n  annotations:\n    \
                     service.cilium.io/global: \"true\"\nspec:\n  clusterIP: {address}\n  ports:\n  - name: http\n    port: {SERVICE_PORT}\n    \
                     targetPort: 8080\n"
                )?;
            }
            self.write_manifest(&format!("sim-services-{number}.yaml"), &text)?;
        }
        Ok(())
    }

    /// Lets the real cluster read all simulated ones.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn connect(&self, plan: Plan) -> Result<()> {
        let etcd = self.etcd()?;
        for cluster in 0..plan.clusters {
            let name = plan.cluster_name(cluster)?;
            let pki = self.directory().join("etcd/pki");
            let text = json!({
                "name": name, "endpoints": etcd.endpoints, "ca": pki.join("ca.crt"), "cert": pki.join("root.crt"), "key": pki.join("root.key"),
            });
            let path = self.directory().join(format!("remotes/{name}.yaml"));
            replace(&path, &text.to_string())?;
        }
        Ok(())
    }

    /// The value of a metric of the xds-server or the node proxy, summed over its labels.
    ///
    /// # Errors
    /// When it does not answer or has no such metric.
    pub fn metric(&self, component: Component, name: &str) -> Result<f64> {
        let text = match component {
            Component::XdsServer => http_get(
                SocketAddr::new(self.control_plane()?, XDS_ADMIN_PORT),
                "/metrics",
            )?,
            Component::NodeProxy => self.lab.inside_node(NODE, || {
                http_get(
                    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PROXY_ADMIN_PORT),
                    "/metrics",
                )
            })??,
            Component::Etcd => anyhow::bail!("the metrics of etcd are not read"),
        };
        let values = text.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let bare = key.split('{').next()?;
            (bare == name).then(|| value.parse::<f64>().ok()).flatten()
        });
        let found: Vec<f64> = values.collect();
        anyhow::ensure!(!found.is_empty(), "{component:?} has no metric {name}");
        Ok(found.into_iter().sum())
    }

    /// What the xds-server says of a remote cluster.
    ///
    /// # Errors
    /// When it does not answer, or does not know the cluster.
    pub fn remote_status(&self, cluster: &str) -> Result<Value> {
        let admin = SocketAddr::new(self.control_plane()?, XDS_ADMIN_PORT);
        let status: Value = serde_json::from_str(&http_get(admin, "/status")?)?;
        let remote = status["remotes"].get(cluster);
        Ok(remote
            .with_context(|| format!("no remote {cluster}"))?
            .clone())
    }

    /// A process of the lab.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, component: Component) -> Result<Process> {
        let name = match component {
            Component::XdsServer => format!("{CLUSTER}/xds-server"),
            Component::Etcd => format!("{CLUSTER}/etcd"),
            Component::NodeProxy => format!("{NODE}/node-proxy"),
        };
        let process = self.lab.process(&name)?;
        Ok(Process(
            process.with_context(|| format!("{name} does not run"))?,
        ))
    }

    fn control_plane(&self) -> Result<IpAddr> {
        Ok(self.lab.cluster(CLUSTER)?.control_plane().into())
    }

    fn etcd_address(&self) -> Result<String> {
        Ok(format!("https://{}:{ETCD_PORT}", self.control_plane()?))
    }

    fn directory(&self) -> PathBuf {
        self.lab.state_directory().join(CLUSTER)
    }

    fn write_manifest(&self, name: &str, text: &str) -> Result<()> {
        replace(&self.directory().join("manifests").join(name), text)
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The cluster's server.
    XdsServer,
    /// The cluster's etcd.
    Etcd,
    /// The node's proxy.
    NodeProxy,
}

/// The secret of a simulated node.
pub fn token(node: usize) -> String {
    format!("secret of simulated node {node}").replace(' ', "-")
}

/// Whole or not at all.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let what = || path.display().to_string();
    fs::write(&new, text).with_context(what)?;
    fs::rename(&new, path).with_context(what)
}

const RIG: &str = "scale";
const CLUSTER: &str = "koornacht";
const NODE: &str = "koornacht-worker";
const XDS_PORT: u16 = 15012;
const XDS_ADMIN_PORT: u16 = 15014;
const PROXY_ADMIN_PORT: u16 = 15000;
const ETCD_PORT: u16 = 2379;
const SERVICES_OF_FILE: usize = 200;
const LAB_FILE: &str = "rig: scale
mesh: tulle
store: etcd
connect: manual
clusters:
- name: koornacht
  id: 1
  trustDomain: koornacht.tulle
  podSubnet: 10.1.0.0/16
  serviceSubnet: 172.20.1.0/24
  nodes:
  - name: koornacht-worker
images:
- match: tulle.test/host:*
  program: host
";
