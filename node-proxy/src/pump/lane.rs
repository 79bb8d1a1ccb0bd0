//! Carries bytes between an application's socket and a lane, in one task and without a copy of our own.
//!
//! What the socket reads lies where its records will be sealed; what the lane reads is opened in place and written from there. The
//! promises are those of [`pump`](super::pump()).

use std::{
    future::{Future, poll_fn},
    io::{ErrorKind, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::time::Sleep;

use super::{
    AppSocket, PumpContext, PumpEnd, buffer::BufferClass, join::JoinTurn, socket::FillEnd,
    turn::Carried,
};
use crate::tunnel::{Lane, LaneEnd, LaneError, LaneStream, PLAIN_MAX};

/// The same as [`pump`](super::pump()), over a lane.
pub(super) async fn pump_lane(
    socket: AppSocket,
    mut stream: LaneStream,
    context: &PumpContext,
) -> PumpEnd {
    let verdict = {
        let mut state = State::default();
        let lane = &mut *stream.lane;
        let mut broken = pin!(socket.broken());
        poll_fn(|cx| state.poll(cx, &socket, lane, broken.as_mut(), context)).await
    };
    let patience = context.reset_flush_timeout;
    match verdict {
        PumpEnd::Clean => {
            socket.finish();
            stream.give_back();
        }
        PumpEnd::ApplicationReset => {
            drop(socket);
            Box::pin(stream.end_by_reset(patience)).await;
        }
        PumpEnd::PeerReset => {
            Box::pin(async {
                tokio::join!(socket.reset(patience), stream.end_by_reset(patience));
            })
            .await;
        }
        PumpEnd::TunnelLost | PumpEnd::TunnelBroken => {
            drop(stream);
            Box::pin(socket.reset(patience)).await;
        }
    }
    verdict
}

#[derive(Default)]
struct State {
    class: BufferClass,
    join: JoinTurn,
    /// Everything of the application is in the lane.
    sent: bool,
    /// The application's bytes ended, cleanly or not; what is sealed has yet to leave.
    source_end: Option<SourceEnd>,
    /// Everything of the peer is with the application.
    received: bool,
    /// The application's side broke: no more bytes can reach it, and its end is not a clean one.
    socket_gone: bool,
    lane_end: Option<LaneOutcome>,
    /// How long the surviving direction may still try to deliver.
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceEnd {
    Finished,
    Gone,
}

/// How the lane's session ended, when not by finishing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LaneOutcome {
    Reset,
    Lost,
    /// The peer sent what no honest peer sends.
    Broken,
}

impl State {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        lane: &mut Lane,
        broken: Pin<&mut impl Future<Output = ()>>,
        context: &PumpContext,
    ) -> Poll<PumpEnd> {
        self.poll_download(cx, socket, lane, context);
        self.poll_upload(cx, socket, lane, context);
        if !self.socket_gone && broken.poll(cx).is_ready() {
            self.socket_gone = true;
            // What the socket still holds is read before its end is believed.
            self.poll_upload(cx, socket, lane, context);
        }
        if let Some(end) = self.verdict() {
            return Poll::Ready(end);
        }
        self.poll_deadline(cx, context)
    }

    fn verdict(&self) -> Option<PumpEnd> {
        match self.lane_end {
            Some(LaneOutcome::Reset) => return Some(PumpEnd::PeerReset),
            Some(LaneOutcome::Lost) => return Some(PumpEnd::TunnelLost),
            Some(LaneOutcome::Broken) => return Some(PumpEnd::TunnelBroken),
            None => {}
        }
        if self.socket_gone && self.sent {
            return Some(PumpEnd::ApplicationReset);
        }
        (self.sent && self.received).then_some(PumpEnd::Clean)
    }

    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        lane: &mut Lane,
        context: &PumpContext,
    ) {
        if self.lane_end.is_some() {
            return;
        }
        if self.received {
            // The peer's bytes are complete; it may still say that it takes no more of ours.
            if !lane.has_sent_end()
                && let Poll::Ready(result) = lane.poll_reset(cx)
            {
                self.lane_end = Some(result.map_or_else(lost, |()| LaneOutcome::Reset));
            }
            return;
        }
        if self.socket_gone {
            return;
        }
        match download(cx, socket, lane, context) {
            Poll::Pending => {}
            Poll::Ready(Ok(LaneEnd::Finished)) => {
                self.received = true;
                if self.sent {
                    // Nothing is left to come: closing tells the application.
                    return;
                }
                match socket.shutdown_write() {
                    // Registers for what may still come.
                    Ok(()) => self.poll_download(cx, socket, lane, context),
                    Err(_) => self.socket_gone = true,
                }
            }
            Poll::Ready(Ok(LaneEnd::Reset)) => self.lane_end = Some(LaneOutcome::Reset),
            Poll::Ready(Err(DownloadError::Socket)) => self.socket_gone = true,
            Poll::Ready(Err(DownloadError::Lane(error))) => self.lane_end = Some(lost(error)),
        }
    }

    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        lane: &mut Lane,
        context: &PumpContext,
    ) {
        if self.sent || self.lane_end.is_some() {
            return;
        }
        match self.upload(cx, socket, lane, context) {
            Poll::Pending => {}
            Poll::Ready(Ok(end)) => {
                self.sent = true;
                self.socket_gone |= end == SourceEnd::Gone;
            }
            Poll::Ready(Err(error)) => self.lane_end = Some(lost(error)),
        }
    }

    fn upload(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        lane: &mut Lane,
        context: &PumpContext,
    ) -> Poll<Result<SourceEnd, LaneError>> {
        let mut carried = Carried::default();
        loop {
            // Room first, bytes second: what is not read stays in the socket, where it throttles the application.
            ready!(lane.poll_flush(cx))?;
            if let Some(end) = self.source_end {
                return Poll::Ready(Ok(end));
            }
            if carried.is_enough(cx) {
                return Poll::Pending;
            }
            if ready!(socket.poll_read_ready(cx)).is_err() {
                self.source_end = Some(SourceEnd::Gone);
                continue;
            }
            let mut buffer = context.buffers.take(self.class);
            let (len, end) = socket.fill_slots(&mut buffer);
            self.adapt(len);
            self.source_end = match end {
                FillEnd::Empty | FillEnd::Full => None,
                FillEnd::Finished if !self.socket_gone => Some(SourceEnd::Finished),
                FillEnd::Finished | FillEnd::Broken => Some(SourceEnd::Gone),
            };
            let finished = self.source_end == Some(SourceEnd::Finished);
            if len > 0 || finished {
                context.sent.inc_by(len as u64);
                carried.count(len);
                self.join.count(socket, context.joiner.as_ref());
                lane.send(buffer, len, finished)?;
            }
        }
    }

    /// A full small buffer announces a stream; a nearly empty large one its end.
    fn adapt(&mut self, len: usize) {
        if len >= FULL_LEN {
            self.class = BufferClass::Large;
        } else if len < FULL_LEN / 2 {
            self.class = BufferClass::Small;
        }
    }

    /// Bounds the time in which what the application sent before it broke may leave.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, context: &PumpContext) -> Poll<PumpEnd> {
        if !self.socket_gone {
            return Poll::Pending;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(context.reset_flush_timeout)));
        deadline
            .as_mut()
            .poll(cx)
            .map(|()| PumpEnd::ApplicationReset)
    }
}

