//! Why a handshake failed, exactly.
//!
//! **Invariant:** the reason names are a closed set ([`REASONS`]); metrics use them as labels and nothing else. A reason
//! that judges an identity means that *this side* refused its peer.

use std::{error::Error, fmt, io, time::Duration};

use rustls::{AlertDescription, PeerMisbehaved};
use tulle_model::SpiffeId;

/// Why a TLS handshake did not end in a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's certificate proves nothing, or somebody else.
    #[error("the peer's certificate is refused")]
    Refused(#[source] PeerRefusal),
    /// The peer sent no certificate where one is required.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The two ends did not agree on what to speak inside.
    #[error("the peer does not speak \"h2\" by ALPN")]
    Alpn,
    /// Bytes that are not TLS 1.3, or a peer that broke its rules.
    #[error("the peer does not follow TLS 1.3")]
    Protocol(#[source] Box<dyn Error + Send + Sync>),
    /// The peer ended the handshake with an alert: it refuses us.
    #[error("the peer refused the handshake with the alert {alert}")]
    RefusedByPeer {
        /// The alert's name in RFC 8446, as far as it is known.
        alert: String,
    },
    /// The stream beneath failed or ended.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// The caller's patience ended; handshakes have no limit of their own.
    #[error("the handshake took longer than {limit:?}")]
    Timeout {
        /// What the caller allowed.
        limit: Duration,
    },
}

impl HandshakeError {
    /// The reason as a label: one of [`REASONS`].
    pub fn reason(&self) -> &'static str {
        match self {
            HandshakeError::Refused(refusal) => refusal.reason(),
            HandshakeError::NoCertificate => "no_certificate",
            HandshakeError::Alpn => "alpn",
            HandshakeError::Protocol(_) | HandshakeError::RefusedByPeer { .. } => "protocol",
            HandshakeError::Io(_) => "io",
            HandshakeError::Timeout { .. } => "timeout",
        }
    }

    /// Reads what the TLS stream reports.
    pub(crate) fn from_io(error: io::Error) -> Self {
        let is_tls = error
            .get_ref()
            .is_some_and(|inner| inner.is::<rustls::Error>());
        if !is_tls {
            return HandshakeError::Io(error);
        }
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::from_tls(error),
            Err(error) => HandshakeError::Io(error),
        }
    }

    fn from_tls(error: rustls::Error) -> Self {
        match error {
            rustls::Error::NoCertificatesPresented => HandshakeError::NoCertificate,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | rustls::Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
                HandshakeError::Alpn
            }
            rustls::Error::AlertReceived(alert) => HandshakeError::RefusedByPeer {
                alert: format!("{alert:?}"),
            },
            other => HandshakeError::Protocol(Box::new(other)),
        }
    }
}

/// What is wrong with a peer's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It names a trust domain whose authority did not sign it, or that nobody here trusts.
    WrongTrustDomain {
        /// The identity that it claims.
        claimed: SpiffeId,
        /// Whether a bundle of that trust domain is known at all.
        known: bool,
    },
    /// It has no URI name.
    NoSan,
    /// It has more than one URI name.
    SeveralSans {
        /// How many.
        count: usize,
    },
    /// Its URI name is not the identity of a workload.
    NotAWorkloadId {
        /// What was found and what was expected.
        detail: String,
    },
    /// It was not made for a workload's TLS.
    WrongUsage {
        /// Which rule it breaks.
        detail: String,
    },
    /// No trusted authority signed it; it may have signed itself.
    UnknownAuthority {
        /// What the path validation said.
        detail: String,
    },
    /// It is genuine, and somebody else's.
    UnexpectedIdentity {
        /// Who the peer is.
        found: String,
        /// Who was called.
        expected: String,
    },
    /// Not a readable certificate.
    Malformed {
        /// What the reader found.
        detail: String,
    },
}

impl PeerRefusal {
    /// The reason as a label: one of [`REASONS`].
    pub fn reason(&self) -> &'static str {
        match self {
            PeerRefusal::Expired => "expired",
            PeerRefusal::NotYetValid => "not_yet_valid",
            PeerRefusal::WrongTrustDomain { .. } => "wrong_trust_domain",
            PeerRefusal::NoSan => "no_san",
            PeerRefusal::SeveralSans { .. } => "several_sans",
            PeerRefusal::NotAWorkloadId { .. } | PeerRefusal::WrongUsage { .. } => {
                "not_a_workload_id"
            }
            PeerRefusal::UnknownAuthority { .. } => "unknown_authority",
            PeerRefusal::UnexpectedIdentity { .. } => "unexpected_identity",
            PeerRefusal::Malformed { .. } => "protocol",
        }
    }
}

impl fmt::Display for PeerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerRefusal::Expired => f.write_str("it has expired"),
            PeerRefusal::NotYetValid => f.write_str("it is not valid yet"),
            PeerRefusal::WrongTrustDomain {
                claimed,
                known: true,
            } => {
                write!(
                    f,
                    "it claims {claimed}, but another trust domain's authority signed it"
                )
            }
            PeerRefusal::WrongTrustDomain {
                claimed,
                known: false,
            } => {
                write!(
                    f,
                    "it claims {claimed}, and no bundle of that trust domain is known"
                )
            }
            PeerRefusal::NoSan => f.write_str("it has no URI among its alternative names"),
            PeerRefusal::SeveralSans { count } => {
                write!(
                    f,
                    "it has {count} URIs among its alternative names, expected one"
                )
            }
            PeerRefusal::NotAWorkloadId { detail } => f.write_str(detail),
            PeerRefusal::WrongUsage { detail } => {
                write!(f, "it is not a workload's certificate: {detail}")
            }
            PeerRefusal::UnknownAuthority { detail } => {
                write!(f, "no trusted authority signed it: {detail}")
            }
            PeerRefusal::UnexpectedIdentity { found, expected } => {
                write!(f, "it belongs to {found}, expected {expected}")
            }
            PeerRefusal::Malformed { detail } => write!(f, "it is unreadable: {detail}"),
        }
    }
}

impl Error for PeerRefusal {}

/// Every label that [`HandshakeError::reason`] can return.
pub const REASONS: [&str; 13] = [
    "expired",
    "not_yet_valid",
    "wrong_trust_domain",
    "no_san",
    "several_sans",
    "not_a_workload_id",
    "unknown_authority",
    "unexpected_identity",
    "no_certificate",
    "alpn",
    "protocol",
    "io",
    "timeout",
];
