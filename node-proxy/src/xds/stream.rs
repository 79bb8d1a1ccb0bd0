//! One stream, from the first request to its end.

use std::{error::Error, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use http::uri::PathAndQuery;
use prost_types::{Struct, Value, value::Kind};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming, client::Grpc};
use tonic_prost::ProstCodec;
use tulle_wire::{
    grpc_path,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status, UserAgentVersion},
};

use super::{
    ACKNOWLEDGE_TIMEOUT, FIRST_VIEW_QUIET, FIRST_VIEW_WAIT_MAX, XdsClient, XdsSettings,
    connect::{OpenChannelError, Opened},
    status::ViewOrigin,
    view::{Applied, Refused, ResourceKind},
};
use crate::metrics::XdsMetrics;

/// How a stream ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Why.
    pub(super) error: StreamError,
    /// At least one response was taken, so the next attempt need not wait.
    pub(super) was_healthy: bool,
}

impl Ended {
    /// The reason for metrics.
    pub(super) fn reason(&self) -> &'static str {
        match &self.error {
            StreamError::Open(error) => error.reason(),
            StreamError::Status(status) => match status.code() {
                Code::Unauthenticated | Code::PermissionDenied => "refused",
                Code::Unavailable | Code::Cancelled | Code::Unknown => "lost",
                _ => "failed",
            },
            StreamError::Closed => "closed",
            StreamError::Stalled => "stalled",
            StreamError::Renewed => "renewed",
        }
    }

    /// The stream ended in good order, for another one that proves the newer certificate.
    pub(super) fn is_renewal(&self) -> bool {
        matches!(self.error, StreamError::Renewed)
    }
}

impl XdsClient {
    /// Opens a stream and works on it until it ends.
    pub(super) async fn one_stream(&mut self) -> Ended {
        let mut was_healthy = false;
        let Err(error) = self.converse(&mut was_healthy).await;
        Ended { error, was_healthy }
    }

    async fn converse(
        &mut self,
        was_healthy: &mut bool,
    ) -> Result<std::convert::Infallible, StreamError> {
        let Opened {
            channel,
            mut renewed,
        } = self.channel.open().await?;
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        for (number, kind) in ResourceKind::ALL.into_iter().enumerate() {
            let mut request = self.first_request(kind);
            request.node = (number == 0).then(|| node(&self.settings));
            requests
                .try_send(request)
                .map_err(|_| StreamError::Stalled)?;
        }
        let mut grpc = Grpc::new(channel).max_decoding_message_size(RESPONSE_LEN_MAX);
        grpc.ready()
            .await
            .map_err(|error| tonic::Status::from_error(Box::new(error)))?;
        let mut request = Request::new(ReceiverStream::new(queue));
        if let Ok(cluster) = self.settings.cluster.as_str().parse() {
            request.metadata_mut().insert("clusterid", cluster);
        }
        let path = PathAndQuery::from_static(grpc_path::DELTA_AGGREGATED_RESOURCES);
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let response = grpc.streaming(request, path, codec).await?;
        let mut responses: Streaming<DeltaDiscoveryResponse> = response.into_inner();
        tracing::info!("the stream from the xds-server is open");
        self.metrics.connected.set(1);
        self.note_status(|status| status.connected = true);
        let mut first_view_by = None;
        loop {
            let next = self.next_in_term(&mut responses, &mut first_view_by, &mut renewed);
            let next = match next.await {
                Err(StreamError::Renewed) => {
                    drop(requests);
                    say_farewell(responses).await;
                    return Err(StreamError::Renewed);
                }
                next => next?,
            };
            let Some(response) = next else {
                self.publish_first(ViewOrigin::Server);
                continue;
            };
            self.note_parts(&response);
            let answer = self.take(response);
            *was_healthy = true;
            timeout(ACKNOWLEDGE_TIMEOUT, requests.send(answer))
                .await
                .map_err(|_| StreamError::Stalled)?
                .map_err(|_| StreamError::Closed)?;
            // A long run of responses must leave the other tasks of this thread their turn.
            tokio::task::yield_now().await;
        }
    }

