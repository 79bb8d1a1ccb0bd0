//! When the kernel is asked to join an application's socket to ours.
//!
//! A connection that has sent several times will probably send again; one that sends once and ends is not worth two system calls.
//! Whether the join is safe is the kernel side's matter.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::AppSocket;

/// Asks the kernel side to join the two ends of a connection inside a pod; says whether it did.
#[derive(Clone)]
pub struct Joiner(Arc<Ask>);

type Ask = dyn Fn(JoinEnds) -> bool + Send + Sync;

/// The two ends of a connection between an application and the proxy.
#[derive(Debug, Clone, Copy)]
pub struct JoinEnds {
    /// The proxy's end.
    pub proxy: SocketAddr,
    /// The application's end.
    pub application: SocketAddr,
}

impl Joiner {
    /// Asks by calling `ask`, which must not wait.
    pub fn new(ask: impl Fn(JoinEnds) -> bool + Send + Sync + 'static) -> Self {
        Joiner(Arc::new(ask))
    }
}

impl fmt::Debug for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joiner").finish_non_exhaustive()
    }
}

/// How often an application has sent, up to the join.
#[derive(Debug, Default)]
pub(super) struct JoinTurn {
    sends: u8,
}

impl JoinTurn {
    /// The application has sent something. Asks for the join when its time has come, once in the connection's life.
    pub(super) fn count(&mut self, socket: &AppSocket, joiner: Option<&Joiner>) {
        let Some(joiner) = joiner.filter(|_| self.sends < JOIN_AFTER) else {
            return;
        };
        self.sends += 1;
        if self.sends == JOIN_AFTER
            && let Some(ends) = socket.ends()
        {
            let joined = (joiner.0)(ends);
            tracing::trace!(?ends, joined, "asked for a join");
        }
    }
}

/// How often an application must have sent before its connection counts as one that lives.
const JOIN_AFTER: u8 = 8;
