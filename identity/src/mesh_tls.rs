//! TLS between workloads: both ends prove themselves, always.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tulle_model::SpiffeId;

use crate::{
    bundles::TrustBundles,
    handshake::HandshakeError,
    provider::{ALPN_H2, ALPN_LANE},
    stream::TlsStream,
    svid::Svid,
    verify::{self, Demand, Peer},
};

/// What this end is ready to speak inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HBONE only.
    Hbone,
    /// Lanes with a proxy of this mesh, HBONE with all others.
    Any,
}

impl Offer {
    /// The names for ALPN, best first.
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Offer::Hbone => vec![ALPN_H2.to_vec()],
            Offer::Any => vec![ALPN_LANE.to_vec(), ALPN_H2.to_vec()],
        }
    }
}

/// Makes and takes connections of the mesh.
///
/// Has no time limit of its own: the caller knows how long a connection may take to come up.
#[derive(Debug, Default)]
pub struct MeshTls {
    bundles: Mutex<Arc<TrustBundles>>,
}

impl MeshTls {
    /// Without bundles: refuses everybody until [`MeshTls::set_bundles`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes whom later handshakes trust; established connections live on.
    pub fn set_bundles(&self, bundles: Arc<TrustBundles>) {
        *self.bundles.lock().unwrap_or_else(PoisonError::into_inner) = bundles;
    }

    /// The bundles that a handshake starting now would use.
    pub fn bundles(&self) -> Arc<TrustBundles> {
        self.bundles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes a connection as `svid`, for HBONE; the client must prove an identity of the mesh.
    ///
    /// # Errors
    /// The reason, exactly: see [`HandshakeError::reason`].
    ///
    /// # Cancel safety
    /// Dropping the future drops `io`: the connection is lost, nothing else.
    pub fn accept<IO>(
        &self,
        svid: Arc<Svid>,
        io: IO,
    ) -> impl Future<Output = Result<(TlsStream<IO>, Peer), HandshakeError>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_offering(Offer::Hbone, svid, io)
    }

    /// The same, for all that is in `offer`; what was agreed on, the stream tells.
    ///
    /// # Errors
    /// The reason, exactly: see [`HandshakeError::reason`].
    ///
    /// # Cancel safety
    /// Dropping the future drops `io`: the connection is lost, nothing else.
    pub async fn accept_offering<IO>(
        &self,
        offer: Offer,
        svid: Arc<Svid>,
        io: IO,
    ) -> Result<(TlsStream<IO>, Peer), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = svid.mesh_server(offer).map_err(config_fault)?;
        let demand = Demand::Workload {
            bundles: self.bundles(),
            expected: None,
        };
        let accept = TlsAcceptor::from(config).accept(io);
        let (stream, peer) = verify::run(demand, accept).await?;
        Ok((stream, peer.ok_or(HandshakeError::NoCertificate)?))
    }

    /// Makes a connection as `svid`, for HBONE; the server must prove one of the `expected` identities. No server name is sent.
    ///
    /// # Errors
    /// The reason, exactly: see [`HandshakeError::reason`]. In TLS 1.3 a server judges the client's certificate after
    /// the client is done, so its refusal shows at the first read of the stream.
    ///
    /// # Cancel safety
    /// Dropping the future drops `io`: the connection is lost, nothing else.
    pub fn connect<IO>(
        &self,
        svid: Arc<Svid>,
        expected: &[SpiffeId],
        io: IO,
    ) -> impl Future<Output = Result<(TlsStream<IO>, Peer), HandshakeError>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_offering(Offer::Hbone, svid, expected, io)
    }

    /// The same, for all that is in `offer`; what was agreed on, the stream tells.
    ///
    /// # Errors
    /// As for [`MeshTls::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future drops `io`: the connection is lost, nothing else.
    pub async fn connect_offering<IO>(
        &self,
        offer: Offer,
        svid: Arc<Svid>,
        expected: &[SpiffeId],
        io: IO,
    ) -> Result<(TlsStream<IO>, Peer), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = svid.mesh_client(offer).map_err(config_fault)?;
        let demand = Demand::Workload {
            bundles: self.bundles(),
            expected: Some(expected.to_vec()),
        };
        let connect = TlsConnector::from(config).connect(no_name(), io);
        let (stream, peer) = verify::run(demand, connect).await?;
        Ok((stream, peer.ok_or(HandshakeError::NoCertificate)?))
    }
}

/// rustls wants a name even when none is sent.
pub(crate) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

pub(crate) fn config_fault(error: rustls::Error) -> HandshakeError {
    HandshakeError::Protocol(Box::new(error))
}

#[cfg(test)]
mod openssl_tests;
#[cfg(test)]
mod tests;
