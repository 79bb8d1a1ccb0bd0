//! Who is told the whole mesh now, and who waits for it.
//!
//! After a restart of the server, or of many nodes, everybody asks for everything at once. Served at once, a thousand nodes get a
//! thousandth of the server's time each: all are late, and connections time out halfway and begin again from nothing (seen with 1,000
//! nodes and 100,000 endpoints: half of what was sent was lost so). So whole views are sent to a few at a time, in the order in which they
//! were asked for; whoever waits costs the server nothing but his question. What is small, such as any change, and all that a node lacks
//! that comes back, never waits. istiod bounds the number of pushes too, but computes each of them for each of its clients.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tulle_wire::xds::DeltaDiscoveryRequest;

use crate::snapshot::{ResourceType, Snapshot};

/// The places of those who are being told everything; one for all streams.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    places: Arc<Semaphore>,
    waiting: Gauge,
}

/// Where one stream stands.
pub(super) struct Visit {
    entrance: Entrance,
    state: State,
}

enum State {
    Outside,
    Waiting {
        request: Box<DeltaDiscoveryRequest>,
        place: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
        _counted: Counted,
    },
    Inside {
        _place: Option<OwnedSemaphorePermit>,
        until: Instant,
    },
}

impl Entrance {
    /// `waiting` says how many wait.
    pub(super) fn new(waiting: Gauge) -> Self {
        Entrance::with_places(PLACES, waiting)
    }

    fn with_places(places: usize, waiting: Gauge) -> Self {
        Entrance {
            places: Arc::new(Semaphore::new(places)),
            waiting,
        }
    }

    /// For one stream.
    pub(super) fn visit(&self) -> Visit {
        Visit {
            entrance: self.clone(),
            state: State::Outside,
        }
    }
}

impl Visit {
    /// Whether a request is put aside: later ones must wait as well.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Puts a request aside whose answer is large and needs a place; gives any other one back.
    pub(super) fn put_aside(
        &mut self,
        request: DeltaDiscoveryRequest,
        snapshot: &Snapshot,
    ) -> Option<DeltaDiscoveryRequest> {
        if matches!(self.state, State::Inside { .. }) || !is_large(&request, snapshot) {
            return Some(request);
        }
        let places = Arc::clone(&self.entrance.places);
        self.state = State::Waiting {
            request: Box::new(request),
            place: Box::pin(async move { places.acquire_owned().await.ok() }),
            _counted: Counted::new(&self.entrance.waiting),
        };
        None
    }

    /// The request that was put aside, once there is a place for its answer. Gives the place to others when it was used for long.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped, not even the place in the queue.
    pub(super) async fn admitted(&mut self) -> DeltaDiscoveryRequest {
        loop {
            match &mut self.state {
                State::Outside => std::future::pending().await,
                State::Waiting { place, .. } => {
                    let place = place.await;
                    let until = Instant::now() + STAY_MAX;
                    let inside = State::Inside {
                        _place: place,
                        until,
                    };
                    if let State::Waiting { request, .. } =
                        std::mem::replace(&mut self.state, inside)
                    {
                        return *request;
                    }
                }
                State::Inside { until, .. } => {
                    sleep_until(*until).await;
                    self.state = State::Outside;
                }
            }
        }
    }

    /// Everything was sent.
    pub(super) fn leave(&mut self) {
        if matches!(self.state, State::Inside { .. }) {
            self.state = State::Outside;
        }
    }
}

/// Whether the client asks for more than it could be sent at any time.
fn is_large(request: &DeltaDiscoveryRequest, snapshot: &Snapshot) -> bool {
    let Some(kind) = ResourceType::of_url(&request.type_url) else {
        return false;
    };
    // An acknowledgement asks for nothing.
    let asks = request.response_nonce.is_empty() || !request.resource_names_subscribe.is_empty();
    let names = &request.resource_names_subscribe;
    let wants_all = names.is_empty() || names.iter().any(|name| name == "*");
    let count = match wants_all {
        true => snapshot.resources(kind).len(),
        false => names.len(),
    };
    asks && count.saturating_sub(request.initial_resource_versions.len()) > SMALL_LEN_MAX
}

/// One of those who wait, as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Whole views that are on the way at once: enough to keep all cores and links busy while some clients are slow.
const PLACES: usize = 8;
/// Resources that are sent to anybody at any time: about two megabytes.
const SMALL_LEN_MAX: usize = 4096;
/// Whoever takes longer goes on beside those who come next: a slow client keeps nobody waiting for longer.
const STAY_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
