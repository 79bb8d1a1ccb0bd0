//! A session on a lane: opened by the client, taken by the server, and the lane given back when it is over.

use std::{future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use super::{Control, Kind, Lane, LaneEnd, LaneError, PREFACE_LEN_MAX, Preface};
use crate::tunnel::Refusal;

/// Where a lane goes when its session is over.
pub(crate) trait LaneHome: Send + Sync {
    /// Takes a lane on which another session may begin.
    fn take_back(self: Arc<Self>, lane: Box<Lane>);
}

/// An open session. Dropping it in its midst closes the lane, which the peer's application sees as a reset.
pub struct LaneStream {
    pub(crate) lane: Box<Lane>,
    home: Arc<dyn LaneHome>,
}

impl LaneStream {
    pub(crate) fn new(lane: Box<Lane>, home: Arc<dyn LaneHome>) -> Self {
        LaneStream { lane, home }
    }

    /// Gives the lane back if its session is over on both sides, else closes it.
    pub(crate) fn give_back(self) {
        if self.lane.is_free() {
            self.home.take_back(self.lane);
        }
    }

    /// Ends a session that one side has reset: tells the peer unless it knows, and waits until it has nothing more to say.
    ///
    /// Bytes that were sent before the reset leave before it. Whoever takes longer than `patience` loses the lane.
    pub(crate) async fn end_by_reset(mut self, patience: Duration) {
        let ended = tokio::time::timeout(patience, reset(&mut self.lane)).await;
        if let Ok(Ok(())) = ended {
            self.give_back();
        }
    }
}

impl std::fmt::Debug for LaneStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneStream")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

async fn reset(lane: &mut Lane) -> Result<(), LaneError> {
    flush(lane).await?;
    let peer_knows = lane.has_sent_end() && lane.received_end().is_some();
    if !peer_knows {
        let session = lane.session().to_be_bytes();
        lane.say(Kind::Reset, &session)?;
        flush(lane).await?;
    }
    loop {
        lane.discard_arrived();
        if lane.received_end().is_some() {
            return Ok(());
        }
        poll_fn(|cx| lane.poll_receive(cx)).await?;
    }
}

/// What came of asking for a session.
pub(crate) enum Opened {
    /// The application is connected.
    Session(Box<Lane>),
    /// The peer refuses; the lane is free again.
    Refused(Box<Lane>, u16),
}

impl Lane {
    /// Asks for a session. No byte of the application is sent before the answer.
    pub(crate) async fn open(
        mut self: Box<Self>,
        destination: std::net::SocketAddr,
        client: std::net::SocketAddr,
    ) -> Result<Opened, LaneError> {
        let session = self.session().wrapping_add(1);
        self.begin(session);
        let preface = Preface {
            session,
            destination,
            client,
        };
        let mut bytes = [0; PREFACE_LEN_MAX];
        let len = preface.encode(&mut bytes);
        self.say(Kind::Open, bytes.get(..len).unwrap_or_default())?;
        flush(&mut self).await?;
        match poll_fn(|cx| self.poll_control(cx)).await? {
            Control::Accept => Ok(Opened::Session(self)),
            Control::Refuse(code) => {
                self.end_refused();
                let status = status_of(code).ok_or(LaneError::UnknownKind(code))?;
                Ok(Opened::Refused(self, status))
            }
            other => Err(LaneError::Unexpected(other.kind())),
        }
    }

    /// Says that the lane stands, or waits until the server says so.
    pub(crate) async fn greet(&mut self) -> Result<(), LaneError> {
        self.say(Kind::Ready, &[])?;
        flush(self).await
    }

    pub(crate) async fn greeted(&mut self) -> Result<(), LaneError> {
        match poll_fn(|cx| self.poll_control(cx)).await? {
            Control::Ready => Ok(()),
            other => Err(LaneError::Unexpected(other.kind())),
        }
    }

    /// Waits for the next session. Once its first byte has come, the rest may take `patience`.
    pub(crate) async fn next_preface(&mut self, patience: Duration) -> Result<Preface, LaneError> {
        poll_fn(|cx| self.poll_arrived(cx)).await?;
        let control = tokio::time::timeout(patience, poll_fn(|cx| self.poll_control(cx)));
        let control = control
            .await
            .map_err(|_| LaneError::Io(io::ErrorKind::TimedOut.into()))??;
        let Control::Open(preface) = control else {
            return Err(LaneError::Unexpected(control.kind()));
        };
        let expected = self.session().wrapping_add(1);
        if preface.session != expected {
            return Err(LaneError::Session {
                found: preface.session,
                expected,
            });
        }
        self.begin(preface.session);
        Ok(preface)
    }

    /// Says that the application is connected.
    pub(crate) async fn accept(&mut self) -> Result<(), LaneError> {
        self.say(Kind::Accept, &[])?;
        flush(self).await
    }

    /// Refuses the session; the lane is free again.
    pub(crate) async fn refuse(&mut self, refusal: Refusal) -> Result<(), LaneError> {
        let code = match refusal {
            Refusal::BadRequest => 1,
            Refusal::Denied => 2,
            Refusal::Unavailable => 3,
        };
        self.say(Kind::Refuse, &[code])?;
        self.end_refused();
        flush(self).await
    }
}

/// The status by which HBONE says the same.
fn status_of(code: u8) -> Option<u16> {
    match code {
        1 => Some(400),
        2 => Some(401),
        3 => Some(503),
        _ => None,
    }
}

async fn flush(lane: &mut Lane) -> Result<(), LaneError> {
    poll_fn(|cx| match lane.poll_flush(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => Poll::Pending,
    })
    .await
}

impl LaneEnd {
    /// Whether the peer's bytes are complete.
    pub(crate) fn is_clean(self) -> bool {
        self == LaneEnd::Finished
    }
}
