//! What can go wrong with an authority.

use std::{io, path::PathBuf};

use tulle_model::{SpiffeId, TrustDomain};

use crate::pem::ParsePemError;

/// Why an authority cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenAuthorityError {
    /// A file or directory cannot be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else may read the root's key.
    #[error("the root's key {} has mode {mode:04o}, so others may read it: run chmod 600 {}", path.display(), path.display())]
    KeyReadable {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that is too big to be what it should be.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The certificate lies there without its key.
    #[error("{} exists, but its key {} does not: restore the key, or remove the certificate to make a new root", certificate.display(), key.display())]
    KeyMissing {
        /// The certificate's file.
        certificate: PathBuf,
        /// Where the key should be.
        key: PathBuf,
    },
    /// The certificate is not PEM.
    #[error("the root certificate cannot be read")]
    Pem(#[source] ParsePemError),
    /// The certificate's text holds more than the root.
    #[error("the root certificate's file holds {found} certificates, expected one")]
    Several {
        /// How many.
        found: usize,
    },
    /// The certificate is not an authority's.
    #[error("the root certificate cannot sign: {detail}")]
    Certificate {
        /// Why not.
        detail: String,
    },
    /// The root's time is over.
    #[error("the root certificate has expired")]
    Expired,
    /// The root was made for another trust domain.
    #[error("the root certificate belongs to the trust domain {found:?}, expected {expected}")]
    OtherTrustDomain {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: TrustDomain,
    },
    /// The key is unreadable, or cannot be made.
    #[error("the root's key cannot be used: {detail}")]
    Key {
        /// Why not.
        detail: String,
    },
    /// Certificate and key belong to different roots.
    #[error("the root certificate and the root's key do not belong together")]
    KeyMismatch,
    /// A certificate signed for trial does not verify.
    #[error("no peer would accept what this root signs: {detail}")]
    Unusable {
        /// What a peer would say.
        detail: String,
    },
}

/// Why a certificate request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignCsrError {
    /// The request is too big to be one.
    #[error("the certificate request has {found} bytes, at most {limit} are read")]
    TooLong {
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The request is not PEM, or not PKCS#10.
    #[error("the certificate request is unreadable: {detail}")]
    Malformed {
        /// What the reader found.
        detail: String,
    },
    /// The sender does not hold the key.
    #[error("the certificate request is not signed by the key that it names")]
    Signature,
    /// A key that the mesh does not use.
    #[error("the certificate request's key is not ECDSA P-256 or P-384")]
    KeyKind,
    /// An identity that another authority vouches for.
    #[error("this authority signs for the trust domain {own}, not for {id}")]
    ForeignTrustDomain {
        /// The identity asked for.
        id: SpiffeId,
        /// The own trust domain.
        own: TrustDomain,
    },
    /// The root's time is over.
    #[error("the root certificate has expired")]
    RootExpired,
    /// The clock shows a time that no certificate can carry.
    #[error("the clock shows a time that a certificate cannot carry")]
    Clock,
    /// The signature could not be made.
    #[error("the certificate cannot be signed: {detail}")]
    Signing {
        /// What the library said.
        detail: String,
    },
}

impl SignCsrError {
    pub(crate) fn signing(error: rcgen::Error) -> Self {
        SignCsrError::Signing {
            detail: error.to_string(),
        }
    }
}
