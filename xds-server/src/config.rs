//! The command line, checked as a whole: every fault is told at once, with its flag.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use tulle_identity::{SVID_TTL_DEFAULT, SVID_TTL_MAX};
use tulle_model::{ClusterId, ClusterName, TrustDomain};
use tulle_policy::{DefaultCluster, ReadSettings};

use self::management::RawManagement;
pub use self::management::{ManagementConfig, PeersConfig};
use crate::{
    remotes::is_https,
    store::{EtcdInit, EtcdSettings},
};

mod management;

/// The command line as it is typed.
#[derive(Debug, Parser)]
#[command(
    name = "xds-server",
    version,
    about = "The control plane of one cluster of a Tulle mesh"
)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RawConfig {
    #[command(subcommand)]
    command: Option<RawCommand>,
    #[command(flatten)]
    serve: RawServe,
}

#[derive(Debug, Subcommand)]
enum RawCommand {
    /// Sets up users and rights in the cluster's etcd, once, with a certificate whose common name is root
    EtcdInit(RawEtcdInit),
}

#[derive(Debug, Args)]
struct RawServe {
    /// Name of the cluster: a-z, 0-9 and '-', at most 32 characters
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Id of the cluster, 1-511
    #[arg(long, value_name = "N")]
    cluster_id: Option<String>,
    /// Trust domain of the cluster's identities
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// Where node proxies call: ADS and certificates
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:15012")]
    listen: String,
    /// Where health, metrics and status are read
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15014")]
    admin: String,
    /// Directory of Kubernetes YAML, watched
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Directory of the root certificate and its key; made when it is not there
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Certificate of an authority that the operator gives
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Key of --ca-cert
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// JSON object of node name and SHA-256 of the node's token
    #[arg(long, value_name = "FILE")]
    node_tokens: Option<PathBuf>,
    /// memory (one cluster, nothing shared) or etcd
    #[arg(long, value_name = "KIND", default_value = "memory")]
    store: String,
    #[command(flatten)]
    etcd: RawEtcd,
    /// A layout to publish in beside the own one: cilium, that of Cilium's Cluster Mesh
    #[arg(long, value_name = "LAYOUT")]
    publish_also: Option<String>,
    /// Directory of files that name the other clusters, watched
    #[arg(long, value_name = "DIR")]
    remotes: Option<PathBuf>,
    /// Longest life of a workload's certificate: 90s, 30m, 1h
    #[arg(long, value_name = "TIME")]
    svid_ttl: Option<String>,
    /// Whether services may be global in namespaces without the annotation clustermesh.cilium.io/global
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    default_global_namespace: bool,
    /// Whose workloads a policy's selector means that names no cluster: any or local
    #[arg(long, value_name = "CLUSTERS", default_value = "any")]
    policy_default_cluster: String,
    #[command(flatten)]
    management: RawManagement,
}

#[derive(Debug, Args)]
struct RawEtcd {
    /// Endpoints of the cluster's etcd: https://host:port
    #[arg(long = "etcd", value_name = "URL", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Roots that etcd is verified with
    #[arg(long = "etcd-ca", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Client certificate; its common name is the etcd user
    #[arg(long = "etcd-cert", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Key of --etcd-cert
    #[arg(long = "etcd-key", value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RawEtcdInit {
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    etcd: RawEtcd,
    /// Common name of the xds-server's certificate
    #[arg(long, value_name = "NAME", default_value = "xds-server")]
    user: String,
    /// Common name of the other clusters' certificates
    #[arg(long, value_name = "NAME", default_value = "remote")]
    remote_user: String,
    /// The rights for what the xds-server's --publish-also writes: cilium
    #[arg(long, value_name = "LAYOUT")]
    publish_also: Option<String>,
}

/// What the program shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Serve(Box<Config>),
    /// Set etcd up.
    EtcdInit(EtcdInit),
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The trust domain of its identities.
    pub trust_domain: TrustDomain,
    /// The gRPC port.
    pub listen: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
    /// The manifests.
    pub manifests: PathBuf,
    /// The authority.
    pub authority: AuthorityConfig,
    /// The file of token hashes.
    pub node_tokens: PathBuf,
    /// The store.
    pub store: StoreConfig,
    /// Publish in Cilium's layout as well.
    pub publish_cilium: bool,
    /// The files of other clusters.
    pub remotes: Option<PathBuf>,
    /// The longest life of a certificate.
    pub svid_ttl: Duration,
    /// Whether services may be global in namespaces that do not say.
    pub namespaces_global: bool,
    /// How policies are read.
    pub policies: ReadSettings,
    /// The management API.
    pub management: ManagementConfig,
}

