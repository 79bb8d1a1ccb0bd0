//! One stream of a tunnel, as two halves.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::{
    chunk::Chunk,
    lane::LaneStream,
    load::{BulkMeter, StreamLoad},
};

/// An open connection to the peer's application.
#[derive(Debug)]
pub enum TunnelStream {
    /// A stream of HTTP/2, beside others.
    Hbone(HboneStream),
    /// A session on a lane, alone.
    Lane(LaneStream),
}

/// An open stream: the peer has answered 200.
#[derive(Debug)]
pub struct HboneStream {
    /// Towards the peer.
    pub send: TunnelSend,
    /// From the peer.
    pub receive: TunnelReceive,
}

/// How a stream ended, when not by finishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The peer needs no more bytes; its own are complete (`RST_STREAM` with `NO_ERROR`).
    NotWanted,
    /// The peer's application reset, or its proxy gave up.
    Reset,
    /// The tunnel is gone.
    Lost,
}

impl StreamEnd {
    fn of(error: &h2::Error) -> Self {
        match error.reason() {
            _ if error.is_io() || error.is_go_away() => StreamEnd::Lost,
            Some(Reason::NO_ERROR) => StreamEnd::NotWanted,
            Some(_) => StreamEnd::Reset,
            None => StreamEnd::Lost,
        }
    }
}

/// The half that sends. Dropping it before the end cancels the stream.
#[derive(Debug)]
pub struct TunnelSend {
    inner: SendStream<Chunk>,
    load: Arc<StreamLoad>,
    meter: BulkMeter,
    is_waiting: bool,
}

impl TunnelSend {
    pub(super) fn new(inner: SendStream<Chunk>, load: Arc<StreamLoad>) -> Self {
        TunnelSend {
            inner,
            load,
            meter: BulkMeter::default(),
            is_waiting: false,
        }
    }

    /// Waits until the peer and the tunnel have room, and says how much of `wanted`.
    pub(crate) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, StreamEnd>> {
        self.inner.reserve_capacity(wanted);
        let room = self.inner.capacity();
        if room > 0 {
            self.set_waiting(false);
            return Poll::Ready(Ok(room));
        }
        let result = match self.inner.poll_capacity(cx) {
            Poll::Pending => {
                self.set_waiting(true);
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(room))) => Ok(room),
            Poll::Ready(Some(Err(error))) => Err(StreamEnd::of(&error)),
            Poll::Ready(None) => Err(self.end_now(cx)),
        };
        self.set_waiting(false);
        Poll::Ready(result)
    }

    /// Gives back room that was asked for and not used, for the tunnel's other streams.
    pub(crate) fn give_back_room(&mut self) {
        self.inner.reserve_capacity(0);
    }

    /// Sends a piece, and the end of the stream with it if `finished`.
    pub(crate) fn send(&mut self, mut chunk: Chunk, finished: bool) -> Result<(), StreamEnd> {
        let len = bytes::Buf::remaining(&chunk);
        chunk.account_to(&self.load);
        self.meter.count(len, &self.load);
        self.inner
            .send_data(chunk, finished)
            .map_err(|error| StreamEnd::of(&error))
    }

    /// Waits for the peer's reset.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        self.inner.poll_reset(cx).map(|result| match result {
            Ok(Reason::NO_ERROR) => StreamEnd::NotWanted,
            Ok(_) => StreamEnd::Reset,
            Err(error) => StreamEnd::of(&error),
        })
    }

    /// Waits until the tunnel has written everything.
    pub(crate) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.load.poll_flushed(cx)
    }

    /// Tells the peer that the application reset. What is still queued is lost: flush first.
    pub(crate) fn reset(mut self) {
        self.inner.send_reset(Reason::CONNECT_ERROR);
    }

    fn end_now(&mut self, cx: &mut Context<'_>) -> StreamEnd {
        match self.poll_end(cx) {
            Poll::Ready(end) => end,
            Poll::Pending => StreamEnd::Lost,
        }
    }

    fn set_waiting(&mut self, waiting: bool) {
        if waiting != self.is_waiting {
            self.is_waiting = waiting;
            if waiting {
                self.load.begin_wait()
            } else {
                self.load.end_wait()
            }
        }
    }
}

impl Drop for TunnelSend {
    fn drop(&mut self) {
        self.set_waiting(false);
    }
}

/// The half that receives.
#[derive(Debug)]
pub struct TunnelReceive {
    inner: RecvStream,
    load: Arc<StreamLoad>,
    meter: BulkMeter,
    /// Received and not delivered.
    held: usize,
}

impl TunnelReceive {
    pub(super) fn new(inner: RecvStream, load: Arc<StreamLoad>) -> Self {
        TunnelReceive {
            inner,
            load,
            meter: BulkMeter::default(),
            held: 0,
        }
    }

    /// The next bytes; `None` when the peer finished. The peer gets no room for them until
    /// [`TunnelReceive::give_back_room`] says that they were delivered.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamEnd>>> {
        self.inner.poll_data(cx).map(|next| match next {
            Some(Ok(bytes)) => {
                self.held += bytes.len();
                self.load.add_held(bytes.len());
                Some(Ok(bytes))
            }
            Some(Err(error)) => Some(Err(StreamEnd::of(&error))),
            None => None,
        })
    }

    /// Lets the peer send `len` bytes more.
    pub(crate) fn give_back_room(&mut self, len: usize) {
        self.meter.count(len, &self.load);
        self.held -= len;
        self.load.sub_held(len);
        // Refused only for more than was received, or after the stream's end, when nobody waits for room.
        let _given: Result<(), h2::Error> = self.inner.flow_control().release_capacity(len);
    }
}

impl Drop for TunnelReceive {
    fn drop(&mut self) {
        self.load.sub_held(self.held);
    }
}
