//! The last hop: from the proxy to the pod's own application.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Socket};
use tokio::net::TcpStream;
use tulle_datapath::{AnnouncePeerError, SocketCookie};

use crate::{pod::Pod, pump::AppSocket};

/// Why the application was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectApplicationError {
    /// No socket in the pod's namespace.
    #[error("no socket can be made in the pod's namespace")]
    Socket(#[source] io::Error),
    /// The kernel cannot show the true client. The application would take the proxy's loopback address for it, which many
    /// applications trust: so it gets no connection.
    #[error("the true client cannot be shown to the application")]
    Announce(#[source] AnnouncePeerError),
    /// The application does not accept.
    #[error("the application at {destination} does not accept")]
    Connect {
        destination: SocketAddr,
        source: io::Error,
    },
    /// The application's queue is full.
    #[error("the application at {destination} did not accept within {limit:?}")]
    Timeout {
        destination: SocketAddr,
        limit: Duration,
    },
}

impl ConnectApplicationError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            ConnectApplicationError::Socket(_) => "socket",
            ConnectApplicationError::Announce(_) => "announce_peer",
            ConnectApplicationError::Connect { source, .. }
                if source.kind() == io::ErrorKind::ConnectionRefused =>
            {
                "application_refused"
            }
            ConnectApplicationError::Connect { .. } => "application_unreachable",
            ConnectApplicationError::Timeout { .. } => "application_timeout",
        }
    }
}

/// Connects to the application at `destination` so that it sees `client` as its peer.
pub(super) async fn connect(
    pod: &Pod,
    destination: SocketAddr,
    client: SocketAddr,
) -> Result<AppSocket, ConnectApplicationError> {
    let socket = pod
        .application_sockets
        .take(&pod.namespace, Domain::for_address(destination))
        .map_err(ConnectApplicationError::Socket)?;
    let source = SocketAddr::new(loopback_source(&pod.loopback_turn, destination.ip()), 0);
    socket
        .bind(&source.into())
        .map_err(ConnectApplicationError::Socket)?;
    let cookie = SocketCookie::of_socket(&socket).map_err(ConnectApplicationError::Socket)?;
    pod.plane
        .kernel
        .announce_peer(cookie, client)
        .map_err(ConnectApplicationError::Announce)?;
    let limit = pod.plane.settings.application_connect_timeout;
    match tokio::time::timeout(limit, finish_connect(socket, destination)).await {
        Ok(Ok(stream)) => Ok(AppSocket::new(stream)),
        Ok(Err(source)) => Err(ConnectApplicationError::Connect {
            destination,
            source,
        }),
        Err(_) => Err(ConnectApplicationError::Timeout { destination, limit }),
    }
}

/// Connects. An application of this very machine has usually answered before the first call returns, although a socket that never
/// blocks is told otherwise: so the kernel is asked once more before the runtime is made to wait.
async fn finish_connect(socket: Socket, destination: SocketAddr) -> io::Result<TcpStream> {
    let is_connected = match ask(&socket, destination)? {
        Progress::Connected => true,
        Progress::Waiting => ask(&socket, destination)? == Progress::Connected,
    };
    let stream = TcpStream::from_std(socket.into())?;
    if !is_connected {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Connected,
    Waiting,
}

fn ask(socket: &Socket, destination: SocketAddr) -> io::Result<Progress> {
    match rustix::net::connect(socket, &destination) {
        Ok(()) | Err(Errno::ISCONN) => Ok(Progress::Connected),
        Err(Errno::INPROGRESS | Errno::ALREADY | Errno::INTR) => Ok(Progress::Waiting),
        Err(error) => Err(error.into()),
    }
}

/// The source of a connection to the application: a loopback address, which the kernel's capture lets pass.
///
/// In IPv4 another one each time, so that ports never run out; IPv6 has only one.
fn loopback_source(turn: &AtomicU32, destination: IpAddr) -> IpAddr {
    match destination {
        IpAddr::V4(_) => {
            let [_, _, high, low] = turn.fetch_add(1, Relaxed).to_be_bytes();
            // 127.64.0.0/16: nobody else's loopback addresses.
            IpAddr::V4(Ipv4Addr::new(127, 64, high, low))
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// Logs why an application was not reached, with its causes.
pub(super) fn log_failure(pod: &Pod, error: &ConnectApplicationError) {
    tracing::debug!(
        pod = %pod.descriptor.name,
        error = error as &dyn Error,
        "an application was not reached"
    );
}