/// Where the authority's root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityConfig {
    /// Where the root is kept, or (with `given`) its certificate is laid for others to read.
    pub directory: PathBuf,
    /// Certificate and key that the operator gives.
    pub given: Option<(PathBuf, PathBuf)>,
}

/// Where the state is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// Nowhere.
    Memory,
    /// In the cluster's etcd.
    Etcd(EtcdSettings),
}

/// Everything that is wrong with the command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(|f| format!("{}: {}", f.flag, f.message)).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<ConfigFault>);

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The flag.
    pub flag: &'static str,
    /// One sentence.
    pub message: String,
}

impl TryFrom<RawConfig> for Command {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, Self::Error> {
        match raw.command {
            Some(RawCommand::EtcdInit(raw)) => etcd_init(raw).map(Command::EtcdInit),
            None => serve(raw.serve).map(|config| Command::Serve(Box::new(config))),
        }
    }
}

fn serve(raw: RawServe) -> Result<Config, ConfigError> {
    let mut faults = Faults::default();
    let cluster = faults.parsed("--cluster", raw.cluster.as_deref());
    let cluster_id = faults.cluster_id(raw.cluster_id.as_deref());
    let trust_domain = faults.parsed("--trust-domain", raw.trust_domain.as_deref());
    let listen = faults.address("--listen", &raw.listen);
    let admin = faults.address("--admin", &raw.admin);
    let manifests = faults.required("--manifests", raw.manifests);
    let authority = faults.authority(raw.ca_dir, raw.ca_cert, raw.ca_key);
    let node_tokens = faults.required("--node-tokens", raw.node_tokens);
    let store = faults.store(&raw.store, raw.etcd, raw.remotes.is_some());
    let svid_ttl = faults.svid_ttl(raw.svid_ttl.as_deref());
    let default_cluster = faults.default_cluster(&raw.policy_default_cluster);
    let management = management::check(raw.management, &mut faults);
    let publish_cilium = faults.publish_also(raw.publish_also.as_deref());
    if publish_cilium == Some(true) && raw.store == "memory" {
        let _none: Option<()> = faults.fault("--publish-also", "needs --store etcd");
    }
    // Everything was looked at before the first missing value ends the function.
    let found = move || {
        let cluster: ClusterName = cluster?;
        Some(Config {
            policies: ReadSettings {
                cluster: cluster.clone(),
                default_cluster: default_cluster?,
            },
            cluster,
            cluster_id: cluster_id?,
            trust_domain: trust_domain?,
            listen: listen?,
            admin: admin?,
            manifests: manifests?,
            authority: authority?,
            node_tokens: node_tokens?,
            store: store?,
            publish_cilium: publish_cilium?,
            remotes: raw.remotes,
            svid_ttl: svid_ttl?,
            namespaces_global: raw.default_global_namespace,
            management: management?,
        })
    };
    match found() {
        Some(config) if faults.0.is_empty() => Ok(config),
        Some(_) | None => Err(ConfigError(faults.0)),
    }
}

fn etcd_init(raw: RawEtcdInit) -> Result<EtcdInit, ConfigError> {
    let mut faults = Faults::default();
    let cluster = faults.parsed("--cluster", raw.cluster.as_deref());
    let etcd = faults.etcd(raw.etcd);
    let cilium = faults.publish_also(raw.publish_also.as_deref());
    if raw.user == raw.remote_user {
        let _none: Option<()> = faults.fault(
            "--remote-user",
            "is the same as --user: other clusters could write",
        );
    }
    match (cluster, etcd) {
        (Some(cluster), Some(etcd)) if faults.0.is_empty() => Ok(EtcdInit {
            cluster,
            etcd,
            user: raw.user,
            remote_user: raw.remote_user,
            cilium: cilium.unwrap_or_default(),
        }),
        _ => Err(ConfigError(faults.0)),
    }
}

#[derive(Default)]
struct Faults(Vec<ConfigFault>);

impl Faults {
    fn fault<T>(&mut self, flag: &'static str, message: &str) -> Option<T> {
        self.0.push(ConfigFault {
            flag,
            message: message.to_owned(),
        });
        None
    }

