//! The two kinds of connection as streams of bytes: an application's socket and a tunnel's stream.
//!
//! Nothing is added to what they are elsewhere: no buffer, no task. Room in a tunnel is asked for before bytes are taken, and given
//! back when they are read.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use prometheus_client::metrics::counter::Counter;

use crate::{
    http::Side,
    pump::{AppSocket, BufferClass, BufferPool, PumpContext},
    tunnel::{Chunk, StreamEnd, TunnelReceive, TunnelSend, TunnelStream},
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
    stream: TunnelStream,
    context: &PumpContext,
) -> Side<TunnelReader, TunnelWriter> {
    let TunnelStream { send, receive } = stream;
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
