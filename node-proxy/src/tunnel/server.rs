//! The end of a tunnel that accepts: takes CONNECT requests.

use std::{
    error::Error,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use h2::{
    Reason, RecvStream,
    server::{self, Connection, SendResponse},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::HeaderName};
use tokio::io::{AsyncRead, AsyncWrite};
use tulle_identity::{Term, TlsStream};

use super::{
    CONNECTION_WINDOW_LEN, FRAME_LEN_MAX, SERVER_HEADER_LIST_LEN_MAX, SERVER_RESETS_MAX,
    SERVER_STREAMS_MAX, STREAM_UNSENT_LEN_MAX, STREAM_WINDOW_LEN,
    chunk::Chunk,
    headers::BAGGAGE,
    io::TunnelIo,
    keepalive::Keepalive,
    load::TunnelLoad,
    stream::{HboneStream, StreamEnd, TunnelReceive, TunnelSend, TunnelStream},
};
use crate::plane::{Direction, Plane, PlaneSettings};

/// Serves one established TLS connection until it ends. `draining` asks for a graceful end, as does a request that comes when the
/// connection's `term` is over; dropping the future cuts it.
pub(crate) async fn serve(
    io: TlsStream<TunnelIo>,
    plane: &Plane,
    term: Term,
    draining: impl Future<Output = ()>,
    mut handle: impl FnMut(IncomingStream),
) {
    let writer = io.io().writer();
    let settings = &plane.settings;
    let mut connection = match handshake(io, settings).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(
                error = &*error as &dyn Error,
                "a peer does not speak HTTP/2"
            );
            plane.metrics.count_failed(Direction::Inbound, BROKEN_HTTP2);
            return;
        }
    };
    writer.take_over();
    let load = TunnelLoad::new(settings, &plane.shared.held);
    let mut keepalive = connection
        .ping_pong()
        .map(|pings| Keepalive::new(pings, settings.ping_interval, settings.ping_timeout));
    let mut draining = pin!(draining);
    let mut is_draining = false;
    let mut window_len = CONNECTION_WINDOW_LEN;
    poll_fn(|cx| {
        let wanted = load.window_len();
        if wanted != window_len {
            window_len = wanted;
            connection.set_target_window_size(wanted);
        }
        if !is_draining && draining.as_mut().poll(cx).is_ready() {
            is_draining = true;
            connection.graceful_shutdown();
        }
        let mut is_over = false;
        let streams = poll_streams(&mut connection, cx, &load, |incoming| {
            is_over = term.is_over(plane.svids.now());
            match is_over {
                true => incoming.send_back(),
                false => handle(incoming),
            }
        });
        if is_over && !is_draining {
            is_draining = true;
            connection.graceful_shutdown();
            // The farewell leaves in a turn of its own.
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(end) = streams {
            if end.is_err_and(|error| !error.is_io()) {
                plane.metrics.count_failed(Direction::Inbound, BROKEN_HTTP2);
            }
            return Poll::Ready(());
        }
        if let Poll::Ready(Err(error)) = writer.poll_write_out(cx) {
            tracing::debug!(%error, "a peer's tunnel broke");
            return Poll::Ready(());
        }
        match &mut keepalive {
            Some(keepalive) => keepalive.poll_lost(cx),
            None => Poll::Pending,
        }
    })
    .await;
}

async fn handshake<IO>(
    io: IO,
    settings: &PlaneSettings,
) -> Result<Connection<IO, Chunk>, Box<dyn Error + Send + Sync>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW_LEN)
        .initial_connection_window_size(CONNECTION_WINDOW_LEN)
        .max_frame_size(FRAME_LEN_MAX)
        .max_header_list_size(SERVER_HEADER_LIST_LEN_MAX)
        .max_concurrent_streams(SERVER_STREAMS_MAX)
        .max_pending_accept_reset_streams(SERVER_RESETS_MAX)
        .max_send_buffer_size(STREAM_UNSENT_LEN_MAX)
        .handshake::<_, Chunk>(io);
    Ok(tokio::time::timeout(settings.handshake_timeout, handshake).await??)
}

/// Hands over every stream that arrived; ready when the connection is over, with what ended it.
fn poll_streams<IO>(
    connection: &mut Connection<IO, Chunk>,
    cx: &mut Context<'_>,
    load: &Arc<TunnelLoad>,
    mut handle: impl FnMut(IncomingStream),
) -> Poll<Result<(), h2::Error>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                handle(IncomingStream {
                    request,
                    respond,
                    load: Arc::clone(load),
                });
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(error = &error as &dyn Error, "a peer's tunnel broke");
                return Poll::Ready(Err(error));
            }
            Poll::Ready(None) => return Poll::Ready(Ok(())),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// A request that waits for its answer. Dropping it cancels the stream.
pub(crate) struct IncomingStream {
    request: Request<RecvStream>,
    respond: SendResponse<Chunk>,
    load: Arc<TunnelLoad>,
}

/// Why a request is refused: the statuses of HBONE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400: the request makes no sense here.
    BadRequest,
    /// 401: policy says no.
    Denied,
    /// 503: the application, or the workload, is not there.
    Unavailable,
}

impl IncomingStream {
    /// The `:authority`, if the method is CONNECT.
    pub(crate) fn connect_authority(&self) -> Option<&str> {
        let is_connect = self.request.method() == Method::CONNECT;
        self.request
            .uri()
            .authority()
            .filter(|_| is_connect)
            .map(http::uri::Authority::as_str)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Tells the peer to ask elsewhere: nothing was done with the request, so it may be sent again on another connection.
    pub(crate) fn send_back(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }

    /// Answers with a refusal; the stream is over.
    pub(crate) fn refuse(mut self, refusal: Refusal) {
        let mut response = Response::new(());
        *response.status_mut() = match refusal {
            Refusal::BadRequest => StatusCode::BAD_REQUEST,
            Refusal::Denied => StatusCode::UNAUTHORIZED,
            Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        // Fails only when the peer is gone, who then needs no answer.
        let _answered: Result<_, h2::Error> = self.respond.send_response(response, true);
    }

    /// Answers 200: from now on the stream carries bytes.
    pub(crate) fn accept(
        mut self,
        baggage: Option<HeaderValue>,
    ) -> Result<TunnelStream, StreamEnd> {
        let mut response = Response::new(());
        if let Some(baggage) = baggage {
            response
                .headers_mut()
                .insert(HeaderName::from_static(BAGGAGE), baggage);
        }
        let send = self
            .respond
            .send_response(response, false)
            .map_err(|_| StreamEnd::Lost)?;
        let load = self.load.open_stream();
        Ok(TunnelStream::Hbone(HboneStream {
            send: TunnelSend::new(send, Arc::clone(&load)),
            receive: TunnelReceive::new(self.request.into_body(), load),
        }))
    }
}

/// Why a connection failed whose peer proved who it is and then broke HTTP/2.
const BROKEN_HTTP2: &str = "http2";
