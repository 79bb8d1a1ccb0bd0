//! Connections on which policy wants to see more than their ends: carried by the HTTP layer instead of the pump.
//!
//! Both ends of a connection pass here, the source's and the destination's; what policy thinks is asked of the connection's own
//! judge, so that a rule that changes counts for the next request.

mod sides;

use std::sync::{Arc, Mutex, PoisonError};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use tulle_policy::compiled::{HttpFacts, Outcome, RequestFacts, ServerName};

use crate::{
    http::{Ended, Http, HttpCounters, HttpVerdict, NameVerdict, RequestJudge, serve},
    plane::{Direction, Plane},
    pod::Pod,
    policy::Judge,
    pump::{AppSocket, PumpContext, PumpEnd, pump, relay},
    tunnel::{LaneStream, TunnelStream},
};
use sides::{application_side, lane_side, other_side, tunnel_side};

/// Carries a connection between the pod's application and a tunnel: by the pump, or by its requests where a judge is given.
///
/// Resolves to the name of the end in metrics. Dropping the future cuts the connection.
pub(crate) fn carry_tunnel(
    pod: &Pod,
    application: AppSocket,
    stream: TunnelStream,
    opened_by: Client,
    judge: Option<Arc<Judge>>,
) -> impl Future<Output = &'static str> + Send {
    match judge {
        None => {
            Either::Left(pump(application, stream, opened_by.context(pod)).map(PumpEnd::reason))
        }
        // Boxed: most connections are pumped, and need not have room for this.
        Some(judge) => Either::Right(Box::pin(judge_tunnel(
            pod,
            application,
            stream,
            opened_by,
            judge,
        ))),
    }
}

/// The same, between the pod's application and another socket.
pub(crate) fn carry_plain(
    pod: &Pod,
    application: AppSocket,
    other: AppSocket,
    opened_by: Client,
    judge: Option<Arc<Judge>>,
) -> impl Future<Output = &'static str> + Send {
    match judge {
        None => {
            Either::Left(relay(application, other, opened_by.context(pod)).map(PumpEnd::reason))
        }
        Some(judge) => Either::Right(Box::pin(judge_plain(
            pod,
            application,
            other,
            opened_by,
            judge,
        ))),
    }
}

async fn judge_tunnel(
    pod: &Pod,
    application: AppSocket,
    stream: TunnelStream,
    opened_by: Client,
    judge: Arc<Judge>,
) -> &'static str {
    let context = opened_by.context(pod);
    let counters = opened_by.counters(pod);
    let http = http(&pod.plane, &*judge, &counters);
    let near = application_side(&application, context);
    let ended = match stream {
        TunnelStream::Hbone(stream) => {
            let far = tunnel_side(stream, context);
            match opened_by {
                Client::Application => serve(near, far, http).await,
                Client::Peer => serve(far, near, http).await,
            }
        }
        TunnelStream::Lane(stream) => {
            let shared = Arc::new(Mutex::new(stream));
            let far = lane_side(&shared);
            let ended = match opened_by {
                Client::Application => serve(near, far, http).await,
                Client::Peer => serve(far, near, http).await,
            };
            give_back(shared);
            ended
        }
    };
    close(application, opened_by.is_orderly_here(ended), context).await;
    ended.reason()
}

/// A lane whose session ended well carries the next one.
fn give_back(shared: Arc<Mutex<LaneStream>>) {
    if let Some(stream) = Arc::into_inner(shared) {
        stream
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .give_back();
    }
}

async fn judge_plain(
    pod: &Pod,
    application: AppSocket,
    other: AppSocket,
    opened_by: Client,
    judge: Arc<Judge>,
) -> &'static str {
    let context = opened_by.context(pod);
    let counters = opened_by.counters(pod);
    let http = http(&pod.plane, &*judge, &counters);
    let near = application_side(&application, context);
    let far = other_side(&other);
    let ended = match opened_by {
        Client::Application => serve(near, far, http).await,
        Client::Peer => serve(far, near, http).await,
    };
    let here = opened_by.is_orderly_here(ended);
    let there = opened_by.is_orderly_there(ended);
    tokio::join!(
        close(application, here, context),
        close(other, there, context)
    );
    ended.reason()
}

impl RequestJudge for Judge {
    fn judge(&self, request: &HttpFacts<'_>) -> HttpVerdict {
        let verdict = self.request(&RequestFacts::Http(*request));
        match verdict.outcome {
            Outcome::Allow => HttpVerdict::Allow {
                edits: verdict.edits,
            },
            // What a request does not answer, nothing will.
            Outcome::Deny | Outcome::NeedsL7(_) => HttpVerdict::Deny {
                policy: verdict.because.to_string(),
            },
        }
    }

    fn judge_server_name(&self, name: ServerName<'_>) -> NameVerdict {
        let verdict = self.server_name(name);
        match verdict.outcome {
            Outcome::NeedsL7(needs) if needs.http => NameVerdict::Requests,
            Outcome::Allow if verdict.audits_requests && name == ServerName::Absent => {
                NameVerdict::Audited
            }
            Outcome::Allow => NameVerdict::Pass,
            Outcome::Deny | Outcome::NeedsL7(_) => NameVerdict::Deny,
        }
    }

    fn watch<'a>(&'a self, is_over: Box<dyn FnMut() -> bool + Send + 'a>) -> BoxFuture<'a, ()> {
        Box::pin(self.wait_until(is_over))
    }
}

fn http<'a>(plane: &'a Plane, judge: &'a dyn RequestJudge, metrics: &'a HttpCounters) -> Http<'a> {
    Http {
        settings: &plane.settings.http,
        judge,
        metrics,
    }
}

async fn close(socket: AppSocket, is_orderly: bool, context: &PumpContext) {
    match is_orderly {
        true => socket.finish(),
        false => socket.reset(context.reset_flush_timeout).await,
    }
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The pod's application.
    Application,
    /// Whoever is at the far end.
    Peer,
}

impl Client {
    fn context(self, pod: &Pod) -> &PumpContext {
        match self {
            Client::Application => &pod.outbound,
            Client::Peer => &pod.inbound,
        }
    }

    fn counters(self, pod: &Pod) -> HttpCounters {
        pod.plane.metrics.http.of(match self {
            Client::Application => Direction::Outbound,
            Client::Peer => Direction::Inbound,
        })
    }

    fn is_orderly_here(self, ended: Ended) -> bool {
        match self {
            Client::Application => ended.is_orderly_downstream(),
            Client::Peer => ended.is_orderly_upstream(),
        }
    }

    fn is_orderly_there(self, ended: Ended) -> bool {
        match self {
            Client::Application => ended.is_orderly_upstream(),
            Client::Peer => ended.is_orderly_downstream(),
        }
    }
}
