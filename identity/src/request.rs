//! A fresh key, and the request to certify it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType, string::Ia5String};
use rustls::pki_types::PrivateKeyDer;
use tulle_model::SpiffeId;

use crate::{
    leaf::Leaf,
    pem,
    svid::{AcceptSvidError, Svid},
};

/// A P-256 key made for one certificate, with the request that names its identity.
///
/// The key is used for one certificate only: every renewal starts with a new one.
pub struct KeyRequest {
    id: SpiffeId,
    key: KeyPair,
    csr_pem: String,
}

impl KeyRequest {
    /// Makes a key and its request: empty subject, the id as only name (critical), ECDSA P-256 with SHA-256.
    ///
    /// # Errors
    /// The random source fails.
    pub fn new(id: &SpiffeId) -> Result<Self, NewKeyError> {
        let refuse = |error: rcgen::Error| NewKeyError {
            id: id.clone(),
            detail: error.to_string(),
        };
        let key = KeyPair::generate().map_err(refuse)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri_name(id).map_err(refuse)?];
        let csr = params.serialize_request(&key).map_err(refuse)?;
        let csr_pem = pem::encode("CERTIFICATE REQUEST", csr.der());
        Ok(KeyRequest {
            id: id.clone(),
            key,
            csr_pem,
        })
    }

    /// Whom the certificate is for.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The request (PKCS#10) as PEM.
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// Joins the key to the chain that was issued for it, leaf first.
    ///
    /// # Errors
    /// The chain is unreadable, or its leaf is for another identity or another key.
    pub fn into_svid(self, chain_pem: &str) -> Result<Svid, AcceptSvidError> {
        let chain = pem::certificates(chain_pem).map_err(AcceptSvidError::Pem)?;
        if let Some(der) = chain.first() {
            let leaf = Leaf::parse(der).map_err(AcceptSvidError::Leaf)?;
            let found = leaf.workload_id().map_err(AcceptSvidError::Leaf)?;
            if found != self.id {
                let found = found.to_string();
                return Err(AcceptSvidError::OtherIdentity {
                    asked: self.id,
                    found,
                });
            }
            leaf.check_usage().map_err(AcceptSvidError::Leaf)?;
        }
        Svid::new(self.id, chain, PrivateKeyDer::from(self.key))
    }
}

/// The id as a certificate's URI name.
pub(crate) fn uri_name(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(Ia5String::try_from(id.to_string())?))
}

/// A key or its request could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no key could be made for {id}: {detail}")]
pub struct NewKeyError {
    /// Whom the key was for.
    pub id: SpiffeId,
    /// What the library said.
    pub detail: String,
}
