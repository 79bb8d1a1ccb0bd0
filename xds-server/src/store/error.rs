//! What goes wrong with an etcd, each in one sentence.

use std::{error::Error, path::PathBuf};

use super::client::REQUEST_TIMEOUT;
use crate::chain::Chain;

/// What goes wrong with an etcd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// A file of the credentials cannot be read.
    #[error("cannot read {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The credentials are no PEM, or the key is not that of the certificate.
    #[error("the client certificate, its key or the CA cannot be used")]
    UnusableCredentials {
        /// Why.
        #[source]
        source: Box<etcd_client::Error>,
    },
    /// A name has no address now.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No endpoint answers; the last word of each.
    #[error("no endpoint answers: {}", told(.0))]
    Unreachable(Vec<EtcdError>),
    /// An address was dialled in vain.
    #[error("{endpoint} ({address})")]
    Dial {
        /// The endpoint as it is configured.
        endpoint: String,
        /// The address that was tried.
        address: std::net::SocketAddr,
        /// Why it did not work.
        #[source]
        source: Box<EtcdError>,
    },
    /// TLS says no.
    #[error("{0}")]
    Tls(TlsFault),
    /// There is nothing to dial.
    #[error("no etcd endpoint is configured")]
    NoEndpoint,
    /// etcd refused or the connection broke.
    #[error("etcd: {what}: {}", root_of(cause))]
    Request {
        /// What was wanted.
        what: &'static str,
        /// Why it did not work; of its many layers only the innermost is told.
        cause: Box<etcd_client::Error>,
    },
    /// No answer in time.
    #[error("etcd: {what}: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// What was wanted.
        what: &'static str,
    },
    /// The watch ended.
    #[error("the watch ended: {reason}")]
    WatchEnded {
        /// As etcd says.
        reason: String,
    },
    /// Another etcd answers than before on the same connection: its revisions mean nothing here.
    #[error(
        "another etcd answers behind the same address (cluster {found:x} instead of {wanted:x})"
    )]
    OtherEtcd {
        /// The id seen first.
        wanted: u64,
        /// The id of the answer.
        found: u64,
    },
    /// The lease of the heartbeat is gone.
    #[error("the lease of the heartbeat expired")]
    LeaseLost,
    /// The reader of the state is gone.
    #[error("the server is stopping")]
    Stopping,
    /// The cluster is not what it should be.
    #[error("{0}")]
    Refused(String),
}

/// Why TLS with an etcd fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// Wrong CA.
    #[error("its certificate is not signed by the CA that is configured for it")]
    UnknownIssuer,
    /// The server's certificate is out of date.
    #[error("its certificate has expired")]
    Expired,
    /// The server's certificate is from the future.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// Somebody else's certificate.
    #[error("its certificate is for another name; serverName in the remote's file can say which")]
    OtherName,
    /// The server does not like ours.
    #[error("it refuses this cluster's client certificate: expired, or not of a CA that it trusts")]
    RefusesClient,
}

impl EtcdError {
    /// The error of one request, or what TLS said of the whole connection.
    pub(super) fn of_request(what: &'static str, source: etcd_client::Error) -> Self {
        match tls_fault(&source) {
            Some(fault) => EtcdError::Tls(fault),
            None => EtcdError::Request {
                what,
                cause: Box::new(source),
            },
        }
    }

    /// Messages of etcd that mean more than they say.
    pub(crate) fn is_too_large(&self) -> bool {
        match self {
            EtcdError::Request { cause, .. } => match &**cause {
                etcd_client::Error::GRpcStatus(status) => {
                    status.code() == tonic::Code::OutOfRange
                        || (status.code() == tonic::Code::ResourceExhausted
                            && status.message().contains("larger than max"))
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether somebody has to mend something, here or there; anything else may pass by itself.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            EtcdError::Refused(_)
            | EtcdError::Tls(_)
            | EtcdError::UnusableCredentials { .. }
            | EtcdError::Credentials { .. }
            | EtcdError::NoEndpoint => true,
            EtcdError::Dial { source, .. } => source.is_refusal(),
            EtcdError::Unreachable(errors) => errors.iter().any(Self::is_refusal),
            _ => self.is_denied(),
        }
    }

    /// Whether the user of the certificate may not do that.
    fn is_denied(&self) -> bool {
        matches!(self, EtcdError::Request { cause, .. } if cause.to_string().contains("permission denied"))
    }
}

/// The texts are those of rustls, whose types do not come through tonic.
fn tls_fault(error: &(dyn Error + 'static)) -> Option<TlsFault> {
    let text = Chain(error).to_string();
    let table = [
        ("UnknownIssuer", TlsFault::UnknownIssuer),
        ("BadSignature", TlsFault::UnknownIssuer),
        ("certificate not valid for name", TlsFault::OtherName),
        ("NotValidForName", TlsFault::OtherName),
        ("InvalidCertificate(Expired", TlsFault::Expired),
        ("InvalidCertificate(NotValidYet", TlsFault::NotYetValid),
        ("fatal alert", TlsFault::RefusesClient),
    ];
    table
        .into_iter()
        .find(|(part, _)| text.contains(part))
        .map(|(_, fault)| fault)
}

/// The innermost cause, or what etcd itself says.
fn root_of(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return Chain(error).to_string();
    };
    let mut root: &dyn Error = status;
    while let Some(cause) = root.source() {
        root = cause;
    }
    match status.source() {
        Some(_) => root.to_string(),
        None => status.message().to_owned(),
    }
}

fn told(errors: &[EtcdError]) -> String {
    let mut texts: Vec<String> = errors.iter().map(|e| Chain(e).to_string()).collect();
    texts.dedup();
    let more = texts.len().saturating_sub(TOLD_MAX);
    texts.truncate(TOLD_MAX);
    let mut text = texts.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// Addresses whose errors are told.
const TOLD_MAX: usize = 4;
