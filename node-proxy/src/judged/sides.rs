//! The kinds of connection as streams of bytes: an application's socket, a tunnel's stream, and a session on a lane.
//!
//! Nothing is added to what they are elsewhere: no buffer, no task. Room in a tunnel is asked for before bytes are taken, and given
//! back when they are read.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use prometheus_client::metrics::counter::Counter;

use crate::{
    http::Side,
    pump::{AppSocket, BufferClass, BufferPool, PumpContext},
    tunnel::{
        Chunk, HboneStream, LANE_CONTENT_LEN_MAX, Lane, LaneError, LaneStream, PLAIN_MAX,
        StreamEnd, TunnelReceive, TunnelSend, slots,
    },
};

/// An application's socket as a side; its bytes are counted.
pub(super) fn application_side<'a>(
    socket: &'a AppSocket,
    context: &'a PumpContext,
) -> Side<SocketEnd<'a>, SocketEnd<'a>> {
    Side {
        reader: SocketEnd {
            socket,
            count: Some(&context.sent),
        },
        writer: SocketEnd {
            socket,
            count: Some(&context.received),
        },
    }
}

/// Another socket as a side.
pub(super) fn other_side(socket: &AppSocket) -> Side<SocketEnd<'_>, SocketEnd<'_>> {
    let end = || SocketEnd {
        socket,
        count: None,
    };
    Side {
        reader: end(),
        writer: end(),
    }
}

/// A tunnel's stream as a side.
pub(super) fn tunnel_side(
    stream: HboneStream,
    context: &PumpContext,
) -> Side<TunnelReader, TunnelWriter> {
    let HboneStream { send, receive } = stream;
    Side {
        reader: TunnelReader {
            receive,
            arrived: Bytes::new(),
        },
        writer: TunnelWriter {
            send,
            buffers: Arc::clone(&context.buffers),
            is_finished: false,
        },
    }
}

/// A lane's session as a side; who keeps `stream` can give the lane back afterwards.
pub(super) fn lane_side(stream: &Arc<Mutex<LaneStream>>) -> Side<LaneEnd, LaneEnd> {
    let end = || LaneEnd {
        stream: Arc::clone(stream),
    };
    Side {
        reader: end(),
        writer: end(),
    }
}

/// One direction of a socket.
#[derive(Debug)]
pub(super) struct SocketEnd<'a> {
    socket: &'a AppSocket,
    count: Option<&'a Counter>,
}

impl SocketEnd<'_> {
    fn count(&self, len: usize) {
        if let Some(count) = self.count {
            count.inc_by(len as u64);
        }
    }
}

impl AsyncRead for SocketEnd<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read(buffer.initialize_unfilled()) {
                Ok(len) => {
                    buffer.advance(len);
                    self.count(len);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for SocketEnd<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_write(&[IoSlice::new(bytes)]) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Ok(len) => {
                    self.count(len);
                    return Poll::Ready(Ok(len));
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown_write())
    }
}

/// What a peer sends through a tunnel.
#[derive(Debug)]
pub(super) struct TunnelReader {
    receive: TunnelReceive,
    arrived: Bytes,
}

impl AsyncRead for TunnelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.arrived.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(bytes)) => self.arrived = bytes,
                None | Some(Err(StreamEnd::NotWanted)) => return Poll::Ready(Ok(())),
                Some(Err(end)) => return Poll::Ready(Err(error(end))),
            }
        }
        let len = self.arrived.len().min(buffer.remaining());
        buffer.put_slice(self.arrived.get(..len).unwrap_or_default());
        self.arrived.advance(len);
        self.receive.give_back_room(len);
        Poll::Ready(Ok(()))
    }
}

/// What a peer is sent through a tunnel.
#[derive(Debug)]
pub(super) struct TunnelWriter {
    send: TunnelSend,
    buffers: Arc<BufferPool>,
    is_finished: bool,
}

impl TunnelWriter {
    fn send(&mut self, bytes: &[u8], finished: bool) -> io::Result<usize> {
        let class = match bytes.len() <= BufferClass::Small.size() {
            true => BufferClass::Small,
            false => BufferClass::Large,
        };
        let mut buffer = self.buffers.take(class);
        let len = bytes.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
        let sent = self.send.send(Chunk::new(buffer, len), finished);
        sent.map(|()| len).map_err(error)
    }
}

impl AsyncWrite for TunnelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(BufferClass::Large.size());
        let room = ready!(self.send.poll_room(cx, wanted)).map_err(error)?;
        let piece = bytes.get(..room.min(wanted)).unwrap_or(bytes);
        let sent = self.send(piece, false);
        self.send.give_back_room();
        Poll::Ready(sent)
    }

    /// The tunnel writes by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_finished {
            return Poll::Ready(Ok(()));
        }
        self.is_finished = true;
        Poll::Ready(self.send(&[], true).map(|_| ()))
    }
}

fn error(end: StreamEnd) -> io::Error {
    match end {
        StreamEnd::NotWanted => ErrorKind::BrokenPipe.into(),
        StreamEnd::Reset => ErrorKind::ConnectionReset.into(),
        StreamEnd::Lost => ErrorKind::ConnectionAborted.into(),
    }
}

/// One direction of a lane. Both are used by one task, so nobody ever waits for the lock.
#[derive(Debug)]
pub(super) struct LaneEnd {
    stream: Arc<Mutex<LaneStream>>,
}

impl LaneEnd {
    fn lock(&self) -> MutexGuard<'_, LaneStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for LaneEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.lock();
        let lane = &mut *stream.lane;
        ready!(lane.poll_receive(cx)).map_err(lane_error)?;
        let mut slices = [IoSlice::new(&[]); PLAIN_MAX];
        let count = lane.arrived(&mut slices);
        let mut taken = 0;
        for slice in slices.iter().take(count) {
            let len = slice.len().min(buffer.remaining());
            buffer.put_slice(slice.get(..len).unwrap_or_default());
            taken += len;
        }
        if count == 0 && lane.received_end().is_some_and(|end| !end.is_clean()) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        lane.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaneEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.lock();
        let lane = &mut *stream.lane;
        ready!(lane.poll_flush(cx)).map_err(lane_error)?;
        let sent = send(lane, bytes, false);
        Poll::Ready(sent.map_err(lane_error))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().lane.poll_flush(cx).map_err(lane_error)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.lock();
        let lane = &mut *stream.lane;
        ready!(lane.poll_flush(cx)).map_err(lane_error)?;
        if !lane.has_sent_end() {
            send(lane, &[], true).map_err(lane_error)?;
        }
        lane.poll_flush(cx).map_err(lane_error)
    }
}

/// Sends as much of `bytes` as one buffer holds.
fn send(lane: &mut Lane, bytes: &[u8], finished: bool) -> Result<usize, LaneError> {
    let class = match bytes.len() <= LANE_CONTENT_LEN_MAX {
        true => BufferClass::Small,
        false => BufferClass::Large,
    };
    let mut buffer = lane.buffers().take(class);
    let mut rest = bytes;
    for slot in slots(&mut buffer) {
        let len = rest.len().min(slot.len());
        let (now, later) = rest.split_at(len);
        if let Some(to) = slot.get_mut(..len) {
            to.copy_from_slice(now);
        }
        rest = later;
    }
    let len = bytes.len() - rest.len();
    lane.send(buffer, len, finished).map(|()| len)
}

fn lane_error(error: LaneError) -> io::Error {
    match error {
        LaneError::Io(error) => error,
        LaneError::Closed => ErrorKind::ConnectionAborted.into(),
        error => io::Error::new(ErrorKind::ConnectionAborted, error),
    }
}
