//! Why a stream to a peer could not be opened.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use tulle_identity::{GetSvidError, HandshakeError};
use tulle_model::SpiffeId;

use crate::health::Failure;

/// Why a stream to a peer could not be opened. Cheap to clone: all who waited for one tunnel get the same answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenTunnelError {
    /// The source workload has no certificate.
    #[error("there is no certificate for {identity}")]
    NoSvid {
        /// The source workload's identity.
        identity: SpiffeId,
        /// Why.
        source: Arc<GetSvidError>,
    },
    /// The kernel gave no socket in the pod's namespace.
    #[error("no socket can be made in the pod's namespace")]
    Socket(#[source] Arc<io::Error>),
    /// The peer's node does not accept.
    #[error("{destination} does not accept the connection")]
    Connect {
        /// Where.
        destination: SocketAddr,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The peer's node does not answer.
    #[error("{destination} did not answer within {limit:?}")]
    ConnectTimeout {
        /// Where.
        destination: SocketAddr,
        /// What was allowed.
        limit: Duration,
    },
    /// The two ends did not prove themselves to each other.
    #[error("the TLS handshake with {destination} failed")]
    Handshake {
        /// Where.
        destination: SocketAddr,
        /// Why.
        source: Arc<HandshakeError>,
    },
    /// The tunnel broke before the peer answered.
    #[error("the tunnel to {destination} ended before the peer answered")]
    Lost {
        /// Where.
        destination: SocketAddr,
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The peer answered with something else than 200.
    #[error("{destination} answered CONNECT with status {status}")]
    Refused {
        /// Where.
        destination: SocketAddr,
        /// The HTTP status.
        status: u16,
    },
    /// The peer did not answer CONNECT.
    #[error("{destination} did not answer CONNECT within {limit:?}")]
    ResponseTimeout {
        /// Where.
        destination: SocketAddr,
        /// What was allowed.
        limit: Duration,
    },
    /// A limit of the pool.
    #[error("there are too many tunnels to {destination}")]
    Full {
        /// Where.
        destination: SocketAddr,
    },
    /// This proxy is leaving.
    #[error("the proxy is shutting down")]
    Draining,
}

/// Who is responsible for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Whom we connected to.
    Upstream,
    /// This proxy or its node.
    Us,
}

impl OpenTunnelError {
    /// The name in metrics: a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            OpenTunnelError::NoSvid { .. } => "no_svid",
            OpenTunnelError::Socket(_) => "socket",
            OpenTunnelError::Connect { source, .. } => connect_reason(source),
            OpenTunnelError::ConnectTimeout { .. } => "connect_timeout",
            OpenTunnelError::Handshake { .. } => "handshake",
            OpenTunnelError::Lost { .. } => "tunnel_lost",
            OpenTunnelError::Refused { status: 400, .. } => "refused_bad_request",
            OpenTunnelError::Refused { status: 401, .. } => "refused_by_policy",
            OpenTunnelError::Refused { status: 503, .. } => "refused_unavailable",
            OpenTunnelError::Refused { .. } => "refused_other",
            OpenTunnelError::ResponseTimeout { .. } => "response_timeout",
            OpenTunnelError::Full { .. } => "tunnel_limit",
            OpenTunnelError::Draining => "draining",
        }
    }

    /// Who is responsible.
    pub fn blame(&self) -> Blame {
        match self {
            OpenTunnelError::NoSvid { .. }
            | OpenTunnelError::Socket(_)
            | OpenTunnelError::Full { .. }
            | OpenTunnelError::Draining => Blame::Us,
            OpenTunnelError::Connect { .. }
            | OpenTunnelError::ConnectTimeout { .. }
            | OpenTunnelError::Handshake { .. }
            | OpenTunnelError::Lost { .. }
            | OpenTunnelError::Refused { .. }
            | OpenTunnelError::ResponseTimeout { .. } => Blame::Upstream,
        }
    }

    /// Whether another endpoint of the same service may do better. Always safe: no byte of the application was sent.
    pub fn may_retry(&self) -> bool {
        match self {
            // The policy of a service's endpoints is the same; a malformed request stays malformed.
            OpenTunnelError::Refused { status, .. } => !matches!(status, 400 | 401),
            _ => self.blame() == Blame::Upstream,
        }
    }

    /// What the failure says about the endpoint's health, if anything.
    ///
    /// Who does not get through to the peer's node does not get through to the other endpoints there either. The peer's own
    /// answers, or its silence once it was reached, speak of the one endpoint.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            OpenTunnelError::Connect { .. }
            | OpenTunnelError::ConnectTimeout { .. }
            | OpenTunnelError::Handshake { .. }
            | OpenTunnelError::Lost { .. } => Some(Failure::Unreachable),
            OpenTunnelError::ResponseTimeout { .. } => Some(Failure::Silent),
            OpenTunnelError::Refused { status: 503, .. } => Some(Failure::Refused),
            OpenTunnelError::Refused { .. }
            | OpenTunnelError::NoSvid { .. }
            | OpenTunnelError::Socket(_)
            | OpenTunnelError::Full { .. }
            | OpenTunnelError::Draining => None,
        }
    }
}

/// The name in metrics of a failed `connect()`.
fn connect_reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect_refused",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::TimedOut => "connect_timeout",
        io::ErrorKind::ConnectionReset => "connect_reset",
        _ => "connect_failed",
    }
}