    /// The next response, as long as the stream proves the newest certificate.
    async fn next_in_term(
        &self,
        responses: &mut Streaming<DeltaDiscoveryResponse>,
        first_view_by: &mut Option<Instant>,
        renewed: &mut BoxFuture<'static, ()>,
    ) -> Result<Option<DeltaDiscoveryResponse>, StreamError> {
        let next = tokio::select! {
            // Cancel-safe: what has been received of a message stays in the stream, and the wait for a certificate takes nothing.
            next = self.next_response(responses, first_view_by) => next,
            // A first view is not torn apart: whether it is whole shows by the silence after it.
            () = &mut *renewed, if self.visible => return Err(StreamError::Renewed),
        };
        next.map_err(|error| match renewed.now_or_never() {
            // The server ended what was opened with the old certificate.
            Some(()) => StreamError::Renewed,
            None => error,
        })
    }

    /// The next response; `None` if the first whole view is there.
    ///
    /// The first view must hold the policies as well as the workloads: between the two, everything would be allowed. And it must
    /// hold all workloads: what it lacks is taken out of the kernel's tables, which an earlier process may have filled.
    async fn next_response(
        &self,
        responses: &mut Streaming<DeltaDiscoveryResponse>,
        first_view_by: &mut Option<Instant>,
    ) -> Result<Option<DeltaDiscoveryResponse>, StreamError> {
        let is_whole = || self.status.snapshot().is_whole() && self.unfinished.is_empty();
        if self.visible || !is_whole() {
            return responses
                .message()
                .await?
                .ok_or(StreamError::Closed)
                .map(Some);
        }
        let now = Instant::now();
        let by = *first_view_by.get_or_insert(now + FIRST_VIEW_WAIT_MAX);
        // Giving up the wait is safe: what has been received of a message stays in the stream.
        match timeout_at(by.min(now + FIRST_VIEW_QUIET), responses.message()).await {
            Ok(response) => response?.ok_or(StreamError::Closed).map(Some),
            Err(_quiet) => Ok(None),
        }
    }

    /// Notes whether more of the same answer follows. A stream that breaks meanwhile leaves that open: the next one brings the rest.
    fn note_parts(&mut self, response: &DeltaDiscoveryResponse) {
        if let Some(kind) = ResourceKind::of_type_url(&response.type_url) {
            match response.is_continued {
                true => self.unfinished.insert(kind),
                false => self.unfinished.remove(&kind),
            };
        }
    }

    fn first_request(&self, kind: ResourceKind) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: self.view.initial_versions(kind),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Applies a response and returns its acknowledgement, which names what was refused.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let Some(kind) = ResourceKind::of_type_url(&response.type_url) else {
            let message = "this type was not asked for".to_owned();
            tracing::warn!(
                type_url = response.type_url.chars().take(200).collect::<String>(),
                message
            );
            answer.error_detail = Some(refusal(message));
            return answer;
        };
        let applied = self.view.apply(kind, &response);
        self.count(kind, &applied);
        let refused = describe(&applied.refused);
        let resources = self.view.count(kind);
        self.note_status(|status| {
            let of_type = status.types.entry(kind).or_default();
            of_type.answered = true;
            of_type.resources = resources;
            of_type.server_version = response.system_version_info.chars().take(200).collect();
            if !applied.refused.is_empty() {
                of_type.refused = applied
                    .refused
                    .iter()
                    .take(REFUSED_SHOWN)
                    .map(describe_one)
                    .collect();
            }
            if status.is_whole() && status.has_view() {
                status.origin = ViewOrigin::Server;
            }
        });
        if let Some(message) = refused {
            tracing::warn!(
                type_ = kind.label(),
                message,
                "resources of the xds-server are refused"
            );
            answer.error_detail = Some(refusal(message));
        }
        self.publish(applied.touched);
        answer
    }

    fn count(&self, kind: ResourceKind, applied: &Applied) {
        let (metrics, label) = (&self.metrics, kind.label());
        XdsMetrics::add(&metrics.responses, label, 1);
        XdsMetrics::add(&metrics.accepted, label, applied.accepted);
        XdsMetrics::add(&metrics.rejected, label, applied.refused.len());
        XdsMetrics::add(&metrics.removed, label, applied.removed);
        tracing::debug!(
            type_ = label,
            accepted = applied.accepted,
            removed = applied.removed,
            refused = applied.refused.len(),
            "response applied"
        );
    }
}

