//! Lanes to this pod: one session after the other, each judged as if it had come alone.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use tulle_identity::TlsStream;

use super::{
    DENIED, POLICY_CHANGED,
    hbone::{Admitted, Request, TunnelEnd, admit},
};
use crate::{
    judged::{Client, carry_tunnel},
    plane::{Direction, Security, TunnelSide},
    pod::Pod,
    tunnel::{
        Authority, Lane, LaneError, LaneHome, LaneStream, Preface, Refusal, TunnelIo, TunnelStream,
    },
};

/// Serves one lane until its peer closes it, or its session is over and the drain began or a certificate ended.
pub(super) async fn serve(pod: &Arc<Pod>, tls: TlsStream<TunnelIo>, end: TunnelEnd) {
    if let Err(error) = serve_sessions(pod, tls, end).await {
        tracing::debug!(pod = %pod.descriptor.name, error = &error as &dyn Error, "a peer's lane ended");
        if error.is_broken() {
            pod.plane
                .metrics
                .count_failed(Direction::Inbound, BROKEN_LANE);
        }
    }
}

async fn serve_sessions(
    pod: &Arc<Pod>,
    tls: TlsStream<TunnelIo>,
    end: TunnelEnd,
) -> Result<(), LaneError> {
    let plane = &pod.plane;
    let settings = &plane.settings;
    let mut lane = Lane::new(tls, end.term, plane, TunnelSide::Server)?;
    lane.greet().await?;
    let home = Arc::new(Home::default());
    loop {
        let idle_max = settings.lane_idle_max.min(end.term.left(plane.svids.now()));
        let next = lane.next_preface(settings.handshake_timeout);
        let preface = tokio::select! {
            // Whoever asks at this moment sees the lane close before an answer, and asks elsewhere.
            () = pod.tasks.draining() => return Ok(()),
            next = tokio::time::timeout(idle_max, next) => match next {
                Ok(preface) => preface?,
                Err(_idle_for_too_long) => return Ok(()),
            },
        };
        // The clock may have been set since.
        if end.term.is_over(plane.svids.now()) {
            return Ok(());
        }
        match carry(pod, &end, lane, preface, &home).await? {
            Some(free) => lane = free,
            None => return Ok(()),
        }
    }
}

/// One session from its first to its last byte; the lane, if another may follow.
async fn carry(
    pod: &Arc<Pod>,
    end: &TunnelEnd,
    mut lane: Box<Lane>,
    preface: Preface,
    home: &Arc<Home>,
) -> Result<Option<Box<Lane>>, LaneError> {
    let metrics = &pod.plane.metrics;
    let request = Request {
        authority: Authority::Address(preface.destination),
        client: Some(preface.client),
    };
    // Boxed: what is needed only until bytes flow must not live as long as the connection.
    let admitted = match Box::pin(admit(pod, end, &request)).await {
        Ok(admitted) => admitted,
        Err((refusal, reason)) => {
            metrics.count_failed(Direction::Inbound, reason);
            lane.refuse(refusal).await?;
            return Ok(Some(lane));
        }
    };
    let Admitted {
        application, judge, ..
    } = admitted;
    // Before the answer: from the first byte on, the connection ends when policy says so.
    let session = pod.sessions.open(judge);
    if !session.is_still_allowed() {
        metrics.count_failed(Direction::Inbound, DENIED);
        lane.refuse(Refusal::Denied).await?;
        return Ok(Some(lane));
    }
    lane.accept().await?;
    let home_of_lane: Arc<Home> = Arc::clone(home);
    let stream = TunnelStream::Lane(LaneStream::new(lane, home_of_lane));
    let _guard = metrics.stream_guard(TunnelSide::Server);
    let open = metrics.open_connection(Direction::Inbound, Security::MutualTls);
    // Boxed: it has room for a stream of HBONE as well, which this never is.
    let carrying = Box::pin(carry_tunnel(
        pod,
        application,
        stream,
        Client::Peer,
        session.request_judge(),
    ));
    let reason = tokio::select! {
        reason = carrying => reason,
        // What carries is dropped: both sides see a reset.
        () = session.forbidden() => POLICY_CHANGED,
    };
    open.end(reason);
    Ok(home.take())
}

/// Where the lane lies between two sessions.
#[derive(Default)]
struct Home(Mutex<Option<Box<Lane>>>);

impl Home {
    fn take(&self) -> Option<Box<Lane>> {
        let mut lane = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lane.take()
    }
}

impl LaneHome for Home {
    fn take_back(self: Arc<Self>, lane: Box<Lane>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(lane);
    }
}

/// Why a connection failed whose peer proved who it is and then broke `tulle/1`.
const BROKEN_LANE: &str = "lane";

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection costs its future for as long as it lives.
    #[test]
    fn the_future_of_a_session_is_small() {
        fn size<A, B, C, D, E, F>(_carry: impl FnOnce(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(carry);
        assert!(size <= 1024, "{size} bytes");
    }
}
