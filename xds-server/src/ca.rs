//! The certificate method: which node asks, for whom it may ask, and for how long.
//!
//! **Invariant:** a node gets certificates only for itself and for service accounts of pods on it
//! (`a_node_gets_no_certificate_for_a_pod_elsewhere`).

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use tonic::{Request, Response, Status, server::UnaryService};
use tulle_identity::CertificateAuthority;
use tulle_model::{ParseSpiffeIdError, SpiffeId};
use tulle_wire::citadel::{IstioCertificateRequest, IstioCertificateResponse};

use crate::{
    ads::node_proxy_id,
    catalog::Placement,
    chain::Chain,
    metrics::Metrics,
    snapshot::Snapshot,
    tokens::{NodeTokens, bearer_token},
};

/// The method's implementation; one for all connections.
#[derive(Debug, Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    authority: Arc<CertificateAuthority>,
    tokens: Arc<NodeTokens>,
    ttl: Duration,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
}

/// Why a certificate is not issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum RefuseCertificateError {
    #[error("no bearer token in the metadata key authorization")]
    NoToken,
    #[error("the token is no node's")]
    UnknownToken,
    #[error("the node {node:?} does not exist in this cluster")]
    UnknownNode { node: String },
    #[error("{source}")]
    NotAnIdentity { source: ParseSpiffeIdError },
    #[error("{id} is not of this trust domain")]
    ForeignDomain { id: SpiffeId },
    #[error("no pod of {id} runs on the node {node:?}")]
    NotOnNode { id: SpiffeId, node: String },
    #[error("the validity of {found} seconds is negative")]
    Validity { found: i64 },
    #[error("the request cannot be signed")]
    Sign {
        source: tulle_identity::SignCsrError,
    },
    #[error("the server does not know the cluster's pods yet")]
    NotReady,
}

impl Certificates {
    /// Signs with `authority` for at most `ttl`.
    pub fn new(
        authority: Arc<CertificateAuthority>,
        tokens: Arc<NodeTokens>,
        ttl: Duration,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Certificates {
            shared: Arc::new(Shared {
                authority,
                tokens,
                ttl,
                snapshots,
                metrics,
            }),
        }
    }
}

impl UnaryService<IstioCertificateRequest> for Certificates {
    type Response = IstioCertificateResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            match shared.issue(&request).await {
                Ok(response) => {
                    shared.metrics.ca_issued.inc();
                    Ok(Response::new(response))
                }
                Err(error) => {
                    shared.metrics.count_refused_certificate(error.reason());
                    tracing::warn!("refused a certificate: {}", Chain(&error));
                    Err(error.into_status())
                }
            }
        })
    }
}

impl Shared {
    async fn issue(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, RefuseCertificateError> {
        let value = request.metadata().get("authorization");
        let token = value.and_then(|value| bearer_token(value.as_bytes()));
        let token = token.ok_or(RefuseCertificateError::NoToken)?;
        let node = self
            .tokens
            .node_of(token)
            .await
            .ok_or(RefuseCertificateError::UnknownToken)?;
        let snapshot = Arc::clone(&self.snapshots.borrow());
        if !snapshot.ready {
            return Err(RefuseCertificateError::NotReady);
        }
        if !snapshot.nodes.contains(&node) {
            return Err(RefuseCertificateError::UnknownNode { node });
        }
        let body = request.get_ref();
        let id = match body.impersonated_identity() {
            None => node_proxy_id(self.authority.trust_domain()),
            Some(text) => self.impersonated(text, &node, &snapshot)?,
        };
        let found = body.validity_duration;
        let asked = u64::try_from(found).map_err(|_| RefuseCertificateError::Validity { found })?;
        let ttl = if asked == 0 {
            self.ttl
        } else {
            self.ttl.min(Duration::from_secs(asked))
        };
        let issued = self
            .authority
            .sign_csr(&body.csr, &id, ttl, SystemTime::now())
            .map_err(|source| RefuseCertificateError::Sign { source })?;
        tracing::info!(%id, node, "issued a certificate");
        Ok(IstioCertificateResponse {
            cert_chain: vec![issued.leaf_pem, issued.root_pem],
        })
    }

    fn impersonated(
        &self,
        text: &str,
        node: &str,
        snapshot: &Snapshot,
    ) -> Result<SpiffeId, RefuseCertificateError> {
        let id: SpiffeId = text
            .parse()
            .map_err(|source| RefuseCertificateError::NotAnIdentity { source })?;
        if id.trust_domain != *self.authority.trust_domain() {
            return Err(RefuseCertificateError::ForeignDomain { id });
        }
        // The proxy itself may name itself.
        if id == node_proxy_id(self.authority.trust_domain()) {
            return Ok(id);
        }
        let placement = Placement {
            node: node.to_owned(),
            namespace: id.namespace.clone().into(),
            service_account: id.service_account.clone().into(),
        };
        if snapshot.placements.contains_key(&placement) {
            Ok(id)
        } else {
            Err(RefuseCertificateError::NotOnNode {
                id,
                node: node.to_owned(),
            })
        }
    }
}

impl RefuseCertificateError {
    fn reason(&self) -> &'static str {
        match self {
            RefuseCertificateError::NoToken => "no_token",
            RefuseCertificateError::UnknownToken => "unknown_token",
            RefuseCertificateError::UnknownNode { .. } => "unknown_node",
            RefuseCertificateError::NotAnIdentity { .. } => "not_an_identity",
            RefuseCertificateError::ForeignDomain { .. } => "foreign_domain",
            RefuseCertificateError::NotOnNode { .. } => "not_on_node",
            RefuseCertificateError::Validity { .. } => "validity",
            RefuseCertificateError::Sign { .. } => "bad_request",
            RefuseCertificateError::NotReady => "not_ready",
        }
    }

    /// Clients know istiod's code and sentence: they try again with back-off, since the server may lag behind the node.
    fn into_status(self) -> Status {
        match self {
            RefuseCertificateError::NoToken | RefuseCertificateError::UnknownToken => {
                Status::unauthenticated("request authentication failure: no known token")
            }
            RefuseCertificateError::UnknownNode { .. }
            | RefuseCertificateError::NotAnIdentity { .. }
            | RefuseCertificateError::ForeignDomain { .. }
            | RefuseCertificateError::NotOnNode { .. } => Status::unauthenticated(format!(
                "request impersonation authentication failure: {self}"
            )),
            RefuseCertificateError::Validity { .. } => Status::invalid_argument(self.to_string()),
            RefuseCertificateError::Sign { .. } => {
                Status::invalid_argument(Chain(&self).to_string())
            }
            RefuseCertificateError::NotReady => Status::unavailable(self.to_string()),
        }
    }
}

/// A request is a CSR of some hundred bytes and one name.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
