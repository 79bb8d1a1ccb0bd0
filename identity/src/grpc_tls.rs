//! TLS for the control plane's gRPC.
//!
//! A server may be called before the caller has a certificate (that is how the first one is obtained), so here the
//! client's certificate is optional; one that is shown must be genuine.

use std::{
    future::Future,
    io,
    pin::Pin,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Endpoint, server::Connected};
use tulle_model::{SpiffeId, TrustDomain};

use crate::{
    bundles::{Bundle, ParseBundleError, TrustBundles},
    handshake::HandshakeError,
    mesh_tls::{config_fault, no_name},
    stream::TlsStream,
    svid::{self, Svid},
    verify::{self, Demand, ExpectedServer, Peer},
};

/// The server's side.
#[derive(Debug)]
pub struct ServerTls {
    state: Mutex<ServerState>,
}

#[derive(Debug, Clone)]
struct ServerState {
    config: Arc<ServerConfig>,
    bundles: Arc<TrustBundles>,
}

impl ServerTls {
    /// A server that presents `svid` and trusts clients by `bundles`.
    ///
    /// The bundles say whose clients may show a certificate at all: usually the own trust domain's alone.
    ///
    /// # Errors
    /// The certificate cannot be used for TLS.
    pub fn new(svid: &Svid, bundles: Arc<TrustBundles>) -> Result<Self, HandshakeError> {
        let config = Arc::new(svid::server_config(svid, false).map_err(config_fault)?);
        Ok(ServerTls {
            state: Mutex::new(ServerState { config, bundles }),
        })
    }

    /// Presents another certificate to later callers.
    ///
    /// # Errors
    /// The certificate cannot be used for TLS; the old one stays.
    pub fn set_svid(&self, svid: &Svid) -> Result<(), HandshakeError> {
        let config = Arc::new(svid::server_config(svid, false).map_err(config_fault)?);
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .config = config;
        Ok(())
    }

    /// Changes whom later handshakes trust; established connections live on.
    pub fn set_bundles(&self, bundles: Arc<TrustBundles>) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bundles = bundles;
    }

    /// Takes a connection. `None` means that the client showed no certificate; a bad one is refused.
    ///
    /// # Errors
    /// The reason, exactly: see [`HandshakeError::reason`].
    pub async fn accept<IO>(&self, io: IO) -> Result<(TlsStream<IO>, Option<Peer>), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let ServerState { config, bundles } = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let demand = Demand::Workload {
            bundles,
            expected: None,
        };
        let accept = TlsAcceptor::from(config).accept(io);
        verify::run(demand, accept).await
    }
}

/// The client's side. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    roots: Arc<Bundle>,
    server: ExpectedServer,
}

impl ClientTls {
    /// A client that trusts `roots_pem` and calls `server`: a DNS name, an IP address, or a SPIFFE id.
    ///
    /// # Errors
    /// The roots or the name are unusable.
    pub fn new(
        roots_pem: &str,
        server: &str,
        svid: Option<&Svid>,
    ) -> Result<Self, OpenClientTlsError> {
        let bad_name = || OpenClientTlsError::ServerName {
            found: server.chars().take(256).collect(),
        };
        let server = if server.starts_with("spiffe://") {
            ExpectedServer::Id(SpiffeId::from_str(server).map_err(|_error| bad_name())?)
        } else {
            let name = ServerName::try_from(server.to_owned()).map_err(|_error| bad_name())?;
            ExpectedServer::Name(name)
        };
        // The roots of a bootstrap belong to no trust domain yet; the name serves error texts only.
        let domain = TrustDomain::from_str("bootstrap").map_err(|_error| bad_name())?;
        let roots = Bundle::from_pem(&domain, roots_pem).map_err(OpenClientTlsError::Roots)?;
        let mut config = svid::client_config(svid).map_err(|error| OpenClientTlsError::Config {
            detail: error.to_string(),
        })?;
        config.enable_sni = matches!(server, ExpectedServer::Name(_));
        Ok(ClientTls {
            config: Arc::new(config),
            roots: Arc::new(roots),
            server,
        })
    }

