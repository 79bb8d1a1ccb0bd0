//! What the data plane needs of the kernel's side; the datapath offers it, unit tests fake it.

use std::net::SocketAddr;

use tulle_datapath::{
    AnnouncePeerError, CapturePodError, Counter, Datapath, JoinError, LocalConnection, NetnsCookie,
    OriginalDestination, PodCapture, ReleasePodError, SocketCookie,
};

/// What the data plane asks of the kernel's side.
///
/// Every method is a few system calls; none waits.
pub trait Kernel: Send + Sync {
    /// Where a connection accepted at the outbound port was going; `downstream` is the peer address of the accepted socket.
    fn original_destination(
        &self,
        netns: NetnsCookie,
        downstream: SocketAddr,
    ) -> Option<OriginalDestination>;

    /// Where an inbound plaintext connection was going; `local` is the local address of the socket accepted at the inbound port.
    ///
    /// A steered socket keeps the address that its client asked for, so there is nothing to look up.
    fn inbound_destination(&self, local: SocketAddr) -> SocketAddr {
        local
    }

    /// Makes the application see `peer` as its client on the connection that `socket` will open.
    ///
    /// # Errors
    /// The map cannot be written.
    fn announce_peer(
        &self,
        socket: SocketCookie,
        peer: SocketAddr,
    ) -> Result<(), AnnouncePeerError>;

    /// Begins to capture a pod's connections.
    ///
    /// # Errors
    /// The kernel's side refuses; the pod is then not captured at all.
    fn capture_pod(&self, pod: &PodCapture<'_>) -> Result<(), CapturePodError>;

    /// Stops to capture a pod that is gone.
    ///
    /// # Errors
    /// Something of the pod is left behind.
    fn release_pod(&self, uid: &str) -> Result<(), ReleasePodError>;

    /// Whether connections join the sockmap when [`Kernel::join`] asks for it. A kernel side without a sockmap says no.
    fn joins_late(&self) -> bool {
        false
    }

    /// Lets a connection join the sockmap; says whether it did. The thread is in the connection's network namespace.
    ///
    /// # Errors
    /// The kernel's side refuses to try.
    fn join(&self, _connection: &LocalConnection) -> Result<bool, JoinError> {
        Ok(false)
    }

    /// Whether the kernel's side enforces policy, so that each pod needs a black hole.
    fn enforces(&self) -> bool {
        false
    }

    /// What the kernel's programs counted.
    fn counters(&self) -> Vec<Counter>;
}

impl Kernel for Datapath {
    fn original_destination(
        &self,
        netns: NetnsCookie,
        downstream: SocketAddr,
    ) -> Option<OriginalDestination> {
        Datapath::original_destination(self, netns, downstream)
    }

    fn announce_peer(
        &self,
        socket: SocketCookie,
        peer: SocketAddr,
    ) -> Result<(), AnnouncePeerError> {
        Datapath::announce_peer(self, socket, peer)
    }

    fn capture_pod(&self, pod: &PodCapture<'_>) -> Result<(), CapturePodError> {
        Datapath::capture_pod(self, pod)
    }

    fn release_pod(&self, uid: &str) -> Result<(), ReleasePodError> {
        Datapath::release_pod(self, uid)
    }

    fn joins_late(&self) -> bool {
        Datapath::joins_late(self)
    }

    fn join(&self, connection: &LocalConnection) -> Result<bool, JoinError> {
        Datapath::join(self, connection)
    }

    fn enforces(&self) -> bool {
        Datapath::is_enforcing(self)
    }

    fn counters(&self) -> Vec<Counter> {
        Datapath::counters(self)
    }
}
