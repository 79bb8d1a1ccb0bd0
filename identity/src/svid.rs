//! One X.509-SVID: a certificate chain and its private key, in memory only.
//!
//! The TLS configs that present it are built at its first use, kept inside it and dropped with it: a handshake costs no
//! config, and a rotated certificate leaves nothing behind.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tulle_model::SpiffeId;

use crate::{
    handshake::PeerRefusal,
    leaf::Leaf,
    mesh_tls::Offer,
    pem::{self, ParsePemError},
    provider::{ALPN_H2, VERSIONS, provider},
    verify::Verifier,
};

/// An identity that can be proven: the chain, and the key that only this process holds.
pub struct Svid {
    id: SpiffeId,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    chain_pem: String,
    issuer_roots_pem: Option<String>,
    key: Arc<SingleCertAndKey>,
    mesh_client: [OnceLock<Arc<ClientConfig>>; 2],
    mesh_server: [OnceLock<Arc<ServerConfig>>; 2],
}

impl Svid {
    /// Joins a chain, leaf first, to its key.
    pub(crate) fn new(
        id: SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, AcceptSvidError> {
        let leaf = chain
            .first()
            .ok_or(AcceptSvidError::Pem(ParsePemError::Empty))?;
        let leaf = Leaf::parse(leaf).map_err(AcceptSvidError::Leaf)?;
        let (serial, not_before, not_after) = (leaf.serial(), leaf.not_before(), leaf.not_after());
        let chain_pem = pem::encode_certificates(&chain);
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| {
            AcceptSvidError::Key {
                detail: error.to_string(),
            }
        })?;
        Ok(Svid {
            id,
            serial,
            not_before,
            not_after,
            chain_pem,
            issuer_roots_pem: None,
            key: Arc::new(SingleCertAndKey::from(key)),
            mesh_client: Default::default(),
            mesh_server: Default::default(),
        })
    }

    /// Reads a chain, leaf first, and its key, as an operator keeps them in files.
    ///
    /// # Errors
    /// They are unreadable, do not fit each other, or the leaf carries no identity of a workload.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, AcceptSvidError> {
        let chain = pem::certificates(chain_pem).map_err(AcceptSvidError::Pem)?;
        let leaf = chain
            .first()
            .ok_or(AcceptSvidError::Pem(ParsePemError::Empty))?;
        let id = Leaf::parse(leaf)
            .and_then(|leaf| leaf.workload_id())
            .map_err(AcceptSvidError::Leaf)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| {
            AcceptSvidError::Key {
                detail: error.to_string(),
            }
        })?;
        Svid::new(id, chain, key)
    }

    /// Notes the roots that the issuer sent along.
    pub(crate) fn with_issuer_roots(mut self, roots: String) -> Self {
        self.issuer_roots_pem = Some(roots);
        self
    }

    /// Whose identity it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The first second of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last second of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf's serial number, in lower-case hexadecimal.
    pub fn serial(&self) -> String {
        self.serial.clone()
    }

    /// The certificates as PEM, leaf first. The key never leaves.
    pub fn chain_pem(&self) -> String {
        self.chain_pem.clone()
    }

    /// The roots of the own trust domain, when the issuer sends them with the certificate (istiod does).
    pub fn issuer_roots_pem(&self) -> Option<&str> {
        self.issuer_roots_pem.as_deref()
    }

    /// For the careless server of the tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn server_key(&self) -> Arc<SingleCertAndKey> {
        self.key.clone()
    }

    /// The config for calling workloads of the mesh.
    pub(crate) fn mesh_client(&self, offer: Offer) -> Result<Arc<ClientConfig>, rustls::Error> {
        let [hbone, any] = &self.mesh_client;
        let slot = match offer {
            Offer::Hbone => hbone,
            Offer::Any => any,
        };
        if let Some(config) = slot.get() {
            return Ok(config.clone());
        }
        let mut config = client_config(Some(self))?;
        // ztunnel sends no name; which certificate answers is decided by the socket.
        config.enable_sni = false;
        config.alpn_protocols = offer.protocols();
        Ok(slot.get_or_init(|| Arc::new(config)).clone())
    }

    /// The config for being called by workloads of the mesh.
    pub(crate) fn mesh_server(&self, offer: Offer) -> Result<Arc<ServerConfig>, rustls::Error> {
        let [hbone, any] = &self.mesh_server;
        let slot = match offer {
            Offer::Hbone => hbone,
            Offer::Any => any,
        };
        if let Some(config) = slot.get() {
            return Ok(config.clone());
        }
        let mut config = server_config(self, true)?;
        config.alpn_protocols = offer.protocols();
        Ok(slot.get_or_init(|| Arc::new(config)).clone())
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// A client's config: TLS 1.3, `h2`, no resumption (a resumed session would skip the verification of the peer).
pub(crate) fn client_config(svid: Option<&Svid>) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            client_certificate_required: true,
        }));
    let mut config = match svid {
        Some(svid) => builder.with_client_cert_resolver(svid.key.clone()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A server's config: TLS 1.3, `h2`, no tickets (for the same reason, and each would cost the handshake a write).
pub(crate) fn server_config(
    svid: &Svid,
    client_certificate_required: bool,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(Arc::new(Verifier {
            client_certificate_required,
        }))
        .with_cert_resolver(svid.key.clone());
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Why a chain and a key do not make an SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptSvidError {
    /// The chain is not PEM.
    #[error("the issued chain cannot be read")]
    Pem(#[source] ParsePemError),
    /// The leaf is not a workload's certificate.
    #[error("the issued certificate is not a workload's")]
    Leaf(#[source] PeerRefusal),
    /// The leaf belongs to somebody else.
    #[error("asked for a certificate for {asked}, got one for {found}")]
    OtherIdentity {
        /// Whom the request was for.
        asked: SpiffeId,
        /// Whose certificate came.
        found: String,
    },
    /// The leaf was made for another key.
    #[error("the issued certificate does not fit the requested key: {detail}")]
    Key {
        /// What the comparison found.
        detail: String,
    },
}

#[cfg(test)]
mod tests;
