//! Who may read the mesh: a node proxy by its certificate, and any other proxy of a node, such as a stock ztunnel, by the node's
//! token, which is all that such a proxy has before it holds a certificate (and after that, too).
//!
//! A certificate proves its holder as long as it lives, which is an hour: its connection and all streams on it end with it.
//! A token lives until it is withdrawn, so whoever reads by one is asked again while it reads (`withdrawn_token_ends_its_stream`).

use std::sync::Arc;

use tonic::{Request, Status};
use tulle_model::SpiffeId;

use crate::{
    server::{Caller, Held},
    snapshot::Snapshot,
    tokens::{NodeTokens, TokenHash, bearer_token},
};

/// Decides who may read the mesh.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    pub(super) node_proxy: SpiffeId,
    pub(super) tokens: Arc<NodeTokens>,
}

/// What a reader that came with a token must go on to hold.
#[derive(Debug)]
pub(super) struct Credential {
    tokens: Arc<NodeTokens>,
    token: TokenHash,
    node: String,
    /// A connection without a certificate may not grow old, unless it is used like this.
    _held: Held,
}

/// Why somebody may not read the mesh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum RefuseReaderError {
    #[error("{found} may not read the mesh: expected {expected}")]
    Identity { found: SpiffeId, expected: SpiffeId },
    #[error("the certificate that the connection was opened with is over: connect anew")]
    Expired,
    #[error(
        "a certificate of the mesh, or a node's token in the metadata key authorization, is needed to read the mesh"
    )]
    Nothing,
    #[error("the token is no node's, or no longer")]
    UnknownToken,
    #[error("the node {node:?} does not exist in this cluster")]
    UnknownNode { node: String },
}

impl Readers {
    /// Nobody sees the mesh without proof that it belongs to this cluster; `None` for whom its certificate suffices.
    pub(super) async fn admit<T>(
        &self,
        request: &Request<T>,
    ) -> Result<Option<Credential>, RefuseReaderError> {
        let caller = request.extensions().get::<Caller>();
        let caller = caller.ok_or(RefuseReaderError::Nothing)?;
        if caller.is_expired() {
            return Err(RefuseReaderError::Expired);
        }
        // A certificate says more than a token: a workload's does not become a node proxy's by one.
        match &caller.peer {
            Some(peer) if peer.id == self.node_proxy => return Ok(None),
            Some(peer) => {
                return Err(RefuseReaderError::Identity {
                    found: peer.id.clone(),
                    expected: self.node_proxy.clone(),
                });
            }
            None => {}
        }
        let value = request.metadata().get("authorization");
        let token = value.and_then(|value| bearer_token(value.as_bytes()));
        let token = TokenHash::of(token.ok_or(RefuseReaderError::Nothing)?);
        let node = self.tokens.node_of_hash(&token).await;
        Ok(Some(Credential {
            tokens: Arc::clone(&self.tokens),
            token,
            node: node.ok_or(RefuseReaderError::UnknownToken)?,
            _held: caller.keep.hold(),
        }))
    }
}

impl Credential {
    /// The node whose token it is.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Whether the token is still that node's, and the node still one of the cluster's.
    pub(super) async fn check(&self, snapshot: &Snapshot) -> Result<(), RefuseReaderError> {
        if self.tokens.node_of_hash(&self.token).await.as_ref() != Some(&self.node) {
            return Err(RefuseReaderError::UnknownToken);
        }
        if !snapshot.nodes.contains(&self.node) {
            return Err(RefuseReaderError::UnknownNode {
                node: self.node.clone(),
            });
        }
        Ok(())
    }
}

impl RefuseReaderError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            RefuseReaderError::Identity { .. } => "identity",
            RefuseReaderError::Expired => "expired",
            RefuseReaderError::Nothing => "no_credential",
            RefuseReaderError::UnknownToken => "unknown_token",
            RefuseReaderError::UnknownNode { .. } => "unknown_node",
        }
    }

    pub(super) fn into_status(self) -> Status {
        match self {
            // It may well belong to the mesh, and shall try again at once.
            RefuseReaderError::Expired => Status::unavailable(self.to_string()),
            RefuseReaderError::Identity { .. }
            | RefuseReaderError::Nothing
            | RefuseReaderError::UnknownToken
            | RefuseReaderError::UnknownNode { .. } => Status::unauthenticated(self.to_string()),
        }
    }
}
