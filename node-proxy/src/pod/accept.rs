//! Accepting connections: until the drain begins, within limits, through shortages.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};

use super::Pod;
use crate::plane::Direction;

/// Hands every accepted connection to `handle`, until the drain begins.
pub(crate) async fn accept_all(
    pod: &Pod,
    listener: &TcpListener,
    direction: Direction,
    mut handle: impl FnMut(TcpStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! {
            // Cancel-safe, both.
            () = pod.tasks.draining() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => handle(stream, peer),
            // The client left while it waited in the queue.
            Err(error) if is_of_one_connection(&error) => {
                pod.plane.metrics.count_failed(direction, "accept_aborted");
            }
            // A shortage (descriptors, memory). The clients wait in the queue meanwhile.
            Err(error) => {
                tracing::warn!(pod = %pod.descriptor.name, %error, "connections cannot be accepted");
                pod.plane.metrics.count_failed(direction, "accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A number of connections that may exist at once.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    count: Arc<AtomicUsize>,
    max: usize,
}

/// One connection of a [`ConnectionLimit`], given back on drop.
#[must_use]
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<AtomicUsize>);

impl ConnectionLimit {
    pub(crate) fn new(max: usize) -> Self {
        ConnectionLimit {
            count: Arc::default(),
            max,
        }
    }

    /// `None` when there are enough.
    pub(crate) fn take(&self) -> Option<ConnectionPermit> {
        let before = self.count.fetch_add(1, Relaxed);
        let permit = ConnectionPermit(Arc::clone(&self.count));
        (before < self.max).then_some(permit)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_and_is_given_back() {
        let limit = ConnectionLimit::new(2);
        let first = limit.take();
        let second = limit.take();
        assert!(first.is_some() && second.is_some());
        assert!(limit.take().is_none());
        drop(first);
        assert!(limit.take().is_some());
    }
}
