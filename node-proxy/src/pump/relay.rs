//! Carries bytes between two sockets: connections that travel outside of tunnels.

use std::{
    future::{Future, poll_fn},
    io::{ErrorKind, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Sleep;

use super::{
    AppSocket, Joiner, PumpContext, PumpEnd,
    buffer::{BufferClass, PooledBuffer},
    join::JoinTurn,
    socket::FillEnd,
    turn::Carried,
};

/// Carries bytes between the pod's application and another socket; the same promises as [`pump`](super::pump()).
///
/// Dropping the future resets both connections.
pub async fn relay(application: AppSocket, other: AppSocket, context: &PumpContext) -> PumpEnd {
    let mut state = RelayState::default();
    let verdict = {
        let mut application_broken = pin!(application.broken());
        let mut other_broken = pin!(other.broken());
        poll_fn(|cx| {
            let (a, b) = (&application, &other);
            if let Some(end) = state.poll(cx, a, b, context) {
                return Poll::Ready(end);
            }
            let mut news = false;
            if !state.application_gone && application_broken.as_mut().poll(cx).is_ready() {
                state.application_gone = true;
                news = true;
            }
            if !state.other_gone && other_broken.as_mut().poll(cx).is_ready() {
                state.other_gone = true;
                news = true;
            }
            if news && let Some(end) = state.poll(cx, a, b, context) {
                return Poll::Ready(end);
            }
            state.poll_deadline(cx, context)
        })
        .await
    };
    match verdict {
        PumpEnd::Clean => {
            application.finish();
            other.finish();
        }
        PumpEnd::ApplicationReset => other.reset(context.reset_flush_timeout).await,
        PumpEnd::PeerReset | PumpEnd::TunnelLost | PumpEnd::TunnelBroken => {
            application.reset(context.reset_flush_timeout).await;
        }
    }
    verdict
}

#[derive(Default)]
struct RelayState {
    up: Half,
    down: Half,
    application_gone: bool,
    other_gone: bool,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl RelayState {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        application: &AppSocket,
        other: &AppSocket,
        context: &PumpContext,
    ) -> Option<PumpEnd> {
        let up = Way {
            from: application,
            to: other,
            count: &context.sent,
            joiner: context.joiner.as_ref(),
        };
        match self.up.poll(cx, &up, context, self.application_gone) {
            Poll::Pending | Poll::Ready(HalfEnd::Finished) => {}
            Poll::Ready(HalfEnd::SourceGone) => self.application_gone = true,
            Poll::Ready(HalfEnd::SinkGone) => self.other_gone = true,
        }
        let down = Way {
            from: other,
            to: application,
            count: &context.received,
            joiner: None,
        };
        match self.down.poll(cx, &down, context, self.other_gone) {
            Poll::Pending | Poll::Ready(HalfEnd::Finished) => {}
            Poll::Ready(HalfEnd::SourceGone) => self.other_gone = true,
            Poll::Ready(HalfEnd::SinkGone) => self.application_gone = true,
        }
        let (sent, received) = (self.up.done, self.down.done);
        if self.other_gone && received {
            return Some(PumpEnd::PeerReset);
        }
        if self.application_gone && sent {
            return Some(PumpEnd::ApplicationReset);
        }
        (sent && received).then_some(PumpEnd::Clean)
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>, context: &PumpContext) -> Poll<PumpEnd> {
        if !self.application_gone && !self.other_gone {
            return Poll::Pending;
        }
        let end = if self.other_gone {
            PumpEnd::PeerReset
        } else {
            PumpEnd::ApplicationReset
        };
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(context.reset_flush_timeout)));
        deadline.as_mut().poll(cx).map(|()| end)
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    class: BufferClass,
    /// Bytes that the sink has not taken yet; nothing more is read meanwhile.
    pending: Option<Pending>,
    end: Option<HalfEnd>,
    join: JoinTurn,
    done: bool,
}

struct Pending {
    buffer: PooledBuffer,
    start: usize,
    end: usize,
}

#[derive(Clone, Copy)]
enum HalfEnd {
    Finished,
    SourceGone,
    SinkGone,
}

struct Way<'a> {
    from: &'a AppSocket,
    to: &'a AppSocket,
    count: &'a Counter,
    /// For the way that begins at the pod's own application.
    joiner: Option<&'a Joiner>,
}

impl Half {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        way: &Way<'_>,
        context: &PumpContext,
        source_gone: bool,
    ) -> Poll<HalfEnd> {
        if self.done {
            return Poll::Pending;
        }
        let end = ready!(self.carry(cx, way, context, source_gone));
        self.done = true;
        self.pending = None;
        Poll::Ready(end)
    }

    fn carry(
        &mut self,
        cx: &mut Context<'_>,
        way: &Way<'_>,
        context: &PumpContext,
        source_gone: bool,
    ) -> Poll<HalfEnd> {
        let mut carried = Carried::default();
        loop {
            if self.pending.is_some() {
                if ready!(self.write_pending(cx, way)).is_err() {
                    return Poll::Ready(HalfEnd::SinkGone);
                }
                continue;
            }
            match self.end {
                Some(HalfEnd::Finished) => {
                    let told = way.to.shutdown_write().is_ok();
                    return Poll::Ready(if told {
                        HalfEnd::Finished
                    } else {
                        HalfEnd::SinkGone
                    });
                }
                Some(end) => return Poll::Ready(end),
                None => {}
            }
            if carried.is_enough(cx) {
                return Poll::Pending;
            }
            if ready!(way.from.poll_read_ready(cx)).is_err() {
                return Poll::Ready(HalfEnd::SourceGone);
            }
            let mut buffer = context.buffers.take(self.class);
            let (len, end) = way.from.fill(&mut buffer);
            if len >= BufferClass::Small.size() {
                self.class = BufferClass::Large;
            } else if len < BufferClass::Small.size() / 2 {
                self.class = BufferClass::Small;
            }
            if len > 0 {
                way.count.inc_by(len as u64);
                carried.count(len);
                self.join.count(way.from, way.joiner);
                self.pending = Some(Pending {
                    buffer,
                    start: 0,
                    end: len,
                });
            }
            self.end = match end {
                FillEnd::Empty | FillEnd::Full => None,
                FillEnd::Finished if !source_gone => Some(HalfEnd::Finished),
                FillEnd::Finished | FillEnd::Broken => Some(HalfEnd::SourceGone),
            };
        }
    }

    fn write_pending(&mut self, cx: &mut Context<'_>, way: &Way<'_>) -> Poll<std::io::Result<()>> {
        while let Some(pending) = &mut self.pending {
            let bytes = pending
                .buffer
                .get(pending.start..pending.end)
                .unwrap_or_default();
            match way.to.try_write(&[IoSlice::new(bytes)]) {
                Ok(len) => pending.start += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    ready!(way.to.poll_write_ready(cx))?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
            if pending.start >= pending.end {
                self.pending = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}
