//! The flags of the management API.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::Faults;
use crate::remotes::is_https;

#[derive(Debug, Args)]
pub(super) struct RawManagement {
    /// Where operators call (`tulle clustermesh`, `tulle status`); not served when it is missing
    #[arg(long, value_name = "IP:PORT")]
    management: Option<String>,
    /// JSON object of operator name and SHA-256 of the operator's token
    #[arg(long, value_name = "FILE")]
    operator_tokens: Option<PathBuf>,
    /// Whether other clusters may read this one until an operator says otherwise: on or off
    #[arg(long, value_name = "on|off", default_value = "on")]
    publish: String,
    /// Where other clusters reach the etcd, if not at --etcd
    #[arg(long = "advertise-etcd", value_name = "URL", value_delimiter = ',')]
    advertise: Vec<String>,
    /// Certificate of the authority that etcd verifies its clients with, to sign one for each other cluster
    #[arg(long, value_name = "FILE")]
    etcd_client_ca_cert: Option<PathBuf>,
    /// Key of --etcd-client-ca-cert
    #[arg(long, value_name = "FILE")]
    etcd_client_ca_key: Option<PathBuf>,
    /// Client certificate of etcd's root user, to make a user for each other cluster
    #[arg(long, value_name = "FILE")]
    etcd_admin_cert: Option<PathBuf>,
    /// Key of --etcd-admin-cert
    #[arg(long, value_name = "FILE")]
    etcd_admin_key: Option<PathBuf>,
    /// Client certificate that all other clusters get, when there is no authority to sign one for each
    #[arg(long, value_name = "FILE")]
    peer_cert: Option<PathBuf>,
    /// Key of --peer-cert
    #[arg(long, value_name = "FILE")]
    peer_key: Option<PathBuf>,
}

/// The management API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagementConfig {
    /// Where it is served.
    pub listen: Option<SocketAddr>,
    /// The file of token hashes.
    pub operator_tokens: Option<PathBuf>,
    /// Others may read this cluster as long as nobody says otherwise.
    pub publish: bool,
    /// Where others reach the etcd; empty = where this server does.
    pub advertise: Vec<String>,
    /// Where credentials for others come from.
    pub peers: PeersConfig,
}

/// Where credentials for other clusters come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PeersConfig {
    /// Nowhere.
    #[default]
    None,
    /// The same files for all.
    Shared {
        /// The certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Made for each.
    PerPeer {
        /// The authority's certificate.
        ca_cert: PathBuf,
        /// Its key.
        ca_key: PathBuf,
        /// The certificate of etcd's root user.
        admin_cert: PathBuf,
        /// Its key.
        admin_key: PathBuf,
    },
}

impl Default for ManagementConfig {
    fn default() -> Self {
        ManagementConfig {
            listen: None,
            operator_tokens: None,
            publish: true,
            advertise: Vec::new(),
            peers: PeersConfig::None,
        }
    }
}

pub(super) fn check(raw: RawManagement, faults: &mut Faults) -> Option<ManagementConfig> {
    let listen = match &raw.management {
        Some(text) => Some(faults.address("--management", text)?),
        None => None,
    };
    let publish = match raw.publish.as_str() {
        "on" => true,
        "off" => false,
        other => {
            let message = format!("{other:?} is unknown: expected on or off");
            return faults.fault("--publish", &message);
        }
    };
    if let Some(bad) = raw.advertise.iter().find(|e| !is_https(e)) {
        let message = format!("{bad:?} is not an endpoint: expected https://host:port");
        return faults.fault("--advertise-etcd", &message);
    }
    let (authority, admin, shared) = (
        pair(
            faults,
            ["--etcd-client-ca-cert", "--etcd-client-ca-key"],
            raw.etcd_client_ca_cert,
            raw.etcd_client_ca_key,
        )?,
        pair(
            faults,
            ["--etcd-admin-cert", "--etcd-admin-key"],
            raw.etcd_admin_cert,
            raw.etcd_admin_key,
        )?,
        pair(
            faults,
            ["--peer-cert", "--peer-key"],
            raw.peer_cert,
            raw.peer_key,
        )?,
    );
    let peers = match (authority, admin, shared) {
        (None, None, None) => PeersConfig::None,
        (None, None, Some((cert, key))) => PeersConfig::Shared { cert, key },
        (Some((ca_cert, ca_key)), Some((admin_cert, admin_key)), None) => PeersConfig::PerPeer {
            ca_cert,
            ca_key,
            admin_cert,
            admin_key,
        },
        (Some(_), None, None) => {
            let message = "is missing: a certificate is of use only with an etcd user for it";
            return faults.fault("--etcd-admin-cert", message);
        }
        (None, Some(_), None) => {
            let message = "is missing: an etcd user is of use only with a certificate for it";
            return faults.fault("--etcd-client-ca-cert", message);
        }
        (_, _, Some(_)) => {
            let message = "is for when there is no --etcd-client-ca-cert: give one of the two";
            return faults.fault("--peer-cert", message);
        }
    };
    Some(ManagementConfig {
        listen,
        operator_tokens: raw.operator_tokens,
        publish,
        advertise: raw.advertise,
        peers,
    })
}

/// Both, or none; `None` is a fault.
fn pair(
    faults: &mut Faults,
    flags: [&'static str; 2],
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Option<Option<(PathBuf, PathBuf)>> {
    let [cert_flag, key_flag] = flags;
    match (cert, key) {
        (Some(cert), Some(key)) => Some(Some((cert, key))),
        (None, None) => Some(None),
        (Some(_), None) => {
            faults.fault(key_flag, &format!("is missing: it belongs to {cert_flag}"))
        }
        (None, Some(_)) => {
            faults.fault(cert_flag, &format!("is missing: it belongs to {key_flag}"))
        }
    }
}
