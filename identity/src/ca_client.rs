//! Certificates from an authority over gRPC: istiod's `CreateCertificate`, which our xds-server serves too.
//!
//! The caller proves itself by a token; the identity that it asks for travels as metadata, because an authority ignores
//! the names in a request.

use std::{path::PathBuf, time::Duration};

use http::uri::PathAndQuery;
use tonic::{
    Request, Status,
    client::Grpc,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use tonic_prost::ProstCodec;
use tulle_model::SpiffeId;
use tulle_wire::{
    citadel::{IstioCertificateRequest, IstioCertificateResponse},
    grpc_path,
};

use crate::{
    causes::with_causes,
    grpc_tls::{ClientTls, OpenClientTlsError, ParseEndpointError},
    request::KeyRequest,
    source::{FetchSvidError, SvidSource},
    svid::Svid,
};

/// Where the authority is, and who asks.
#[derive(Debug, Clone)]
pub struct CaClientConfig {
    /// `https://host:port`.
    pub address: String,
    /// The roots that the authority's own TLS certificate leads to.
    pub root_pem: String,
    /// The DNS name, IP address or SPIFFE id that the authority must prove.
    pub server_name: String,
    /// The file with the caller's token; read anew for each request, because it is replaced while we run.
    pub token: PathBuf,
    /// The cluster's name, sent as `clusterid`.
    pub cluster: String,
    /// The caller's own identity: asked for directly, every other one by impersonation.
    pub own_id: SpiffeId,
    /// The wanted lifetime; the authority may shorten it.
    pub ttl: Duration,
}

/// A client of the authority.
#[derive(Debug)]
pub struct CaClient {
    config: CaClientConfig,
    cluster: MetadataValue<Ascii>,
    channel: Channel,
}

impl CaClient {
    /// A client that connects at its first request, and again whenever the connection is gone.
    ///
    /// # Errors
    /// Address, name, roots or the cluster's name are unusable.
    pub fn new(config: CaClientConfig) -> Result<Self, OpenCaClientError> {
        let tls = ClientTls::new(&config.root_pem, &config.server_name, None)
            .map_err(OpenCaClientError::Tls)?;
        let channel = ClientTls::endpoint(&config.address)
            .map_err(OpenCaClientError::Address)?
            .timeout(REQUEST_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .connect_with_connector_lazy(tls.connector());
        let cluster = MetadataValue::try_from(config.cluster.as_str()).map_err(|_error| {
            OpenCaClientError::Cluster {
                found: config.cluster.clone(),
            }
        })?;
        Ok(CaClient {
            config,
            cluster,
            channel,
        })
    }

    async fn token(&self) -> Result<MetadataValue<Ascii>, FetchSvidError> {
        let path = &self.config.token;
        let text =
            tokio::fs::read_to_string(path)
                .await
                .map_err(|source| FetchSvidError::Token {
                    path: path.clone(),
                    source,
                })?;
        let form = || FetchSvidError::TokenForm { path: path.clone() };
        let token = text.trim();
        if token.is_empty() || token.len() > TOKEN_LEN_MAX {
            return Err(form());
        }
        let mut value =
            MetadataValue::try_from(format!("Bearer {token}")).map_err(|_error| form())?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn request(
        &self,
        key: &KeyRequest,
    ) -> Result<Request<IstioCertificateRequest>, FetchSvidError> {
        let mut message = IstioCertificateRequest {
            csr: key.csr_pem().to_owned(),
            validity_duration: i64::try_from(self.config.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        };
        if *key.id() != self.config.own_id {
            message.impersonate(&key.id().to_string());
        }
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.token().await?);
        request
            .metadata_mut()
            .insert("clusterid", self.cluster.clone());
        Ok(request)
    }

    async fn call(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(RESPONSE_LEN_MAX);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(with_causes(&error)))?;
        let path = PathAndQuery::from_static(grpc_path::CREATE_CERTIFICATE);
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        grpc.unary(request, path, codec)
            .await
            .map(tonic::Response::into_inner)
    }

    fn refused(&self, status: &Status) -> FetchSvidError {
        // tonic hides what the connection said among the causes.
        let message = match std::error::Error::source(status) {
            Some(cause) => format!("{}: {}", status.message(), with_causes(cause)),
            None => status.message().to_owned(),
        };
        FetchSvidError::Refused {
            authority: self.config.address.clone(),
            code: format!("{:?}", status.code()),
            message: message.chars().take(MESSAGE_LEN_MAX).collect(),
        }
    }
}

#[async_trait::async_trait]
impl SvidSource for CaClient {
    async fn fetch(&self, id: &SpiffeId) -> Result<Svid, FetchSvidError> {
        let key = KeyRequest::new(id).map_err(FetchSvidError::Key)?;
        let request = self.request(&key).await?;
        let response = self
            .call(request)
            .await
            .map_err(|status| self.refused(&status))?;
        let found = response.cert_chain.len();
        let Some((roots, chain)) = response.cert_chain.split_last().filter(|_parts| found > 1)
        else {
            let authority = self.config.address.clone();
            return Err(FetchSvidError::Incomplete { authority, found });
        };
        let svid = key
            .into_svid(&chain.join("\n"))
            .map_err(FetchSvidError::Unusable)?;
        Ok(svid.with_issuer_roots(roots.clone()))
    }
}

/// Why the client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCaClientError {
    /// The authority's address is unusable.
    #[error("the authority's address cannot be used")]
    Address(#[source] ParseEndpointError),
    /// The authority's name or roots are unusable.
    #[error("the authority cannot be recognised")]
    Tls(#[source] OpenClientTlsError),
    /// The cluster's name cannot be sent.
    #[error("{found:?} is not a cluster's name: expected visible ASCII")]
    Cluster {
        /// What was given.
        found: String,
    },
}

/// Signing takes milliseconds; the rest is for a busy control plane.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// A leaf, some intermediates and the roots.
const RESPONSE_LEN_MAX: usize = 512 * 1024;
/// Kubernetes's tokens have 1–2 KiB.
const TOKEN_LEN_MAX: usize = 16 * 1024;
/// What is kept of a foreign error text.
const MESSAGE_LEN_MAX: usize = 512;

#[cfg(test)]
mod tests;
