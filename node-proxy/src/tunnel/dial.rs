//! Opens tunnels from inside a pod's namespace.

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use rand::seq::IndexedRandom as _;
use socket2::Domain;
use tokio::net::{TcpSocket, TcpStream};
use tulle_identity::{InnerProtocol, Offer, Svid, Term, TlsStream};

use super::{
    client::Tunnel,
    error::OpenTunnelError,
    io::TunnelIo,
    lane::{Lane, LaneError},
    pool::PoolKey,
};
use crate::{
    health::{Probe, ProbeOutcome},
    netns::{NamespaceHandle, SocketPurpose, SocketStock},
    plane::{Plane, Tasks, TunnelSide},
};

/// What is needed to connect from one pod.
pub(crate) struct Dialer {
    plane: Arc<Plane>,
    namespace: Arc<NamespaceHandle>,
    tunnel_sockets: SocketStock,
    plain_sockets: SocketStock,
    sources: Vec<IpAddr>,
    tasks: Tasks,
}

impl Dialer {
    pub(crate) fn new(
        plane: Arc<Plane>,
        namespace: Arc<NamespaceHandle>,
        sources: Vec<IpAddr>,
        tasks: Tasks,
    ) -> Self {
        let tunnel_sockets = SocketStock::new(plane.settings.tunnel_sockets());
        let plain_sockets = SocketStock::new(SocketPurpose::Plaintext);
        Dialer {
            plane,
            namespace,
            tunnel_sockets,
            plain_sockets,
            sources,
            tasks,
        }
    }

    /// Opens a tunnel, or a lane if that is offered and the peer takes it, and proves `svid` in it.
    pub(crate) async fn dial(
        &self,
        key: &PoolKey,
        svid: Arc<Svid>,
        offer: Offer,
    ) -> Result<Dialed, OpenTunnelError> {
        let stream = self.connect(&self.tunnel_sockets, key.destination).await?;
        let settings = &self.plane.settings;
        let handshake = Box::pin(self.handshake(key, svid, offer, stream));
        let result = tokio::time::timeout(settings.handshake_timeout, handshake).await;
        let result = result.unwrap_or_else(|_| {
            Err(OpenTunnelError::Handshake {
                destination: key.destination,
                source: Arc::new(tulle_identity::HandshakeError::Timeout {
                    limit: settings.handshake_timeout,
                }),
            })
        });
        let reason = match &result {
            Ok(_) => "ok",
            Err(OpenTunnelError::Handshake { source, .. }) => source.reason(),
            Err(error) => error.reason(),
        };
        self.plane
            .metrics
            .count_handshake(TunnelSide::Client, reason);
        result
    }

    /// A plain TCP connection from the pod to `destination`.
    pub(crate) async fn connect_plain(
        &self,
        destination: SocketAddr,
    ) -> Result<TcpStream, OpenTunnelError> {
        self.connect(&self.plain_sockets, destination).await
    }

    async fn connect(
        &self,
        stock: &SocketStock,
        destination: SocketAddr,
    ) -> Result<TcpStream, OpenTunnelError> {
        let limit = self.plane.settings.connect_timeout;
        let socket = self
            .socket(stock, destination)
            .map_err(|e| OpenTunnelError::Socket(Arc::new(e)))?;
        match tokio::time::timeout(limit, socket.connect(destination)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(OpenTunnelError::Connect {
                destination,
                source: Arc::new(source),
            }),
            Err(_) => Err(OpenTunnelError::ConnectTimeout { destination, limit }),
        }
    }

