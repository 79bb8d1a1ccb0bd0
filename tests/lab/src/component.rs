//! The rig's own processes: what each is called, how it is started, and how it is ended. Derived
//! from the lab's file and from names, so that any command can do it at any time.

mod command;
mod etcd;

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use thiserror::Error;

pub(crate) use self::command::Programs;
use crate::{
    cgroup::{self, CgroupError},
    config::{ClusterConfig, LabConfig, Mesh, NodeConfig, Store},
    launch::{Launch, LaunchError},
    names::Places,
    netns, supervisor,
    tool::RunToolError,
    wait,
};

/// A process of the rig itself, or a pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Component {
    /// Kubelet and controllers of all clusters.
    Supervisor,
    /// A cluster's etcd.
    Etcd(ClusterConfig),
    /// A cluster's xds-server.
    XdsServer(ClusterConfig),
    /// A node's proxy.
    NodeProxy(ClusterConfig, NodeConfig),
}

/// A component could not be started or ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// No component has this name.
    #[error("there is no component `{name}`; there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A program is missing.
    #[error("the program `{program}` is not in {}; {advice}", places.join(", "))]
    NoProgram {
        /// The program.
        program: String,
        /// Where it was looked for.
        places: Vec<String>,
        /// What mends it.
        advice: &'static str,
    },
    /// Its process could not be started.
    #[error("cannot start {component}")]
    Launch {
        /// The component.
        component: String,
        /// Why.
        #[source]
        source: Box<LaunchError>,
    },
    /// It started but did not become healthy.
    #[error(
        "{component} is not healthy within {deadline:?}: {message}; the end of its log:\n{log}"
    )]
    NotHealthy {
        /// The component.
        component: String,
        /// How long it had.
        deadline: Duration,
        /// What it lacks.
        message: String,
        /// The end of its log.
        log: String,
    },
    /// The users of an etcd could not be set up.
    #[error("cannot set up the users of {component}")]
    EtcdUsers {
        /// The component.
        component: String,
        /// Why.
        #[source]
        source: RunToolError,
    },
    /// A namespace could not be entered.
    #[error("cannot reach {component}")]
    Namespace {
        /// The component.
        component: String,
        /// Why.
        #[source]
        source: netns::NamespaceError,
    },
    /// A file operation failed.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its process could not be ended.
    #[error("cannot end {component}")]
    End {
        /// The component.
        component: String,
        /// Why.
        #[source]
        source: CgroupError,
    },
}

impl Component {
    /// All components that the rig has when all its clusters are up.
    pub(crate) fn all(config: &LabConfig) -> Vec<Component> {
        let mut components = vec![Component::Supervisor];
        for cluster in &config.clusters {
            components.extend(Component::of_cluster(config, cluster));
        }
        components
    }

    /// The components of one cluster, in the order in which they start.
    pub(crate) fn of_cluster(config: &LabConfig, cluster: &ClusterConfig) -> Vec<Component> {
        if config.mesh == Mesh::None {
            return Vec::new();
        }
        let mut components = Vec::new();
        if config.store == Store::Etcd {
            components.push(Component::Etcd(cluster.clone()));
        }
        components.push(Component::XdsServer(cluster.clone()));
        if config.mesh == Mesh::Tulle {
            let nodes = cluster.nodes.iter();
            let proxy = |node: &NodeConfig| Component::NodeProxy(cluster.clone(), node.clone());
            components.extend(nodes.map(proxy));
        }
        components
    }

    /// The component of that name.
    pub(crate) fn parse(config: &LabConfig, name: &str) -> Result<Component, ComponentError> {
        let all = Component::all(config);
        let known = all.iter().map(Component::to_string).collect();
        all.into_iter()
            .find(|component| component.to_string() == name)
            .ok_or_else(|| ComponentError::Unknown {
                name: name.to_owned(),
                known,
            })
    }

    /// The cgroup that its process has for itself.
    pub(crate) fn cgroup(&self, places: &Places) -> PathBuf {
        match self {
            Component::Supervisor => places.supervisor_cgroup(),
            Component::Etcd(cluster) => places.control_plane_cgroup(&cluster.name, "etcd"),
            Component::XdsServer(cluster) => {
                places.control_plane_cgroup(&cluster.name, "xds-server")
            }
            Component::NodeProxy(cluster, node) => places.proxy_cgroup(&cluster.name, &node.name),
        }
    }

