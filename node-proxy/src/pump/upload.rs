//! From the application into the tunnel.

use std::task::{Context, Poll, ready};

use super::{
    AppSocket, PumpContext, buffer::BufferClass, join::JoinTurn, socket::FillEnd, turn::Carried,
};
use crate::tunnel::{Chunk, StreamEnd, TunnelSend};

/// One direction of a pump. Holds no buffer between polls.
#[derive(Debug, Default)]
pub(super) struct Upload {
    class: BufferClass,
    join: JoinTurn,
    done: bool,
}

/// How the direction ended.
#[derive(Debug)]
pub(super) enum UploadEvent {
    /// The application finished and the tunnel was told.
    Finished,
    /// The application's side broke; everything that it sent before is in the tunnel.
    SocketGone,
    /// The tunnel takes no more.
    TunnelEnded(StreamEnd),
}

/// What the other direction found out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// The application's side is known to be broken, so the end of its bytes is not a clean end.
    pub(super) socket_gone: bool,
    /// Nobody listens for the peer's reset any more, so this direction has to.
    pub(super) download_done: bool,
}

impl Upload {
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        send: &mut TunnelSend,
        context: &PumpContext,
        circumstances: Circumstances,
    ) -> Poll<UploadEvent> {
        let event = ready!(self.carry(cx, socket, send, context, circumstances));
        self.done = true;
        Poll::Ready(event)
    }

    fn carry(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        send: &mut TunnelSend,
        context: &PumpContext,
        circumstances: Circumstances,
    ) -> Poll<UploadEvent> {
        let mut carried = Carried::default();
        loop {
            if carried.is_enough(cx) {
                send.give_back_room();
                return Poll::Pending;
            }
            match socket.poll_read_ready(cx) {
                Poll::Pending => {
                    if circumstances.download_done {
                        return send.poll_end(cx).map(UploadEvent::TunnelEnded);
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(UploadEvent::SocketGone),
                Poll::Ready(Ok(())) => {}
            }
            // Room first, bytes second: what is not read stays in the socket, where it throttles the application.
            let room = match ready!(send.poll_room(cx, self.class.size())) {
                Ok(room) => room,
                Err(end) => return Poll::Ready(UploadEvent::TunnelEnded(end)),
            };
            let mut buffer = context.buffers.take(self.class);
            let limit = room.min(buffer.len());
            let (len, end) = socket.fill(buffer.get_mut(..limit).unwrap_or_default());
            self.adapt(len);
            let finished = matches!(end, FillEnd::Finished) && !circumstances.socket_gone;
            if len > 0 || finished {
                context.sent.inc_by(len as u64);
                carried.count(len);
                self.join.count(socket, context.joiner.as_ref());
                if let Err(end) = send.send(Chunk::new(buffer, len), finished) {
                    return Poll::Ready(UploadEvent::TunnelEnded(end));
                }
            }
            match end {
                FillEnd::Full => {}
                FillEnd::Empty => send.give_back_room(),
                FillEnd::Finished if finished => return Poll::Ready(UploadEvent::Finished),
                FillEnd::Finished | FillEnd::Broken => {
                    send.give_back_room();
                    return Poll::Ready(UploadEvent::SocketGone);
                }
            }
        }
    }

    /// A full small buffer announces a stream; a nearly empty large one its end.
    fn adapt(&mut self, len: usize) {
        if len >= BufferClass::Small.size() {
            self.class = BufferClass::Large;
        } else if len < BufferClass::Small.size() / 2 {
            self.class = BufferClass::Small;
        }
    }
}
