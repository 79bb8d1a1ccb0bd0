//! Carries bytes between an application's socket and a tunnel, exactly.
//!
//! What one application does, the other sees as it would without a mesh: every byte, in order; a half-close as a half-close, either
//! side first; a reset as a reset, after the bytes that were sent before it. A reader that stops stops the writer: bytes are taken
//! from a socket only when the tunnel has room for them, and the tunnel is given room only for bytes that the socket has taken.
//!
//! Nothing here knows where a connection leads or why it is allowed.

mod buffer;
mod download;
mod join;
mod lane;
mod relay;
mod socket;
mod turn;
mod upload;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::Either;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Sleep;

pub use buffer::{BufferClass, BufferPool, PooledBuffer};
pub use join::{JoinEnds, Joiner};
pub use relay::relay;
pub use socket::AppSocket;

use crate::tunnel::{HboneStream, StreamEnd, TunnelReceive, TunnelSend, TunnelStream};
use download::{Download, DownloadEvent};
use upload::{Upload, UploadEvent};

/// What all pumps of one direction share.
#[derive(Debug)]
pub struct PumpContext {
    /// Where buffers come from.
    pub buffers: Arc<BufferPool>,
    /// Bytes that the application wrote.
    pub sent: Counter,
    /// Bytes that the application was given.
    pub received: Counter,
    /// How long the last bytes before a reset may take to leave.
    pub reset_flush_timeout: Duration,
    /// Asks for the join of a connection that lives; `None` where connections are not joined late.
    pub joiner: Option<Joiner>,
}

/// How a pumped connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PumpEnd {
    /// Both sides finished.
    Clean,
    /// The application on this side reset.
    ApplicationReset,
    /// The other side reset.
    PeerReset,
    /// The tunnel broke, or the other socket of a plaintext connection.
    TunnelLost,
    /// The peer's proxy broke the protocol between us.
    TunnelBroken,
}

impl PumpEnd {
    /// The name in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            PumpEnd::Clean => "clean",
            PumpEnd::ApplicationReset => "application_reset",
            PumpEnd::PeerReset => "peer_reset",
            PumpEnd::TunnelLost => "tunnel_lost",
            PumpEnd::TunnelBroken => "tunnel_broken",
        }
    }
}

/// Carries bytes until both sides are finished or one is gone, and closes both as the end demands.
///
/// Dropping the future cuts the connection: both applications see a reset.
pub fn pump(
    socket: AppSocket,
    stream: TunnelStream,
    context: &PumpContext,
) -> impl Future<Output = PumpEnd> + Send {
    match stream {
        TunnelStream::Hbone(stream) => Either::Left(pump_hbone(socket, stream, context)),
        // Boxed: the two kinds need not have room for each other.
        TunnelStream::Lane(stream) => {
            Either::Right(Box::pin(lane::pump_lane(socket, stream, context)))
        }
    }
}

async fn pump_hbone(socket: AppSocket, stream: HboneStream, context: &PumpContext) -> PumpEnd {
    let mut state = PumpState::new(stream);
    let verdict = {
        let mut broken = pin!(socket.broken());
        poll_fn(|cx| state.poll(cx, &socket, broken.as_mut(), context)).await
    };
    let PumpState {
        mut send, receive, ..
    } = state;
    match verdict {
        PumpEnd::Clean => socket.finish(),
        PumpEnd::ApplicationReset => {
            drop(socket);
            drop(receive);
            // The bytes before the reset must leave first: a reset discards what is still queued.
            let flushed = poll_fn(|cx| send.poll_flushed(cx));
            let _in_time: Result<(), _> =
                tokio::time::timeout(context.reset_flush_timeout, flushed).await;
            send.reset();
        }
        PumpEnd::PeerReset | PumpEnd::TunnelLost | PumpEnd::TunnelBroken => {
            drop((send, receive));
            socket.reset(context.reset_flush_timeout).await;
        }
    }
    verdict
}

struct PumpState {
    send: TunnelSend,
    receive: TunnelReceive,
    upload: Upload,
    download: Download,
    /// The application's side broke: no more bytes can reach it, and its end is not a clean one.
    socket_gone: bool,
    /// The tunnel's side ended other than by finishing.
    tunnel_end: Option<StreamEnd>,
    /// How long the surviving direction may still try to deliver.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl PumpState {
    fn new(stream: HboneStream) -> Self {
        let HboneStream { send, receive } = stream;
        PumpState {
            send,
            receive,
            upload: Upload::default(),
            download: Download::default(),
            socket_gone: false,
            tunnel_end: None,
            deadline: None,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &AppSocket,
        broken: Pin<&mut impl Future<Output = ()>>,
        context: &PumpContext,
    ) -> Poll<PumpEnd> {
        self.poll_download(cx, socket, context);
        self.poll_upload(cx, socket, context);
        if !self.socket_gone && broken.poll(cx).is_ready() {
            self.socket_gone = true;
            // What the socket still holds is read before its end is believed.
            self.poll_upload(cx, socket, context);
        }
        if let Some(end) = self.verdict() {
            return Poll::Ready(end);
        }
        self.poll_deadline(cx, context)
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>, socket: &AppSocket, context: &PumpContext) {
        if self.upload.is_done() {
            return;
        }
        let ends = upload::Circumstances {
            socket_gone: self.socket_gone,
            download_done: self.download.is_done(),
        };
        match self.upload.poll(cx, socket, &mut self.send, context, ends) {
            Poll::Pending | Poll::Ready(UploadEvent::Finished) => {}
            Poll::Ready(UploadEvent::SocketGone) => self.socket_gone = true,
            Poll::Ready(UploadEvent::TunnelEnded(end)) => self.tunnel_end = Some(end),
        }
    }

    fn poll_download(&mut self, cx: &mut Context<'_>, socket: &AppSocket, context: &PumpContext) {
        if self.download.is_done() {
            return;
        }
        match self.download.poll(cx, socket, &mut self.receive, context) {
            Poll::Pending | Poll::Ready(DownloadEvent::Finished) => {}
            Poll::Ready(DownloadEvent::SocketGone) => self.socket_gone = true,
            Poll::Ready(DownloadEvent::TunnelEnded(end)) => self.tunnel_end = Some(end),
        }
    }

    fn verdict(&self) -> Option<PumpEnd> {
        let (sent, received) = (self.upload.is_done(), self.download.is_done());
        match self.tunnel_end {
            // Everything that came before the end was given to the application.
            Some(StreamEnd::NotWanted) if received => return Some(PumpEnd::Clean),
            Some(StreamEnd::Reset) if received => return Some(PumpEnd::PeerReset),
            Some(StreamEnd::Lost) if received => return Some(PumpEnd::TunnelLost),
            Some(_) | None => {}
        }
        if self.socket_gone && sent {
            return Some(PumpEnd::ApplicationReset);
        }
        (sent && received).then_some(PumpEnd::Clean)
    }

    /// Bounds the time in which one direction finishes after the other side is gone.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, context: &PumpContext) -> Poll<PumpEnd> {
        let tunnel_gone = self.tunnel_end.is_some() || self.download.has_failed();
        if !self.socket_gone && !tunnel_gone {
            return Poll::Pending;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(context.reset_flush_timeout)));
        let end = if self.socket_gone {
            PumpEnd::ApplicationReset
        } else {
            PumpEnd::PeerReset
        };
        deadline.as_mut().poll(cx).map(|()| end)
    }
}

#[cfg(test)]
mod tests;