    /// The namespace that its process runs in, if not the machine's.
    pub(crate) fn namespace(&self, places: &Places) -> Option<String> {
        match self {
            Component::Supervisor => None,
            Component::Etcd(cluster) | Component::XdsServer(cluster) => {
                Some(places.control_plane_namespace(&cluster.name))
            }
            Component::NodeProxy(cluster, node) => {
                Some(places.node_namespace(&cluster.name, &node.name))
            }
        }
    }

    /// Its process, if it runs.
    pub(crate) fn process(&self, places: &Places) -> Option<i32> {
        cgroup::processes(&self.cgroup(places)).first().copied()
    }

    /// Starts it, unless it runs, and waits until it is healthy.
    pub(crate) fn start(
        &self,
        places: &Places,
        config: &LabConfig,
        programs: &Programs,
    ) -> Result<(), ComponentError> {
        if self.process(places).is_none() {
            if let Component::Etcd(cluster) = self {
                etcd::prepare(places, cluster)?;
            }
            let mut launch = Launch::daemon(
                self.command(places, config, programs)?,
                self.cgroup(places),
                places.log(&self.to_string()),
            );
            launch.namespace = self.namespace(places);
            // The process outlives its starter; whoever asks for it finds it by its cgroup.
            launch.spawn().map_err(|source| ComponentError::Launch {
                component: self.to_string(),
                source: Box::new(source),
            })?;
        }
        self.wait_until_healthy(places, config)?;
        if let Component::Etcd(cluster) = self {
            etcd::create_users(places, cluster)?;
        }
        Ok(())
    }

