//! The command line of each component, and where its program lies.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    Component, ComponentError, ETCD_PORT, MANAGEMENT_PORT, XDS_PORT, ca_directory,
    etcd_certificates, etcd_directory, node_tokens_file, operator_tokens_file, remotes_directory,
    token_file, xds_url,
};
use crate::{
    config::{ClusterConfig, Connect, LabConfig, NodeConfig, Store},
    names::Places,
    pki::Holder,
};

/// Where Tulle's own programs are looked for, first to last.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    directories: Vec<PathBuf>,
}

impl Programs {
    /// Looks in `given`, then beside the running program; a test's program lies one directory below
    /// the others.
    pub(crate) fn find(given: Option<&Path>) -> Programs {
        let own = std::env::current_exe().unwrap_or_default();
        let beside = own.ancestors().skip(1).take(2).map(Path::to_owned);
        Programs {
            directories: given
                .map(Path::to_owned)
                .into_iter()
                .chain(beside)
                .collect(),
        }
    }

    /// The path of a program.
    pub(crate) fn path(&self, program: &str) -> Result<PathBuf, ComponentError> {
        let mut candidates = self
            .directories
            .iter()
            .map(|directory| directory.join(program));
        candidates
            .find(|path| path.is_file())
            .ok_or_else(|| ComponentError::NoProgram {
                program: program.to_owned(),
                places: self
                    .directories
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect(),
                advice: "`cargo build` makes it, `--bin-dir` says where it is",
            })
    }

    /// The supervisor's command: this very program if it is `tulle`, or one that lies beside it.
    fn supervisor(&self, rig: &str) -> Result<Vec<OsString>, ComponentError> {
        let own = std::env::current_exe().unwrap_or_default();
        let built = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
        let is_tulle = own.file_name().is_some_and(|name| name == "tulle");
        let tulle = if is_tulle {
            Ok(own)
        } else {
            self.path("tulle")
        };
        let (program, words): (PathBuf, &[&str]) = match (self.path(SUPERVISOR), tulle) {
            // Of two that lie there the one that was built last fits the caller best.
            (Ok(supervisor), Ok(tulle)) if !is_tulle && built(&supervisor) >= built(&tulle) => {
                (supervisor, &[])
            }
            (_, Ok(tulle)) => (tulle, &["lab", "supervise"]),
            (Ok(supervisor), Err(_)) => (supervisor, &[]),
            (Err(_), Err(error)) => return Err(error),
        };
        let mut command = vec![program.into_os_string()];
        command.extend(words.iter().map(OsString::from));
        command.extend(["--rig".into(), rig.into()]);
        Ok(command)
    }
}

impl Component {
    /// The component's command line.
    pub(super) fn command(
        &self,
        places: &Places,
        config: &LabConfig,
        programs: &Programs,
    ) -> Result<Vec<OsString>, ComponentError> {
        match self {
            Component::Supervisor => programs.supervisor(places.rig()),
            Component::Etcd(cluster) => Ok(etcd(places, cluster)),
            Component::XdsServer(cluster) => {
                let program = programs.path("xds-server")?;
                Ok(xds_server(program, places, config, cluster))
            }
            Component::NodeProxy(cluster, node) => {
                let program = programs.path("node-proxy")?;
                Ok(node_proxy(program, places, config, cluster, node))
            }
        }
    }
}

fn etcd(places: &Places, cluster: &ClusterConfig) -> Vec<OsString> {
    let certificates = etcd_certificates(places, &cluster.name);
    let url = format!("https://{}:{ETCD_PORT}", cluster.control_plane());
    Words::new("etcd".into())
        .flag("--name", &cluster.name)
        .path(
            "--data-dir",
            &etcd_directory(places, &cluster.name).join("data"),
        )
        .flag(
            "--listen-client-urls",
            &format!("{url},https://127.0.0.1:{ETCD_PORT}"),
        )
        .flag("--advertise-client-urls", &url)
        .flag("--listen-peer-urls", ETCD_PEER_URL)
        .flag("--initial-advertise-peer-urls", ETCD_PEER_URL)
        .flag(
            "--initial-cluster",
            &format!("{}={ETCD_PEER_URL}", cluster.name),
        )
        .flag(
            "--listen-metrics-urls",
            &format!("http://127.0.0.1:{ETCD_HEALTH_PORT}"),
        )
        .path("--cert-file", &certificates.certificate(Holder::Server))
        .path("--key-file", &certificates.key(Holder::Server))
        .path("--trusted-ca-file", &certificates.ca())
        .word("--client-cert-auth")
        // The lab does not outlive its machine, and killed processes lose nothing by this. With it, a change waits for whatever else
        // the machine writes to its disk: up to a second beside a compiler.
        .word("--unsafe-no-fsync")
        .flag("--logger", "zap")
        .flag("--log-level", "warn")
        .0
}