    fn take<T>(&mut self, flag: &'static str, value: Result<T, String>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(message) => self.fault(flag, &message),
        }
    }

    fn required<T>(&mut self, flag: &'static str, value: Option<T>) -> Option<T> {
        match value {
            Some(value) => Some(value),
            None => self.fault(flag, "is missing"),
        }
    }

    fn parsed<T>(&mut self, flag: &'static str, text: Option<&str>) -> Option<T>
    where
        T: std::str::FromStr<Err: ToString>,
    {
        let text = self.required(flag, text)?;
        self.take(flag, text.parse().map_err(|e: T::Err| e.to_string()))
    }

    fn address(&mut self, flag: &'static str, text: &str) -> Option<SocketAddr> {
        let parsed = text.parse();
        self.take(
            flag,
            parsed.map_err(|_| format!("{text:?} is not an address: expected IP:PORT")),
        )
    }

    fn default_cluster(&mut self, text: &str) -> Option<DefaultCluster> {
        match text {
            "any" => Some(DefaultCluster::Any),
            "local" => Some(DefaultCluster::Local),
            other => self.fault(
                "--policy-default-cluster",
                &format!("{other:?} is not known: expected any or local"),
            ),
        }
    }

    fn cluster_id(&mut self, text: Option<&str>) -> Option<ClusterId> {
        let flag = "--cluster-id";
        let text = self.required(flag, text)?;
        let number: Result<u16, _> = text.parse();
        let number = number.map_err(|_| format!("{text:?} is not a number: expected 1-511"));
        self.take(
            flag,
            number.and_then(|n| ClusterId::try_from(n).map_err(|e| e.to_string())),
        )
    }

    fn authority(
        &mut self,
        directory: Option<PathBuf>,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Option<AuthorityConfig> {
        let directory = self.required("--ca-dir", directory);
        let given = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => self.fault("--ca-key", "is missing: it belongs to --ca-cert"),
            (None, Some(_)) => self.fault("--ca-cert", "is missing: it belongs to --ca-key"),
        };
        Some(AuthorityConfig {
            directory: directory?,
            given,
        })
    }

    fn store(&mut self, kind: &str, etcd: RawEtcd, remotes: bool) -> Option<StoreConfig> {
        match kind {
            "memory" if remotes => self.fault(
                "--remotes",
                "needs --store etcd: without it other clusters cannot read this one",
            ),
            "memory" => Some(StoreConfig::Memory),
            "etcd" => self.etcd(etcd).map(StoreConfig::Etcd),
            other => self.fault(
                "--store",
                &format!("{other:?} is unknown: expected memory or etcd"),
            ),
        }
    }

    fn publish_also(&mut self, layout: Option<&str>) -> Option<bool> {
        match layout {
            None => Some(false),
            Some("cilium") => Some(true),
            Some(other) => self.fault(
                "--publish-also",
                &format!("{other:?} is unknown: expected cilium"),
            ),
        }
    }

    fn svid_ttl(&mut self, text: Option<&str>) -> Option<Duration> {
        let Some(text) = text else {
            return Some(SVID_TTL_DEFAULT);
        };
        match parse_duration(text) {
            Some(ttl) if (SVID_TTL_MIN..=SVID_TTL_MAX).contains(&ttl) => Some(ttl),
            Some(_) | None => {
                let (min, max) = (SVID_TTL_MIN.as_secs(), SVID_TTL_MAX.as_secs());
                let message =
                    format!("expected a time such as 90s, 30m or 1h, between {min} s and {max} s");
                self.fault("--svid-ttl", &message)
            }
        }
    }

    fn etcd(&mut self, raw: RawEtcd) -> Option<EtcdSettings> {
        let bad: Vec<&String> = raw.endpoints.iter().filter(|e| !is_https(e)).collect();
        for endpoint in &bad {
            let _none: Option<()> = self.fault(
                "--etcd",
                &format!("{endpoint:?} is not an endpoint: expected https://host:port"),
            );
        }
        if raw.endpoints.is_empty() {
            let _none: Option<()> = self.fault("--etcd", "is missing");
        }
        let ca = self.required("--etcd-ca", raw.ca);
        let cert = self.required("--etcd-cert", raw.cert);
        let key = self.required("--etcd-key", raw.key);
        let usable = bad.is_empty() && !raw.endpoints.is_empty();
        match (ca, cert, key) {
            (Some(ca), Some(cert), Some(key)) if usable => Some(EtcdSettings {
                endpoints: raw.endpoints,
                ca: ca.into(),
                cert: cert.into(),
                key: key.into(),
                server_name: None,
            }),
            _ => None,
        }
    }
}

/// `90s`, `30m`, `1h`, or plain seconds.
fn parse_duration(text: &str) -> Option<Duration> {
    let (number, factor) = match text.as_bytes().last()? {
        b's' => (text.strip_suffix('s')?, 1),
        b'm' => (text.strip_suffix('m')?, 60),
        b'h' => (text.strip_suffix('h')?, 3600),
        _ => (text, 1),
    };
    let seconds: u64 = number.parse().ok()?;
    seconds.checked_mul(factor).map(Duration::from_secs)
}

/// Shorter, and renewing would be all that the nodes do.
const SVID_TTL_MIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
