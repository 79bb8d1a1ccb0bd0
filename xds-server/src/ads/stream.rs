//! One client's stream: reads its requests, follows the snapshots, sends updates in parts as fast as the client takes them.
//!
//! The only queue is `outbox`, whose entries point into shared snapshots; while it is not empty no newer snapshot is looked
//! at, so a slow client costs pointers and later gets the newest state in one step.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tulle_wire::{
    ValueKind,
    xds::{ControlPlane, DeltaDiscoveryRequest, Node},
};

use super::{
    entrance::Entrance,
    reader::{Credential, RefuseReaderError},
    subscription::{Subscription, Update},
};
use crate::{
    management::{NodeBoard, StreamLine},
    metrics::Metrics,
    snapshot::{ResourceType, Snapshot},
};

/// `DeltaDiscoveryResponse` whose resources are encoded already: on the wire, bytes and an embedded message look the same.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncodedResponse {
    /// The revision of the snapshot, for people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// Encoded `Resource`s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// Of which type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the acknowledgement must repeat.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names of what is gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who answers.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
    /// More of the same answer follows; see [`tulle_wire::xds::DeltaDiscoveryResponse`].
    #[prost(bool, tag = "1000")]
    pub is_continued: bool,
}

/// What a stream needs of its surroundings.
pub(super) struct StreamContext {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    pub(super) identifier: Arc<str>,
    pub(super) nodes: Arc<NodeBoard>,
    pub(super) address: Option<SocketAddr>,
    /// Cancelled when the certificate that the client showed is over.
    pub(super) expired: CancellationToken,
    /// What the client must go on to hold, if it came with no certificate.
    pub(super) credential: Option<Credential>,
    /// Where whoever asks for everything waits.
    pub(super) entrance: Entrance,
}

/// Serves one stream to its end; errors go to the client as the stream's status.
pub(super) async fn drive(
    context: StreamContext,
    requests: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin,
    responses: mpsc::Sender<Result<EncodedResponse, Status>>,
) {
    let metrics = Arc::clone(&context.metrics);
    metrics.xds_streams.inc();
    let mut session = Session::new(context);
    if let Err(status) = session.run(requests, &responses).await {
        tracing::info!(
            client = session.client(),
            "stream ends: {}",
            status.message()
        );
        // A client that is gone needs no status.
        drop(responses.send(Err(status)).await);
    }
    metrics.xds_streams.dec();
}

struct Session {
    context: StreamContext,
    node: Option<Node>,
    line: Option<StreamLine>,
    types: BTreeMap<ResourceType, TypeSession>,
    outbox: VecDeque<Outgoing>,
    nonces: u64,
    unknown_types: BTreeSet<String>,
}

struct TypeSession {
    subscription: Subscription,
    last_nonce: Option<String>,
    last_revision: u64,
}

struct Outgoing {
    kind: ResourceType,
    update: Update,
}

impl Session {
    fn new(context: StreamContext) -> Self {
        Session {
            context,
            node: None,
            line: None,
            types: BTreeMap::new(),
            outbox: VecDeque::new(),
            nonces: 0,
            unknown_types: BTreeSet::new(),
        }
    }