    fn socket(&self, stock: &SocketStock, destination: SocketAddr) -> std::io::Result<TcpSocket> {
        let socket = stock.take(&self.namespace, Domain::for_address(destination))?;
        let source = self
            .sources
            .iter()
            .find(|ip| ip.is_ipv4() == destination.is_ipv4());
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(*source, 0).into())?;
        }
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    async fn handshake(
        &self,
        key: &PoolKey,
        svid: Arc<Svid>,
        offer: Offer,
        stream: TcpStream,
    ) -> Result<Dialed, OpenTunnelError> {
        let destination = key.destination;
        let began = Instant::now();
        let io = TunnelIo::new(stream, Arc::clone(&self.plane.shared.buffers));
        let (tls, peer) = self
            .plane
            .tls
            .connect_offering(offer, Arc::clone(&svid), &key.expected, io)
            .await
            .map_err(|e| OpenTunnelError::Handshake {
                destination,
                source: Arc::new(e),
            })?;
        let term = Term::of_both(&svid, &peer);
        let dialed = match tls.protocol() {
            Some(InnerProtocol::Lane) => {
                let lane = self.take_lane(tls, term).await;
                lane.map(Dialed::Lane).map_err(lost)
            }
            Some(InnerProtocol::Http2) | None => {
                if let Some(congestion) = self.plane.settings.congestion {
                    congestion.settle(tls.io().socket());
                }
                match Tunnel::start(tls, &self.plane, (svid, term), destination).await {
                    Ok((tunnel, drive)) => {
                        self.tasks.spawn(drive);
                        Ok(Dialed::Tunnel(tunnel))
                    }
                    Err(error) => Err(lost(error)),
                }
            }
        };
        let dialed = dialed.map_err(|source| OpenTunnelError::Lost {
            destination,
            source,
        })?;
        self.plane
            .metrics
            .observe_handshake(TunnelSide::Client, began.elapsed().as_secs_f64());
        Ok(dialed)
    }

    /// A lane on which the peer has said that it is there.
    async fn take_lane(
        &self,
        tls: TlsStream<TunnelIo>,
        term: Term,
    ) -> Result<Box<Lane>, LaneError> {
        let mut lane = Lane::new(tls, term, &self.plane, TunnelSide::Client)?;
        lane.greeted().await?;
        Ok(lane)
    }
}

/// What a dial led to.
pub(crate) enum Dialed {
    /// A lane, free.
    Lane(Box<Lane>),
    /// A tunnel, driven by a task of its own.
    Tunnel(Tunnel),
}

fn lost(error: impl Error + Send + Sync + 'static) -> Arc<dyn Error + Send + Sync> {
    Arc::new(error)
}

/// The pods from inside which it can be tried whether somebody is at an address, as an application there would.
#[derive(Default)]
pub(crate) struct Probers(Mutex<Vec<Weak<Dialer>>>);

impl Probers {
    /// Adds a pod, for as long as it lives.
    pub(crate) fn add(&self, dialer: &Arc<Dialer>) {
        let mut dialers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dialers.retain(|dialer| dialer.strong_count() > 0);
        dialers.push(Arc::downgrade(dialer));
    }

    /// Any pod that has an address of that family.
    fn any(&self, is_ipv4: bool) -> Option<Arc<Dialer>> {
        let dialers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let live: Vec<Arc<Dialer>> = dialers
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|dialer| dialer.sources.iter().any(|ip| ip.is_ipv4() == is_ipv4))
            .collect();
        live.choose(&mut rand::rng()).cloned()
    }
}

impl Probe for Probers {
    fn probe(&self, address: SocketAddr) -> BoxFuture<'_, ProbeOutcome> {
        Box::pin(async move {
            let Some(dialer) = self.any(address.is_ipv4()) else {
                return ProbeOutcome::Unknown;
            };
            let connecting = dialer.connect_plain(address);
            match tokio::time::timeout(PROBE_TIMEOUT, connecting).await {
                Ok(Ok(_stream)) => ProbeOutcome::Answered,
                Ok(Err(OpenTunnelError::Connect { source, .. })) => outcome_of(&source),
                Err(_) | Ok(Err(OpenTunnelError::ConnectTimeout { .. })) => {
                    ProbeOutcome::Unanswered
                }
                Ok(Err(_)) => ProbeOutcome::Unknown,
            }
        })
    }
}

impl fmt::Debug for Probers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probers").finish_non_exhaustive()
    }
}

fn outcome_of(error: &io::Error) -> ProbeOutcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => ProbeOutcome::Answered,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => ProbeOutcome::Unanswered,
        _ => ProbeOutcome::Unknown,
    }
}

/// An answer takes a round trip; the kernel sends its second packet after a second.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
