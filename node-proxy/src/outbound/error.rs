//! Why an outbound connection never began.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tulle_policy::compiled::Verdict;

use crate::{health::Failure, tunnel::OpenTunnelError};

#[derive(Debug, thiserror::Error)]
pub(super) enum OutboundError {
    /// Somebody connected to the capture port directly, or the kernel's record is gone.
    #[error("the kernel knows no destination for the connection from {downstream}")]
    UnknownDestination { downstream: SocketAddr },
    /// The application gave up first.
    #[error("the application closed the connection before it was established")]
    DownstreamGone,
    /// The service has nobody left to try.
    #[error("{requested} has no endpoint that can be tried")]
    NoEndpoint { requested: SocketAddr },
    /// The endpoint left the mesh's view after the kernel chose it; it may be anybody now, so nothing is sent there.
    #[error("no workload of the mesh has the address {address}")]
    UnknownWorkload { address: IpAddr },
    /// Policy does not let the pod connect to it.
    #[error("{address} may not be reached: {verdict}")]
    Denied {
        address: SocketAddr,
        verdict: Box<Verdict>,
    },
    /// The endpoint is silent, and another is there.
    #[error("{address} was silent for {patience:?}, and another endpoint is there")]
    Silent {
        address: SocketAddr,
        patience: Duration,
    },
    /// The endpoint cannot be reached.
    #[error(transparent)]
    Open(#[from] OpenTunnelError),
}

impl OutboundError {
    /// The name in metrics: a closed set.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            OutboundError::UnknownDestination { .. } => "unknown_destination",
            OutboundError::DownstreamGone => "downstream_gone",
            OutboundError::NoEndpoint { .. } => "no_endpoint",
            OutboundError::UnknownWorkload { .. } => "unknown_workload",
            OutboundError::Denied { .. } => "denied",
            OutboundError::Silent { .. } => "silent",
            OutboundError::Open(error) => error.reason(),
        }
    }

    /// Whether policy denies the connection, at this end or at the other.
    pub(super) fn is_denial(&self) -> bool {
        matches!(
            self,
            OutboundError::Denied { .. }
                | OutboundError::Open(OpenTunnelError::Refused {
                    status: 401 | 403,
                    ..
                })
        )
    }

    /// Whether another endpoint may do better.
    pub(super) fn may_retry(&self) -> bool {
        match self {
            OutboundError::UnknownWorkload { .. } | OutboundError::Silent { .. } => true,
            OutboundError::Open(error) => error.may_retry(),
            OutboundError::UnknownDestination { .. }
            | OutboundError::DownstreamGone
            | OutboundError::Denied { .. }
            | OutboundError::NoEndpoint { .. } => false,
        }
    }

    /// What the failure says about the endpoint's health, if anything.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self {
            OutboundError::Silent { .. } => Some(Failure::Silent),
            OutboundError::Open(error) => error.failure(),
            OutboundError::UnknownWorkload { .. }
            | OutboundError::UnknownDestination { .. }
            | OutboundError::DownstreamGone
            | OutboundError::Denied { .. }
            | OutboundError::NoEndpoint { .. } => None,
        }
    }
}
