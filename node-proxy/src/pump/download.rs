//! From the tunnel to the application.

use std::{
    collections::VecDeque,
    io::{ErrorKind, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};

use super::{AppSocket, PumpContext, turn::Carried};
use crate::tunnel::{StreamEnd, TunnelReceive};

/// One direction of a pump. What it holds is bounded by the window that the peer was given.
#[derive(Debug, Default)]
pub(super) struct Download {
    queue: VecDeque<Bytes>,
    /// Small pieces that came while the socket was full, joined: many small pieces would cost more than their bytes.
    joined: BytesMut,
    /// The last write found the socket full.
    is_blocked: bool,
    end: Option<ReceiveEnd>,
    done: bool,
}

/// How the direction ended.
#[derive(Debug)]
pub(super) enum DownloadEvent {
    /// The peer finished and the application was told.
    Finished,
    /// The application takes no more.
    SocketGone,
    /// The tunnel ended; the application has everything that came before.
    TunnelEnded(StreamEnd),
}

#[derive(Debug, Clone, Copy)]
enum ReceiveEnd {
    Finished,
    Ended(StreamEnd),
}

impl Download {
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The tunnel is known to have ended badly, while bytes still wait for the application.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.end, Some(ReceiveEnd::Ended(_)))
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        receive: &mut TunnelReceive,
        context: &PumpContext,
    ) -> Poll<DownloadEvent> {
        let event = ready!(self.carry(cx, socket, receive, context));
        self.done = true;
        self.queue = VecDeque::new();
        self.joined = BytesMut::new();
        Poll::Ready(event)
    }

    fn carry(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        receive: &mut TunnelReceive,
        context: &PumpContext,
    ) -> Poll<DownloadEvent> {
        let mut carried = Carried::default();
        loop {
            if carried.is_enough(cx) {
                return Poll::Pending;
            }
            self.take_arrived(cx, receive);
            if self.queue.is_empty() {
                return self.finish(socket);
            }
            match self.write(socket) {
                Ok(len) => {
                    self.is_blocked = false;
                    context.received.inc_by(len as u64);
                    carried.count(len);
                    receive.give_back_room(len);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    // What arrives while the socket is full is taken off the tunnel's own queue, which has a limit on pieces.
                    self.take_arrived(cx, receive);
                    match ready!(socket.poll_write_ready(cx)) {
                        Ok(()) => {}
                        Err(_) => return Poll::Ready(DownloadEvent::SocketGone),
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(DownloadEvent::SocketGone),
            }
        }
    }

    /// The queue is empty: ends the direction if its end came, else gives back what the queue cost.
    fn finish(&mut self, socket: &AppSocket) -> Poll<DownloadEvent> {
        match self.end {
            Some(ReceiveEnd::Finished) => match socket.shutdown_write() {
                Ok(()) => Poll::Ready(DownloadEvent::Finished),
                Err(_) => Poll::Ready(DownloadEvent::SocketGone),
            },
            // The peer wants no more bytes, but its own are complete.
            Some(ReceiveEnd::Ended(StreamEnd::NotWanted)) => {
                let _told = socket.shutdown_write();
                Poll::Ready(DownloadEvent::TunnelEnded(StreamEnd::NotWanted))
            }
            Some(ReceiveEnd::Ended(end)) => Poll::Ready(DownloadEvent::TunnelEnded(end)),
            None => {
                self.queue = VecDeque::new();
                self.joined = BytesMut::new();
                Poll::Pending
            }
        }
    }

    /// Moves what the tunnel has into the queue: a batch for one write, or everything when the socket is full.
    fn take_arrived(&mut self, cx: &mut Context<'_>, receive: &mut TunnelReceive) {
        while self.end.is_none() && (self.is_blocked || self.queue.len() < BATCH_LEN) {
            match receive.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => self.push(bytes),
                Poll::Ready(Some(Err(end))) => self.end = Some(ReceiveEnd::Ended(end)),
                Poll::Ready(None) => self.end = Some(ReceiveEnd::Finished),
                Poll::Pending => break,
            }
        }
        if !self.is_blocked {
            self.settle_joined();
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if self.is_blocked && bytes.len() < JOIN_LEN_MAX {
            self.joined.extend_from_slice(&bytes);
            if self.joined.len() >= JOINED_LEN {
                self.settle_joined();
            }
        } else {
            self.settle_joined();
            self.queue.push_back(bytes);
        }
    }

    fn settle_joined(&mut self) {
        if !self.joined.is_empty() {
            self.queue.push_back(self.joined.split().freeze());
        }
    }

    fn write(&mut self, socket: &AppSocket) -> std::io::Result<usize> {
        self.settle_joined();
        let mut slices = [IoSlice::new(&[]); BATCH_LEN];
        let mut count = 0;
        for (slot, bytes) in slices.iter_mut().zip(&self.queue) {
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        let written = socket.try_write(slices.get(..count).unwrap_or_default())?;
        let mut rest = written;
        while let Some(front) = self.queue.front_mut() {
            if rest < front.len() {
                front.advance(rest);
                break;
            }
            rest -= front.len();
            self.queue.pop_front();
        }
        Ok(written)
    }
}

/// Pieces that one write takes.
const BATCH_LEN: usize = 32;
/// Pieces below this length are joined while they wait.
const JOIN_LEN_MAX: usize = 2048;
/// How much is joined into one piece.
const JOINED_LEN: usize = 32 * 1024;
