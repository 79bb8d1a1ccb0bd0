//! The delta ADS method: who may subscribe, and one task for each stream.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, server::StreamingService};
use tulle_model::{SpiffeId, TrustDomain};
use tulle_wire::xds::DeltaDiscoveryRequest;

pub use self::stream::EncodedResponse;
use self::{
    entrance::Entrance,
    reader::{Credential, Readers},
    stream::{StreamContext, drive},
};
use crate::{
    management::NodeBoard, metrics::Metrics, server::Caller, snapshot::Snapshot, tokens::NodeTokens,
};

mod entrance;
mod reader;
mod stream;
mod subscription;

/// The method's implementation; one for all connections.
#[derive(Debug, Clone)]
pub struct Ads {
    readers: Readers,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
    identifier: Arc<str>,
    nodes: Arc<NodeBoard>,
    entrance: Entrance,
}

impl Ads {
    /// Serves the snapshots to the node proxies of the trust domain, and to whoever holds a node's token, until `stop` is
    /// cancelled.
    pub fn new(
        trust_domain: &TrustDomain,
        tokens: Arc<NodeTokens>,
        identifier: String,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let node_proxy = node_proxy_id(trust_domain);
        let entrance = Entrance::new(metrics.xds_views_awaited.clone());
        Ads {
            entrance,
            readers: Readers { node_proxy, tokens },
            snapshots,
            metrics,
            tasks,
            stop,
            identifier: identifier.into(),
            nodes: Arc::default(),
        }
    }

    /// Notes the streams on `nodes`.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Arc<NodeBoard>) -> Self {
        self.nodes = nodes;
        self
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Ads {
    type Response = EncodedResponse;
    type ResponseStream = ReceiverStream<Result<EncodedResponse, Status>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let ads = self.clone();
        Box::pin(async move {
            let caller = request.extensions().get::<Caller>().cloned();
            let address = caller.as_ref().map(|caller| caller.address);
            match ads.readers.admit(&request).await {
                Ok(credential) => {
                    let responses = ads.open(request.into_inner(), caller, credential);
                    Ok(Response::new(responses))
                }
                Err(error) => {
                    ads.metrics.count_refused_stream(error.reason());
                    tracing::warn!(?address, "refused a stream: {error}");
                    Err(error.into_status())
                }
            }
        })
    }
}

impl Ads {
    fn open(
        &self,
        requests: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Send + Unpin + 'static,
        caller: Option<Caller>,
        credential: Option<Credential>,
    ) -> ReceiverStream<Result<EncodedResponse, Status>> {
        let (sender, receiver) = mpsc::channel(RESPONSES_LEN_MAX);
        let context = StreamContext {
            snapshots: self.snapshots.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
            identifier: Arc::clone(&self.identifier),
            nodes: Arc::clone(&self.nodes),
            address: caller.as_ref().map(|caller| caller.address),
            expired: caller.map(|caller| caller.expired).unwrap_or_default(),
            credential,
            entrance: self.entrance.clone(),
        };
        self.tasks.spawn(drive(context, requests, sender));
        ReceiverStream::new(receiver)
    }
}

/// The identity of the node proxies of a trust domain.
pub fn node_proxy_id(trust_domain: &TrustDomain) -> SpiffeId {
    SpiffeId {
        trust_domain: trust_domain.clone(),
        namespace: SYSTEM_NAMESPACE.into(),
        service_account: "node-proxy".into(),
    }
}

/// The identity of the xds-server of a trust domain.
pub fn xds_server_id(trust_domain: &TrustDomain) -> SpiffeId {
    SpiffeId {
        trust_domain: trust_domain.clone(),
        namespace: SYSTEM_NAMESPACE.into(),
        service_account: "xds-server".into(),
    }
}

/// The identity of whoever may use the management API of a trust domain's cluster.
pub fn operator_id(trust_domain: &TrustDomain) -> SpiffeId {
    SpiffeId {
        trust_domain: trust_domain.clone(),
        namespace: SYSTEM_NAMESPACE.into(),
        service_account: "operator".into(),
    }
}

/// Where Tulle itself runs.
pub const SYSTEM_NAMESPACE: &str = "tulle-system";
/// One response on its way and one behind it keep the connection busy; more would only age.
const RESPONSES_LEN_MAX: usize = 2;
/// The largest request: a client of 100,000 resources that comes back names them all, with about 100 bytes each.
pub const REQUEST_BYTES_MAX: usize = 32 << 20;
/// How long streams may take to end at shutdown.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
