//! Credentials with which another cluster reads this one's etcd, and can do nothing else there.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tulle_identity::ClientAuthority;
use tulle_model::ClusterName;

use super::answer::Refusal;
use crate::store::{self, EtcdSettings};

/// Where credentials for other clusters come from.
#[derive(Debug)]
pub enum Peers {
    /// Nowhere.
    None,
    /// All clusters get the same.
    Shared {
        /// The certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Each cluster gets an etcd user and a certificate of its own, so each can be shut out alone.
    PerPeer {
        /// Signs the certificates.
        authority: Box<ClientAuthority>,
        /// Makes the users.
        admin: EtcdSettings,
    },
}

/// A certificate and its key.
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) cert: String,
    pub(super) key: String,
}

impl Peers {
    /// How the credentials are made, in a word.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Peers::None => "none",
            Peers::Shared { .. } => "shared",
            Peers::PerPeer { .. } => "per-peer",
        }
    }

    /// Credentials for `peer` to read `own`.
    pub(super) async fn issue(
        &self,
        own: &ClusterName,
        peer: &ClusterName,
    ) -> Result<Credentials, Refusal> {
        match self {
            Peers::None => Err(Refusal::conflict(format!(
                "cluster {own} can give no credentials: its xds-server was started without --etcd-client-ca-cert and without --peer-cert"
            ))),
            Peers::Shared { cert, key } => Ok(Credentials {
                user: "shared".to_owned(),
                cert: read(cert).await?,
                key: read(key).await?,
            }),
            Peers::PerPeer { authority, admin } => {
                let user = user_of(peer);
                store::admit_reader(own, admin, &user)
                    .await
                    .map_err(|error| Refusal::failed("make the etcd user of the peer", &error))?;
                let issued = authority
                    .issue(&user, CERTIFICATE_TTL, SystemTime::now())
                    .map_err(|error| Refusal::failed("sign the certificate of the peer", &error))?;
                Ok(Credentials {
                    user,
                    cert: issued.cert_pem,
                    key: issued.key_pem,
                })
            }
        }
    }

    /// Ends what `peer` was given; says whether it had anything.
    pub(super) async fn revoke(
        &self,
        own: &ClusterName,
        peer: &ClusterName,
    ) -> Result<bool, Refusal> {
        match self {
            // What all share cannot be taken from one.
            Peers::None | Peers::Shared { .. } => Ok(false),
            Peers::PerPeer { admin, .. } => store::expel_reader(own, admin, &user_of(peer))
                .await
                .map_err(|error| Refusal::failed("remove the etcd user of the peer", &error)),
        }
    }
}

async fn read(path: &PathBuf) -> Result<String, Refusal> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|error| Refusal::failed(&format!("read {}", path.display()), &error))
}

/// As Cilium names them (authMode cluster).
fn user_of(peer: &ClusterName) -> String {
    format!("remote-{peer}")
}

/// As Cilium's certificates. Connecting again renews them.
const CERTIFICATE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