enum DownloadError {
    Socket,
    Lane(LaneError),
}

/// Carries what the lane has to the application, up to the session's end.
fn download(
    cx: &mut Context<'_>,
    socket: &AppSocket,
    lane: &mut Lane,
    context: &PumpContext,
) -> Poll<Result<LaneEnd, DownloadError>> {
    let mut carried = Carried::default();
    loop {
        let mut slices = [IoSlice::new(&[]); PLAIN_MAX];
        let count = lane.arrived(&mut slices);
        if count == 0 {
            if let Some(end) = lane.received_end() {
                return Poll::Ready(Ok(end));
            }
            if carried.is_enough(cx) {
                return Poll::Pending;
            }
            ready!(lane.poll_receive(cx)).map_err(DownloadError::Lane)?;
            continue;
        }
        match socket.try_write(slices.get(..count).unwrap_or_default()) {
            Ok(len) => {
                context.received.inc_by(len as u64);
                carried.count(len);
                lane.consume(len);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if ready!(socket.poll_write_ready(cx)).is_err() {
                    return Poll::Ready(Err(DownloadError::Socket));
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Poll::Ready(Err(DownloadError::Socket)),
        }
    }
}

fn lost(error: LaneError) -> LaneOutcome {
    tracing::debug!(
        error = &error as &dyn std::error::Error,
        "a lane broke during a session"
    );
    match error.is_broken() {
        true => LaneOutcome::Broken,
        false => LaneOutcome::Lost,
    }
}

/// A small buffer's content.
const FULL_LEN: usize = crate::tunnel::LANE_CONTENT_LEN_MAX;