/// Ends a stream, whose last request was sent, in good order: to the server it is none that broke. What still comes is not taken, and
/// comes again.
async fn say_farewell(mut responses: Streaming<DeltaDiscoveryResponse>) {
    let ended = async { while let Ok(Some(_)) = responses.message().await {} };
    let _in_time: Result<(), _> = timeout(FAREWELL_TIMEOUT, ended).await;
}

/// Who asks, in the form that istiod expects of a node's proxy.
fn node(settings: &XdsSettings) -> Node {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let facts = [
        ("NODE_NAME", settings.node.as_str()),
        ("NAME", settings.node.as_str()),
        ("NAMESPACE", NAMESPACE),
        ("CLUSTER_ID", settings.cluster.as_str()),
    ];
    let fields = facts
        .into_iter()
        .map(|(key, value)| (key.to_owned(), text(value)))
        .collect();
    let (name, version) = (&settings.node, env!("CARGO_PKG_VERSION"));
    Node {
        id: format!("ztunnel~1.1.1.1~{name}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"),
        metadata: Some(Struct { fields }),
        user_agent_name: "tulle-node-proxy".to_owned(),
        user_agent_version: Some(UserAgentVersion::Text(version.to_owned())),
        ..Node::default()
    }
}

fn refusal(message: String) -> Status {
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// `name: reason; name: reason`, cut to a length that every server takes; `None` if nothing was refused.
fn describe(refused: &[Refused]) -> Option<String> {
    if refused.is_empty() {
        return None;
    }
    let mut shown: Vec<String> = refused
        .iter()
        .take(REFUSED_NAMED)
        .map(describe_one)
        .collect();
    if let Some(more) = refused
        .len()
        .checked_sub(REFUSED_NAMED)
        .filter(|more| *more > 0)
    {
        shown.push(format!("and {more} more"));
    }
    Some(shown.join("; "))
}

fn describe_one(refused: &Refused) -> String {
    let reason: String = refused.reason.to_string().chars().take(300).collect();
    format!("{}: {reason}", refused.name)
}

/// Why there is no stream any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum StreamError {
    /// No connection.
    #[error(transparent)]
    Open(#[from] OpenChannelError),
    /// The server or the connection ended it.
    #[error("the stream from the xds-server failed: {}", describe_status(.0))]
    Status(tonic::Status),
    /// The server closed it in good order.
    #[error("the xds-server closed the stream")]
    Closed,
    /// It ends before the certificate that it was opened with does.
    #[error("this node has a newer certificate")]
    Renewed,
    /// The server takes no requests.
    #[error("the xds-server takes no acknowledgements")]
    Stalled,
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        StreamError::Status(status)
    }
}

/// tonic hides what the connection said among the causes.
fn describe_status(status: &tonic::Status) -> String {
    let cause = status.source().map(crate::run::chain);
    let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    let message: String = status.message().chars().take(500).collect();
    format!("{:?}: {message}{cause}", status.code())
}

/// As ztunnel: a whole mesh may come in one message.
const RESPONSE_LEN_MAX: usize = 200 * 1024 * 1024;
/// Three first requests, and acknowledgements, of which there is one for each response.
const REQUESTS_MAX: usize = 16;
/// A round trip to a server that lives.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Resources that are named in one refusal; the message travels in one frame.
const REFUSED_NAMED: usize = 50;
/// Resources that the admin server shows.
const REFUSED_SHOWN: usize = 20;
/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// Where node proxies run.
const NAMESPACE: &str = "tulle-system";
