//! A gRPC channel to the xds-server, proven at both ends.
//!
//! The server ends a stream with the certificate that it was opened with. A proxy that gets new ones moves its stream long before: as
//! soon as it holds the next certificate, which comes at a different moment on every node, so that the nodes of a cluster that were
//! started together do not come back together.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;
use tonic::transport::Channel;
use tulle_identity::{
    ClientTls, GetSvidError, OpenClientTlsError, ParseEndpointError, SvidManager,
};
use tulle_model::SpiffeId;

/// Opens connections to the xds-server.
#[async_trait]
pub trait OpenChannel: Send + Sync + 'static {
    /// A fresh connection.
    ///
    /// # Errors
    /// The server cannot be reached, or one side is not proven.
    async fn open(&self) -> Result<Opened, OpenChannelError>;
}

/// A connection, and for how long it is a good one.
pub struct Opened {
    /// The connection.
    pub channel: Channel,
    /// Resolves when a connection opened then would prove a newer certificate.
    pub renewed: BoxFuture<'static, ()>,
}

/// mTLS with the node's own certificate.
pub struct MtlsChannel {
    /// `https://host:port`.
    pub url: String,
    /// The DNS name or SPIFFE id that the server must prove.
    pub server_name: String,
    /// What proves the server.
    pub root_pem: String,
    /// Holds the node's certificate.
    pub svids: Arc<SvidManager>,
    /// The node's identity.
    pub identity: SpiffeId,
}

#[async_trait]
impl OpenChannel for MtlsChannel {
    async fn open(&self) -> Result<Opened, OpenChannelError> {
        let svid = self
            .svids
            .get(&self.identity)
            .await
            .map_err(OpenChannelError::Svid)?;
        let tls = ClientTls::new(&self.root_pem, &self.server_name, Some(&svid))
            .map_err(OpenChannelError::Tls)?;
        let endpoint = ClientTls::endpoint(&self.url)
            .map_err(OpenChannelError::Address)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let address = self.url.clone();
        let channel = endpoint
            .connect_with_connector(tls.connector())
            .await
            .map_err(|source| OpenChannelError::Connect { address, source })?;
        let (svids, identity) = (Arc::clone(&self.svids), self.identity.clone());
        Ok(Opened {
            channel,
            renewed: Box::pin(async move { svids.renewed(&identity, &svid).await }),
        })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenChannelError {
    /// The node has no certificate.
    #[error("this node has no certificate to show to the xds-server")]
    Svid(#[source] GetSvidError),
    /// The server cannot be recognised.
    #[error("the xds-server cannot be recognised")]
    Tls(#[source] OpenClientTlsError),
    /// The address is unusable.
    #[error("the xds-server's address cannot be used")]
    Address(#[source] ParseEndpointError),
    /// No connection came about.
    #[error("no connection to the xds-server at {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

impl OpenChannelError {
    /// The reason for metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            OpenChannelError::Svid(_) => "no_certificate",
            OpenChannelError::Tls(_) | OpenChannelError::Address(_) => "config",
            OpenChannelError::Connect { .. } => "connect",
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
