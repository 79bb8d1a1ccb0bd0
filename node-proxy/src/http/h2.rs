//! HTTP/2 on one connection: as many requests at once as the client may have, each judged for itself.
//!
//! HTTP/2 only leads to HTTP/2: a translation into lines would bring back the ways in which lines can be read differently. Framing
//! and flow control are the h2 crate's, which refuses malformed pseudo-fields; here each stream of the client is tied to one of
//! the server, with its bodies, trailers and resets, and gets no more room than the other side has taken bytes.

mod stream;

use std::{
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use h2::{Reason, client, server};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Join, join},
    time::{Instant, sleep, timeout},
};

use super::{Http, error::Ended, h1, inbox::Inbox, settings::HttpSettings};
use stream::{Conclusion, carry};

/// Serves requests until one side is done. The client's preface is in its inbox.
pub(super) async fn serve<DR, DW, UR, UW>(connection: h1::Connection<'_, DR, DW, UR, UW>) -> Ended
where
    DR: AsyncRead + Unpin,
    DW: AsyncWrite + Unpin,
    UR: AsyncRead + Unpin,
    UW: AsyncWrite + Unpin,
{
    let http = connection.http;
    let settings = http.settings;
    let downstream = rejoin(connection.downstream, connection.downstream_writer);
    let upstream = rejoin(connection.upstream, connection.upstream_writer);
    let handshakes = async {
        let upstream = client_builder(settings).handshake::<_, Bytes>(upstream);
        let upstream = upstream.await.map_err(|_| Ended::UpstreamGone)?;
        let downstream = server_builder(settings).handshake::<_, Bytes>(downstream);
        let downstream = downstream.await.map_err(|_| Ended::Http2)?;
        Ok((downstream, upstream))
    };
    let (downstream, (requests, upstream)) = match timeout(settings.head_timeout, handshakes).await
    {
        Ok(Ok(both)) => both,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::Http2,
    };
    let mut streams = Streams {
        requests,
        resets: ResetBudget::new(settings),
        http,
    };
    let mut downstream = downstream;
    let mut upstream = Box::pin(upstream);
    let ended = streams.serve(&mut downstream, upstream.as_mut()).await;
    drop(streams);
    // Lets the last frames out; whoever does not end in time is cut off by the drop.
    let last_words = async {
        if ended == Ended::Idle {
            downstream.graceful_shutdown();
        }
        let closed = poll_fn(|cx| downstream.poll_closed(cx));
        // Nobody holds a handle to the server's side any more, so it says goodbye and ends.
        tokio::join!(closed, upstream)
    };
    if matches!(ended, Ended::Clean | Ended::Idle | Ended::RapidReset) {
        let _in_time = timeout(settings.linger_timeout, last_words).await;
    }
    ended
}

/// Where new requests go, and what is left of our patience with the client.
struct Streams<'a> {
    requests: client::SendRequest<Bytes>,
    resets: ResetBudget,
    http: &'a Http<'a>,
}

impl Streams<'_> {
    async fn serve<D, U>(
        &mut self,
        downstream: &mut server::Connection<D, Bytes>,
        mut upstream: Pin<&mut client::Connection<U, Bytes>>,
    ) -> Ended
    where
        D: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let mut open = FuturesUnordered::new();
        let idle_timeout = self.http.settings.idle_timeout;
        let mut idle = pin!(sleep(idle_timeout));
        let mut upstream_open = true;
        let mut was_busy = false;
        poll_fn(|cx| {
            // The server's side first: an answer that is there goes out in this turn.
            if upstream_open && upstream.as_mut().poll(cx).is_ready() {
                upstream_open = false;
                downstream.graceful_shutdown();
            }
            loop {
                while let Poll::Ready(Some(conclusion)) = open.poll_next_unpin(cx) {
                    match conclusion {
                        Conclusion::ResetByClient if !self.resets.spend() => {
                            downstream.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                            return Poll::Ready(Ended::RapidReset);
                        }
                        Conclusion::ServerLeaves => downstream.graceful_shutdown(),
                        Conclusion::Answered
                        | Conclusion::ResetByClient
                        | Conclusion::ResetByServer => {}
                    }
                }
                match downstream.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        open.push(carry(request, respond, self.requests.clone(), self.http));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(end_of(&error)),
                    Poll::Ready(None) => return Poll::Ready(Ended::Clean),
                    Poll::Pending => break,
                }
            }
            if !open.is_empty() {
                was_busy = true;
                return Poll::Pending;
            }
            if was_busy {
                was_busy = false;
                idle.as_mut().reset(Instant::now() + idle_timeout);
            }
            idle.as_mut().poll(cx).map(|()| Ended::Idle)
        })
        .await
    }
}

fn end_of(error: &h2::Error) -> Ended {
    match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => Ended::RapidReset,
        _ if error.is_io() => Ended::DownstreamGone,
        _ => Ended::Http2,
    }
}

/// The stream from its first byte on.
fn rejoin<R, W>(inbox: Inbox<R>, writer: W) -> Join<impl AsyncRead + Unpin, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (first, rest) = inbox.into_parts();
    join(std::io::Cursor::new(first.freeze()).chain(rest), writer)
}

fn server_builder(settings: &HttpSettings) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(settings.stream_window_len)
        .initial_connection_window_size(settings.connection_window_len)
        .max_header_list_size(u32::try_from(settings.head_len_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(settings.streams_max)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_send_buffer_size(UNSENT_LEN_MAX);
    builder
}

fn client_builder(settings: &HttpSettings) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(settings.stream_window_len)
        .initial_connection_window_size(settings.connection_window_len)
        .max_header_list_size(u32::try_from(settings.head_len_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(UNSENT_LEN_MAX);
    builder
}

/// How many streams a client may still reset: each costs the server a request, and the client two frames.
#[derive(Debug)]
struct ResetBudget {
    left: f64,
    max: f64,
    per_second: f64,
    since: std::time::Instant,
}

impl ResetBudget {
    fn new(settings: &HttpSettings) -> Self {
        ResetBudget {
            left: f64::from(settings.resets_max),
            max: f64::from(settings.resets_max),
            per_second: f64::from(settings.resets_per_second),
            since: std::time::Instant::now(),
        }
    }

    /// Spends one; `false` when none is left.
    fn spend(&mut self) -> bool {
        let now = std::time::Instant::now();
        let passed: Duration = now.duration_since(self.since);
        self.since = now;
        self.left = (self.left + passed.as_secs_f64() * self.per_second).min(self.max) - 1.0;
        self.left >= 0.0
    }
}

/// Streams that were reset before we looked at them; above the h2 crate's own limit, below what a burst of closing tabs needs.
const PENDING_RESETS_MAX: usize = 100;
/// Bytes of one stream that wait to be written.
const UNSENT_LEN_MAX: usize = 256 * 1024;