    /// Asks it to end, waits, and kills it if it takes too long.
    pub(crate) fn stop(&self, places: &Places) -> Result<(), ComponentError> {
        for process in cgroup::processes(&self.cgroup(places)) {
            if let Some(pid) = rustix::process::Pid::from_raw(process) {
                // It may have ended by itself in this moment.
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        wait::until(deadline, || !cgroup::is_populated(&self.cgroup(places)));
        self.kill(places)
    }

    /// Kills it (SIGKILL).
    pub(crate) fn kill(&self, places: &Places) -> Result<(), ComponentError> {
        cgroup::kill(&self.cgroup(places), KILL_DEADLINE).map_err(|source| ComponentError::End {
            component: self.to_string(),
            source,
        })
    }

    /// Whether it does its work, and if not, why.
    pub(crate) fn health(&self, places: &Places, config: &LabConfig) -> Result<(), String> {
        let Some(process) = self.process(places) else {
            return Err("not running".to_owned());
        };
        let (port, address) = match self {
            Component::Supervisor => return supervisor_health(places, config, process),
            Component::Etcd(_) => (command::ETCD_HEALTH_PORT, LOOPBACK.into()),
            Component::XdsServer(cluster) => {
                (command::XDS_ADMIN_PORT, cluster.control_plane().into())
            }
            Component::NodeProxy(..) => (command::PROXY_ADMIN_PORT, LOOPBACK.into()),
        };
        let path = if matches!(self, Component::Etcd(_)) {
            "/health"
        } else {
            "/healthz"
        };
        let address = std::net::SocketAddr::new(address, port);
        let namespace = self.namespace(places).unwrap_or_default();
        let answer = netns::inside(&namespace, || {
            supervisor::http_status(address, path, &[], Instant::now() + HEALTH_TIMEOUT)
        });
        match answer {
            Ok(Ok(200)) => Ok(()),
            Ok(Ok(status)) => Err(format!("http://{address}{path} answers {status}")),
            Ok(Err(error)) => Err(format!("http://{address}{path}: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn wait_until_healthy(
        &self,
        places: &Places,
        config: &LabConfig,
    ) -> Result<(), ComponentError> {
        let mut last = String::new();
        let deadline = Instant::now() + START_DEADLINE;
        let healthy = wait::until(deadline, || match self.health(places, config) {
            Ok(()) => true,
            Err(message) => {
                last = message;
                // A process that has ended will not become healthy.
                self.process(places).is_none()
            }
        });
        if healthy && self.process(places).is_some() {
            return Ok(());
        }
        let log = std::fs::read_to_string(places.log(&self.to_string())).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LOG_LINES_SHOWN).collect();
        Err(ComponentError::NotHealthy {
            component: self.to_string(),
            deadline: START_DEADLINE,
            message: last,
            log: lines.into_iter().rev().collect::<Vec<_>>().join("\n"),
        })
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Component::Supervisor => f.write_str("supervisor"),
            Component::Etcd(cluster) => write!(f, "{}/etcd", cluster.name),
            Component::XdsServer(cluster) => write!(f, "{}/xds-server", cluster.name),
            Component::NodeProxy(_, node) => write!(f, "{}/node-proxy", node.name),
        }
    }
}

/// The supervisor is healthy when the process that runs looks after every cluster that is up.
fn supervisor_health(places: &Places, config: &LabConfig, process: i32) -> Result<(), String> {
    let text = std::fs::read_to_string(supervisor::ready_file(places)).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next().and_then(|line| line.parse().ok()) != Some(process) {
        return Err("it has not begun".to_owned());
    }
    let seen: Vec<&str> = lines.collect();
    let up = places.clusters_up();
    let mut expected = config
        .clusters
        .iter()
        .filter(|cluster| up.join(&cluster.name).exists());
    match expected.find(|cluster| !seen.contains(&cluster.name.as_str())) {
        Some(cluster) => Err(format!("it does not look after {} yet", cluster.name)),
        None => Ok(()),
    }
}

/// The directory of a cluster's etcd.
pub(crate) fn etcd_directory(places: &Places, cluster: &str) -> PathBuf {
    places.cluster(cluster).join("etcd")
}

/// The certificates of a cluster's etcd.
pub(crate) fn etcd_certificates(places: &Places, cluster: &str) -> crate::pki::EtcdCertificates {
    crate::pki::EtcdCertificates::at(etcd_directory(places, cluster).join("pki"))
}

/// The directory of a cluster's mesh CA.
pub(crate) fn ca_directory(places: &Places, cluster: &str) -> PathBuf {
    places.cluster(cluster).join("ca")
}

/// The directory of the clusters that a cluster reads from.
pub(crate) fn remotes_directory(places: &Places, cluster: &str) -> PathBuf {
    places.cluster(cluster).join("remotes")
}

/// The file of the hashed tokens of a cluster's nodes.
pub(crate) fn node_tokens_file(places: &Places, cluster: &str) -> PathBuf {
    places.cluster(cluster).join("node-tokens.json")
}

/// The file of a node's token.
pub(crate) fn token_file(places: &Places, cluster: &str, node: &str) -> PathBuf {
    places.node(cluster, node).join("token")
}

/// The file of the hashed tokens of a cluster's operators.
pub(crate) fn operator_tokens_file(places: &Places, cluster: &str) -> PathBuf {
    places.cluster(cluster).join("operator-tokens.json")
}

/// The file of the operator's token.
pub(crate) fn operator_token_file(places: &Places, cluster: &str) -> PathBuf {
    places.cluster(cluster).join("operator-token")
}

/// Where a cluster's xds-server takes orders.
pub(crate) fn management_url(cluster: &ClusterConfig) -> String {
    format!("https://{}:{MANAGEMENT_PORT}", cluster.control_plane())
}

/// Where a cluster's xds-server serves proxies.
pub(crate) fn xds_url(cluster: &ClusterConfig) -> String {
    format!("https://{}:{XDS_PORT}", cluster.control_plane())
}

/// The port on which an xds-server serves proxies.
const XDS_PORT: u16 = 15012;
/// The port of a cluster's management API.
const MANAGEMENT_PORT: u16 = 15013;
/// The port of a cluster's etcd.
pub(crate) const ETCD_PORT: u16 = 2379;

const LOOPBACK: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Longer than a proxy takes to drain.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
const KILL_DEADLINE: Duration = Duration::from_secs(10);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
const LOG_LINES_SHOWN: usize = 20;

#[cfg(test)]
mod tests;
