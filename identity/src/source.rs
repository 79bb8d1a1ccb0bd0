//! Where SVIDs come from.

use std::{path::PathBuf, time::Duration};

use tulle_model::SpiffeId;

use crate::{
    request::NewKeyError,
    svid::{AcceptSvidError, Svid},
};

/// An issuer of SVIDs, as its client sees it.
#[async_trait::async_trait]
pub trait SvidSource: Send + Sync {
    /// Asks once for a new certificate with a new key. The caller repeats, limits and waits.
    async fn fetch(&self, id: &SpiffeId) -> Result<Svid, FetchSvidError>;
}

/// Why one request for an SVID brought none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchSvidError {
    /// No key could be made.
    #[error("no request could be made")]
    Key(#[source] NewKeyError),
    /// The file with the caller's token cannot be read.
    #[error("the token at {} cannot be read", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The token cannot be sent.
    #[error("the token at {} is not one line of visible ASCII", path.display())]
    TokenForm {
        /// The file.
        path: PathBuf,
    },
    /// The authority refused, or could not be reached.
    #[error("the authority at {authority} gave no certificate ({code}): {message}")]
    Refused {
        /// Its address.
        authority: String,
        /// The gRPC status code by name.
        code: String,
        /// Its own words, or those of the connection.
        message: String,
    },
    /// The answer lacks the leaf or the roots.
    #[error(
        "the authority at {authority} sent {found} certificates, expected a leaf and its roots"
    )]
    Incomplete {
        /// Its address.
        authority: String,
        /// How many elements the answer has.
        found: usize,
    },
    /// The certificate is not what was asked for.
    #[error("the issued certificate is not usable")]
    Unusable(#[source] AcceptSvidError),
    /// The certificate had expired when it came.
    #[error("the issued certificate had expired on arrival: compare the clocks")]
    ExpiredOnArrival,
    /// No answer in time.
    #[error("no certificate within {limit:?}")]
    Timeout {
        /// The limit of one request.
        limit: Duration,
    },
    /// A source of another kind failed.
    #[error("the source failed: {message}")]
    Source {
        /// What it said.
        message: String,
    },
}
