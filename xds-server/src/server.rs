//! The gRPC port: TLS, HTTP/2 and the way to the two methods. Everything that a stranger can send is bounded here.
//!
//! A connection ends with the certificate that its caller showed: GOAWAY, a moment for what is under way, and a status for streams of
//! ADS, which know no end of their own. So whoever gets no new certificate any more, as a node that was taken out of the cluster, sees
//! nothing of the mesh after its last one. istiod gives all connections the same greatest age instead, whatever they were opened with.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use tulle_identity::{CertificateAuthority, Peer, ServerTls, Term, TlsStream};
use tulle_wire::grpc_path;

use crate::{
    ads::{self, Ads, xds_server_id},
    ca::{self, Certificates},
    chain::Chain,
    metrics::Metrics,
};

/// Who calls, as every request carries it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Proven by its certificate, if it showed one.
    pub peer: Option<Peer>,
    /// Where it calls from.
    pub address: SocketAddr,
    /// Its connection's.
    pub keep: Keep,
    /// Cancelled when the certificate that it showed is over.
    pub expired: CancellationToken,
}

impl Caller {
    /// Whoever called from `address` and proved to be `peer`.
    pub(crate) fn new(peer: Option<Peer>, address: SocketAddr) -> Self {
        Caller {
            peer,
            address,
            keep: Keep::default(),
            expired: CancellationToken::new(),
        }
    }

    /// Whether the certificate that it showed is over: nothing new may begin on its connection.
    pub(crate) fn is_expired(&self) -> bool {
        let term = self.peer.as_ref().map(Term::of_peer);
        term.is_some_and(|term| term.is_over(SystemTime::now()))
    }

    /// Resolves when the certificate that it showed is over, and says so to whatever goes on on its connection; never, if it showed
    /// none.
    pub(crate) async fn until_expired(&self) {
        let Some(peer) = &self.peer else {
            return std::future::pending().await;
        };
        Term::of_peer(peer).end(SystemTime::now).await;
        self.expired.cancel();
    }

    /// Resolves when its connection is too old to go on.
    async fn until_old(&self) {
        tokio::select! { // Cancel-safe: both only wait.
            () = self.until_expired() => tracing::debug!(address = %self.address, "a caller's certificate is over"),
            // A caller without a certificate wants one, which takes a moment; it must not keep a place for ever, unless it reads
            // the mesh by a token.
            () = self.keep.until_unused(ANONYMOUS_AGE_MAX), if self.peer.is_none() => {}
        }
    }
}

/// Lets a connection grow old whose caller has shown no certificate.
#[derive(Debug, Clone, Default)]
pub struct Keep(Arc<AtomicUsize>);

/// As long as it lives, its connection is in good use.
#[derive(Debug)]
pub struct Held(Arc<AtomicUsize>);

impl Keep {
    /// Holds the connection.
    pub fn hold(&self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(&self.0))
    }

    /// Resolves when nobody holds the connection at the end of one `age`.
    async fn until_unused(&self, age: Duration) {
        loop {
            sleep(age).await;
            if self.0.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the port serves.
#[derive(Debug, Clone)]
pub struct Services {
    /// The delta ADS method.
    pub ads: Ads,
    /// The certificate method.
    pub certificates: Certificates,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// Accepts connections until `stop`; the connections themselves are `tasks`.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    services: Services,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! { // Cancel-safe: `accept` loses no connection.
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: waiting is the only thing that helps.
                services.metrics.count_refused_connection("accept");
                tracing::warn!("cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            services.metrics.count_refused_connection("limit");
            continue;
        };
        let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
            services.metrics.count_refused_connection("limit");
            continue;
        };
        let connection = Connection {
            stream,
            address,
            slot,
            handshake,
        };
        tasks.spawn(connection.run(Arc::clone(&tls), services.clone(), stop.clone()));
    }
}

struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    slot: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, tls: Arc<ServerTls>, services: Services, stop: CancellationToken) {
        let Connection {
            stream,
            address,
            slot,
            handshake,
        } = self;
        let metrics = Arc::clone(&services.metrics);
        metrics.connections.inc();
        let served = match shake_hands(stream, address, &tls).await {
            Ok((stream, peer)) => {
                drop(handshake);
                serve_http(stream, Caller::new(peer, address), services, stop).await
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = served {
            metrics.count_refused_connection(reason);
        }
        metrics.connections.dec();
        drop(slot);
    }
}

pub(crate) async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
) -> Result<(TlsStream<TcpStream>, Option<Peer>), &'static str> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, "cannot set TCP_NODELAY: {error}");
    }
    // What waits in the kernel is in front of every answer to a client's ping: over a slow link megabytes of it would look like
    // a dead server, and cost memory for each client.
    if let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        tracing::debug!(%address, "cannot bound what waits in the kernel: {error}");
    }
    let handshake = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
    handshake.map_err(|_| "timeout")?.map_err(|error| {
        tracing::debug!(%address, "handshake refused: {}", Chain(&error));
        error.reason()
    })
}