    /// Makes a connection over `io`.
    ///
    /// # Errors
    /// The reason, exactly: see [`HandshakeError::reason`].
    pub async fn connect<IO>(&self, io: IO) -> Result<TlsStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server {
            ExpectedServer::Name(name) => name.clone(),
            ExpectedServer::Id(_) => no_name(),
        };
        let demand = Demand::Server {
            roots: self.roots.clone(),
            name: self.server.clone(),
        };
        let connect = TlsConnector::from(self.config.clone()).connect(name, io);
        let (stream, _peer) = verify::run(demand, connect).await?;
        Ok(stream)
    }

    /// The connector for tonic: `endpoint.connect_with_connector_lazy(tls.connector())`.
    pub fn connector(&self) -> GrpcConnector {
        GrpcConnector { tls: self.clone() }
    }

    /// A tonic endpoint for `address` (`https://host:port`), to be used with [`ClientTls::connector`].
    ///
    /// # Errors
    /// The address is not of that form.
    pub fn endpoint(address: &str) -> Result<Endpoint, ParseEndpointError> {
        let refuse = || ParseEndpointError {
            found: address.chars().take(256).collect(),
        };
        let origin = Uri::from_str(address).map_err(|_error| refuse())?;
        if origin.scheme_str() != Some("https") || origin.port_u16().is_none() {
            return Err(refuse());
        }
        // tonic refuses `https` unless it makes TLS itself; the requests still carry the true scheme, by their origin.
        let authority = origin.authority().ok_or_else(refuse)?;
        let endpoint =
            Endpoint::from_shared(format!("http://{authority}")).map_err(|_error| refuse())?;
        Ok(endpoint.origin(origin))
    }
}

/// Dials and secures gRPC connections; resolves the name at every dial and tries every address.
#[derive(Clone)]
pub struct GrpcConnector {
    tls: ClientTls,
}

impl tower::Service<Uri> for GrpcConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move { dial(&tls, &uri).await.map(TokioIo::new) })
    }
}

async fn dial(tls: &ClientTls, uri: &Uri) -> Result<TlsStream<TcpStream>, DialError> {
    let address = uri.authority().map(ToString::to_string).unwrap_or_default();
    let attempt = async {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(HTTPS_PORT);
        let failed = |source| DialError::Connect {
            address: address.clone(),
            source,
        };
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        tls.connect(stream)
            .await
            .map_err(|source| DialError::Handshake {
                address: address.clone(),
                source,
            })
    };
    tokio::time::timeout(DIAL_TIMEOUT, attempt)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(DialError::Timeout {
                address: address.clone(),
            })
        })
}

/// A TLS stream that tells tonic who called: the `Option<Peer>` is among each request's extensions.
#[derive(Debug)]
pub struct GrpcStream<IO> {
    stream: TlsStream<IO>,
    peer: Option<Peer>,
}

impl<IO> GrpcStream<IO> {
    /// Joins what [`ServerTls::accept`] returned.
    pub fn new(stream: TlsStream<IO>, peer: Option<Peer>) -> Self {
        GrpcStream { stream, peer }
    }
}

impl<IO> Connected for GrpcStream<IO> {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for GrpcStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GrpcStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Why a gRPC client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenClientTlsError {
    /// The roots are unusable.
    #[error("the roots for the gRPC server cannot be used")]
    Roots(#[source] ParseBundleError),
    /// The server's name is unusable.
    #[error("{found:?} names no server: expected a DNS name, an IP address or a SPIFFE id")]
    ServerName {
        /// What was given (cut after 256 characters).
        found: String,
    },
    /// The client's certificate is unusable.
    #[error("the client's certificate cannot be used: {detail}")]
    Config {
        /// What the library said.
        detail: String,
    },
}

/// The address is not that of a gRPC server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a gRPC server's address: expected https://<host>:<port>")]
pub struct ParseEndpointError {
    /// What was given (cut after 256 characters).
    pub found: String,
}

/// Why a gRPC server could not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No TCP connection.
    #[error("no connection to {address}")]
    Connect {
        /// Whom we called.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No TLS.
    #[error("no TLS with {address}")]
    Handshake {
        /// Whom we called.
        address: String,
        /// Why not.
        #[source]
        source: HandshakeError,
    },
    /// Neither, in time.
    #[error("no TLS with {address} within {DIAL_TIMEOUT:?}")]
    Timeout {
        /// Whom we called.
        address: String,
    },
}

/// Long enough for a lost SYN or two; short enough to try another address of the control plane.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const HTTPS_PORT: u16 = 443;

#[cfg(test)]
mod tests;