    async fn run(
        &mut self,
        mut requests: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin,
        responses: &mpsc::Sender<Result<EncodedResponse, Status>>,
    ) -> Result<(), Status> {
        let (stop, expired) = (self.context.stop.clone(), self.context.expired.clone());
        let mut visit = self.context.entrance.visit();
        let mut snapshots = self.context.snapshots.clone();
        // Before the source has told everything, an answer would take away what the client still needs.
        tokio::select! { // Cancel-safe: both arms only wait.
            ready = snapshots.wait_for(|s| s.ready) => drop(ready.map_err(|_| going_away())?),
            () = stop.cancelled() => return Err(going_away()),
            () = expired.cancelled() => return Err(connect_anew()),
        }
        // Before the first answer, and then again and again.
        self.check_credential().await?;
        let mut checks = interval_at(
            Instant::now() + CREDENTIAL_CHECK_INTERVAL,
            CREDENTIAL_CHECK_INTERVAL,
        );
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let quiet = self.outbox.is_empty();
            let takes_requests = self.outbox.len() < OUTBOX_LEN_MAX && !visit.is_waiting();
            tokio::select! { // All arms are cancel-safe: a request, a permit or a change is taken whole or not at all.
                () = stop.cancelled() => return Err(going_away()),
                () = expired.cancelled() => return Err(connect_anew()),
                _ = checks.tick(), if self.context.credential.is_some() => self.check_credential().await?,
                request = visit.admitted() => {
                    self.handle_request(&request, &snapshots.borrow().clone())?;
                }
                permit = responses.reserve(), if !quiet => {
                    let permit = permit.map_err(|_| Status::cancelled("the client is gone"))?;
                    if let Some(response) = self.next_response() {
                        permit.send(Ok(response));
                    }
                    if self.outbox.is_empty() {
                        visit.leave();
                    }
                }
                request = requests.next(), if takes_requests => match request {
                    Some(Ok(request)) => {
                        let snapshot = snapshots.borrow().clone();
                        if let Some(request) = visit.put_aside(request, &snapshot) {
                            self.handle_request(&request, &snapshot)?;
                        }
                    }
                    Some(Err(status)) => {
                        self.context.metrics.count_stream_error(&status);
                        return Err(status);
                    }
                    None => return Ok(()),
                },
                changed = snapshots.changed(), if quiet => {
                    changed.map_err(|_| going_away())?;
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.follow(&snapshot);
                }
            }
        }
    }

    async fn check_credential(&self) -> Result<(), Status> {
        let Some(credential) = &self.context.credential else {
            return Ok(());
        };
        let snapshot = Arc::clone(&self.context.snapshots.borrow());
        credential.check(&snapshot).await.map_err(|error| {
            self.context.metrics.count_refused_stream(error.reason());
            error.into_status()
        })
    }

    fn handle_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(), Status> {
        if self.node.is_none() {
            let node = request.node.clone();
            self.node = Some(node.ok_or_else(|| {
                Status::invalid_argument("the first request of a stream must carry the node")
            })?);
            // What a token proves counts for more than what the client says of itself.
            let proven = self
                .context
                .credential
                .as_ref()
                .map(|c| c.node().to_owned());
            let name = proven.or_else(|| self.node.as_ref().map(node_name));
            let name = name.unwrap_or_default();
            self.line = Some(self.context.nodes.open(&name, self.context.address));
            tracing::info!(client = self.client(), "stream begins");
        }
        let Some(kind) = ResourceType::of_url(&request.type_url) else {
            self.note_unknown_type(&request.type_url);
            return Ok(());
        };
        self.context.metrics.count_request(kind);
        if let Some(known) = self.types.get(&kind) {
            self.note_acknowledgement(kind, known, request);
        }
        // A stale nonce makes only the acknowledgement stale; the change of subscription counts all the same.
        let update = match self.types.get_mut(&kind) {
            Some(known) => known.subscription.change(request, snapshot),
            None => Subscription::first(kind, request, snapshot).map(|(subscription, update)| {
                self.types.insert(
                    kind,
                    TypeSession {
                        subscription,
                        last_nonce: None,
                        last_revision: 0,
                    },
                );
                Some(update)
            }),
        };
        let update = update.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        self.outbox
            .extend(update.map(|update| Outgoing { kind, update }));
        Ok(())
    }

    /// The mesh changed: roots and policies go before the workloads that need them, policies leave after them.
    fn follow(&mut self, snapshot: &Snapshot) {
        let mut late = None;
        for (kind, session) in &mut self.types {
            let Some(mut update) = session.subscription.refresh(snapshot) else {
                continue;
            };
            if *kind == ResourceType::Authorization && !update.removed.is_empty() {
                let removed = std::mem::take(&mut update.removed);
                late = Some(Outgoing {
                    kind: *kind,
                    update: Update {
                        removed,
                        ..Update::default()
                    },
                });
                if update.is_empty() {
                    continue;
                }
            }
            self.outbox.push_back(Outgoing {
                kind: *kind,
                update,
            });
        }
        self.outbox.extend(late);
    }

    fn next_response(&mut self) -> Option<EncodedResponse> {
        let outgoing = self.outbox.front_mut()?;
        let kind = outgoing.kind;
        let (puts, removed) = outgoing.update.next_part();
        let is_continued = !outgoing.update.is_empty();
        if !is_continued {
            self.outbox.pop_front();
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let revision = self.context.snapshots.borrow().revision;
        if let Some(session) = self.types.get_mut(&kind) {
            session.last_nonce = Some(nonce.clone());
            session.last_revision = revision;
        }
        self.tell(StreamLine::note_sent);
        self.context
            .metrics
            .count_response(kind, puts.len(), removed.len());
        Some(EncodedResponse {
            system_version_info: revision.to_string(),
            resources: puts.iter().map(|e| e.bytes.clone()).collect(),
            type_url: kind.url().to_owned(),
            nonce,
            removed_resources: removed.iter().map(|n| n.to_string()).collect(),
            control_plane: Some(ControlPlane {
                identifier: self.context.identifier.to_string(),
            }),
            is_continued,
        })
    }

    fn note_acknowledgement(
        &self,
        kind: ResourceType,
        known: &TypeSession,
        request: &DeltaDiscoveryRequest,
    ) {
        if let Some(error) = &request.error_detail {
            // Not sent again until it changes: the client has said that it cannot use it.
            self.context.metrics.count_nack(kind);
            let message: String = error.message.chars().take(NACK_MESSAGE_LEN_MAX).collect();
            self.tell(|line| line.note_refused(&message));
            tracing::warn!(
                client = self.client(),
                kind = kind.label(),
                nonce = request.response_nonce,
                "the client refuses a response: {message}"
            );
        } else if !request.response_nonce.is_empty() {
            let last = known.last_nonce.as_deref() == Some(request.response_nonce.as_str());
            self.tell(|line| line.note_acknowledged(last.then_some(known.last_revision)));
            if last {
                self.context.metrics.count_ack(kind);
            } else {
                self.context.metrics.count_stale_ack(kind);
            }
        }
    }

    fn tell(&self, note: impl FnOnce(&StreamLine)) {
        if let Some(line) = &self.line {
            note(line);
        }
    }

    fn note_unknown_type(&mut self, url: &str) {
        self.context.metrics.xds_unknown_types.inc();
        let url: String = url.chars().take(TYPE_URL_LEN_MAX).collect();
        if self.unknown_types.len() < UNKNOWN_TYPES_MAX && self.unknown_types.insert(url.clone()) {
            tracing::info!(
                client = self.client(),
                "the client asks for {url:?}, which is not served"
            );
        }
    }

    fn client(&self) -> &str {
        let id = self.node.as_ref().map_or("unknown", |n| n.id.as_str());
        id.get(..NODE_ID_LEN_MAX).unwrap_or(id)
    }
}

/// The node that a proxy looks after: what it says of itself, or else its own name.
fn node_name(node: &Node) -> String {
    let fields = node.metadata.as_ref().map(|m| &m.fields);
    let name = fields.and_then(|f| match f.get("NODE_NAME")?.kind.as_ref()? {
        ValueKind::StringValue(name) => Some(name.as_str()),
        _ => None,
    });
    let name = name.unwrap_or(&node.id);
    name.chars().take(NODE_ID_LEN_MAX).collect()
}

fn going_away() -> Status {
    Status::unavailable("the server is going away")
}

fn connect_anew() -> Status {
    RefuseReaderError::Expired.into_status()
}

/// Answers that may wait for a client that does not read; then its requests wait too.
const OUTBOX_LEN_MAX: usize = 16;
const UNKNOWN_TYPES_MAX: usize = 16;
const TYPE_URL_LEN_MAX: usize = 256;
const NACK_MESSAGE_LEN_MAX: usize = 1024;
const NODE_ID_LEN_MAX: usize = 256;
/// How long a token that is withdrawn may still be read by.
const CREDENTIAL_CHECK_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod scale;
#[cfg(test)]
mod tests;