async fn serve_http(
    stream: TlsStream<TcpStream>,
    caller: Caller,
    services: Services,
    stop: CancellationToken,
) -> Result<(), &'static str> {
    let address = caller.address;
    let service = {
        let caller = caller.clone();
        service_fn(move |request: Request<Incoming>| {
            route(services.clone(), caller.clone(), request)
        })
    };
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! { // Cancel-safe: the connection is polled on below.
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = caller.until_old() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            // Streams end themselves at `stop`, and with the certificate; a client that does not read on is not waited for.
            timeout(ads::DRAIN_TIMEOUT, connection)
                .await
                .unwrap_or(Ok(()))
        }
    };
    ended.map_err(|error| {
        tracing::debug!(%address, "connection broke: {}", Chain(&error));
        match () {
            () if error.is_timeout() => "keepalive",
            () if is_io(&error) => "io",
            () => "http2",
        }
    })
}

async fn route(
    services: Services,
    caller: Caller,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(caller);
    Ok(match request.uri().path() {
        grpc_path::DELTA_AGGREGATED_RESOURCES => {
            let codec = ProstCodec::default();
            let mut grpc = Grpc::new(codec)
                .max_decoding_message_size(ads::REQUEST_BYTES_MAX)
                .max_encoding_message_size(RESPONSE_BYTES_MAX);
            grpc.streaming(services.ads, request).await
        }
        grpc_path::CREATE_CERTIFICATE => {
            let codec = ProstCodec::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(ca::REQUEST_BYTES_MAX);
            let answer = timeout(UNARY_TIMEOUT, grpc.unary(services.certificates, request)).await;
            answer.unwrap_or_else(|_| {
                Status::deadline_exceeded("the request did not arrive in time").into_http()
            })
        }
        _ => {
            services.metrics.unknown_methods.inc();
            Status::unimplemented("no such method here").into_http()
        }
    })
}

/// Renews the server's own certificate at half its life, for ever.
pub async fn renew_certificate(
    tls: Arc<ServerTls>,
    authority: Arc<CertificateAuthority>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! { // Cancel-safe: nothing is done before the sleep is over.
            () = stop.cancelled() => return,
            () = sleep(SERVER_CERTIFICATE_TTL / 2) => {}
        }
        match issue_own(&authority).map(|svid| tls.set_svid(&svid)) {
            Ok(Ok(())) => tracing::info!("renewed the server's certificate"),
            Ok(Err(error)) => {
                tracing::error!("cannot use the server's new certificate: {}", Chain(&error))
            }
            Err(error) => {
                tracing::error!("cannot renew the server's certificate: {}", Chain(&error))
            }
        }
    }
}

/// The server's own certificate.
///
/// # Errors
///
/// When the authority cannot sign.
pub fn issue_own(
    authority: &CertificateAuthority,
) -> Result<tulle_identity::Svid, tulle_identity::SignCsrError> {
    let id = xds_server_id(authority.trust_domain());
    authority.issue_server(
        &id,
        &[SERVER_DNS_NAME],
        SERVER_CERTIFICATE_TTL,
        SystemTime::now(),
    )
}

fn is_io(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// Under which name clients look for the server.
pub const SERVER_DNS_NAME: &str = "xds-server.tulle-system.svc";
const SERVER_CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);
/// One for each node of a large cluster and some for certificates; each costs some 50 KiB.
const CONNECTIONS_MAX: usize = 10_000;
/// Handshakes under way; a stranger who begins many must not take the places of those who finish theirs.
const HANDSHAKES_MAX: usize = 1_000;
/// Longer than any client needs for its first certificates.
const ANONYMOUS_AGE_MAX: Duration = Duration::from_secs(600);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A node proxy has one ADS stream and asks for at most eight certificates at once.
const STREAMS_MAX: u32 = 64;
const HEADER_LIST_BYTES_MAX: u32 = 32 << 10;
const RESET_STREAMS_MAX: usize = 20;
/// What may wait in HTTP/2 for a client that does not read.
const SEND_BUFFER_BYTES_MAX: usize = 256 << 10;
/// What may wait in the kernel that is not on the wire yet.
const UNSENT_BYTES_MAX: u32 = 256 << 10;
/// ztunnel takes 200 MiB; ours are cut at 128 KiB unless one resource alone is larger.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const UNARY_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