fn xds_server(
    program: PathBuf,
    places: &Places,
    config: &LabConfig,
    cluster: &ClusterConfig,
) -> Vec<OsString> {
    let address = cluster.control_plane();
    let mut words = Words::new(program.into_os_string())
        .flag("--cluster", &cluster.name)
        .flag("--cluster-id", &cluster.id.to_string())
        .flag("--trust-domain", &cluster.trust_domain)
        .flag("--listen", &format!("{address}:{XDS_PORT}"))
        .flag("--admin", &format!("{address}:{XDS_ADMIN_PORT}"))
        .path("--manifests", &places.manifests(&cluster.name))
        .path("--ca-dir", &ca_directory(places, &cluster.name))
        .path("--node-tokens", &node_tokens_file(places, &cluster.name))
        .flag("--management", &format!("{address}:{MANAGEMENT_PORT}"))
        .path(
            "--operator-tokens",
            &operator_tokens_file(places, &cluster.name),
        );
    if config.connect == Connect::Off {
        words = words.flag("--publish", "off");
    }
    words = match config.store {
        Store::Memory => words.flag("--store", "memory"),
        Store::Etcd => {
            let certificates = etcd_certificates(places, &cluster.name);
            words
                .flag("--store", "etcd")
                .flag("--etcd", &format!("https://{address}:{ETCD_PORT}"))
                .path("--etcd-ca", &certificates.ca())
                .path("--etcd-cert", &certificates.certificate(Holder::XdsServer))
                .path("--etcd-key", &certificates.key(Holder::XdsServer))
                .path("--etcd-client-ca-cert", &certificates.ca())
                .path("--etcd-client-ca-key", &certificates.ca_key())
                .path("--etcd-admin-cert", &certificates.certificate(Holder::Root))
                .path("--etcd-admin-key", &certificates.key(Holder::Root))
                .path("--remotes", &remotes_directory(places, &cluster.name))
        }
    };
    words.more(&config.xds_server_arguments).0
}

fn node_proxy(
    program: PathBuf,
    places: &Places,
    config: &LabConfig,
    cluster: &ClusterConfig,
    node: &NodeConfig,
) -> Vec<OsString> {
    let directory = places.node(&cluster.name, &node.name);
    Words::new(program.into_os_string())
        .flag("--cluster", &cluster.name)
        .flag("--node", &node.name)
        .flag("--trust-domain", &cluster.trust_domain)
        .path("--pod-dir", &places.pod_files(&cluster.name, &node.name))
        .flag("--xds", &xds_url(cluster))
        .path(
            "--xds-root",
            &ca_directory(places, &cluster.name).join("root-cert.pem"),
        )
        .path("--token", &token_file(places, &cluster.name, &node.name))
        .path(
            "--capture-cgroup",
            &places.pods_cgroup(&cluster.name, &node.name),
        )
        .path(
            "--proxy-cgroup",
            &places.proxy_cgroup(&cluster.name, &node.name),
        )
        .path("--pin-dir", &places.pins(&node.name))
        .flag("--admin", &format!("127.0.0.1:{PROXY_ADMIN_PORT}"))
        .flag("--host-address", &cluster.node_address(node).to_string())
        .flag("--host-address", &cluster.node_address_v6(node).to_string())
        .path("--state", &directory.join("view.state"))
        .more(&config.node_proxy_arguments)
        .0
}

struct Words(Vec<OsString>);

impl Words {
    fn new(program: OsString) -> Words {
        Words(vec![program])
    }

    fn word(mut self, word: &str) -> Words {
        self.0.push(word.into());
        self
    }

    fn flag(self, flag: &str, value: &str) -> Words {
        self.word(flag).word(value)
    }

    fn path(self, flag: &str, path: &Path) -> Words {
        let mut words = self.word(flag);
        words.0.push(path.into());
        words
    }

    fn more(mut self, words: &[String]) -> Words {
        self.0.extend(words.iter().map(OsString::from));
        self
    }
}

/// The supervisor as a program of its own, for tests and tools that are not `tulle` themselves.
const SUPERVISOR: &str = "tulle-lab-supervisor";
pub(super) const XDS_ADMIN_PORT: u16 = 15014;
pub(super) const PROXY_ADMIN_PORT: u16 = 15000;
pub(super) const ETCD_HEALTH_PORT: u16 = 2381;
const ETCD_PEER_URL: &str = "http://127.0.0.1:2380";
