//! One request that may pass, and its answer: both bodies flow at the same time, each as fast as its reader takes it.

use std::{
    future::pending,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{
    Connection, Plan,
    body::{BodyError, CarryError, carry},
    head_revoked, write_denial, write_refusal,
};
use crate::http::{
    Http,
    error::{BadRequest, BadResponse, Ended},
    framing::Framing,
    head::{HeadSearch, lines},
    inbox::Inbox,
    metrics::Outcome,
    response::ResponseHead,
};

/// What follows an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExchangeEnd {
    /// The next one.
    Next,
    /// The end of the connection.
    Last,
    /// Bytes of another protocol.
    Upgraded,
}

/// Why an exchange broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Ended(Ended),
    BadRequest(BadRequest),
    BadResponse(BadResponse),
    Revoked,
}

/// How far the exchange is; both directions, which run in turn in one task, look at it.
#[derive(Debug, Default)]
struct Progress {
    request_sent: AtomicBool,
    response_begun: AtomicBool,
}

impl<DR, DW, UR, UW> Connection<'_, DR, DW, UR, UW>
where
    DR: AsyncRead + Unpin,
    DW: AsyncWrite + Unpin,
    UR: AsyncRead + Unpin,
    UW: AsyncWrite + Unpin,
{
    /// Carries the request, whose head is in `head`, and its answer.
    pub(super) async fn exchange(
        &mut self,
        plan: &Plan,
        head: &mut Vec<u8>,
    ) -> Result<ExchangeEnd, Ended> {
        let progress = Progress::default();
        let result = {
            let request = send_request(
                &mut self.downstream,
                &mut self.upstream_writer,
                plan,
                head,
                &progress,
                self.http,
            );
            let response = pass_response(
                &mut self.upstream,
                &mut self.downstream_writer,
                plan,
                &progress,
                self.http,
            );
            let (mut request, mut response) = (pin!(request), pin!(response));
            let revoked = head_revoked(self.http, head, self.is_audit);
            tokio::select! {
                // The request first: an answer to a whole request must find it sent. Both are dropped only when the exchange is
                // over; what was read and not used stays in the inboxes.
                biased;
                broken = &mut request => Err(broken),
                result = &mut response => result,
                () = revoked => Err(Broken::Revoked),
            }
        };
        match result {
            Ok(end) => Ok(end),
            Err(Broken::Ended(ended)) => Err(ended),
            Err(Broken::Revoked) => Err(self.revoke(plan, head, &progress).await),
            Err(Broken::BadRequest(bad)) if !progress.response_begun.load(Relaxed) => {
                Err(self.refuse(bad, head).await)
            }
            Err(Broken::BadRequest(bad)) => {
                self.http.metrics.count(Outcome::Bad(bad));
                // Half an answer, then a reset: the client must not take it for a whole one.
                Err(Ended::DownstreamGone)
            }
            Err(Broken::BadResponse(bad)) => {
                self.http.metrics.count(Outcome::BadResponse(bad));
                if progress.response_begun.load(Relaxed) {
                    return Err(Ended::UpstreamGone);
                }
                head.clear();
                write_refusal(head, 502, &bad.to_string());
                let written = self.downstream_writer.write_all(head).await;
                match written.and(self.downstream_writer.flush().await) {
                    Ok(()) => Err(Ended::BadResponse(bad)),
                    Err(_) => Err(Ended::DownstreamGone),
                }
            }
        }
    }
}

impl<DR, DW, UR, UW> Connection<'_, DR, DW, UR, UW>
where
    DW: AsyncWrite + Unpin,
{
    /// Tells the client, if it has not begun to read another answer.
    async fn revoke(&mut self, plan: &Plan, out: &mut Vec<u8>, progress: &Progress) -> Ended {
        self.http.metrics.count(Outcome::Denied);
        if progress.response_begun.load(Relaxed) {
            return Ended::Revoked;
        }
        out.clear();
        write_denial(out, None, plan.to_head, true);
        let written = self.downstream_writer.write_all(out).await;
        match written.and(self.downstream_writer.flush().await) {
            Ok(()) => Ended::Denied,
            Err(_) => Ended::DownstreamGone,
        }
    }
}

/// Sends the request, then watches the client; resolves only when the exchange cannot go on.
async fn send_request<R, W>(
    from: &mut Inbox<R>,
    to: &mut W,
    plan: &Plan,
    head: &[u8],
    progress: &Progress,
    http: &Http<'_>,
) -> Broken
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let head_sent = to.write_all(head).await;
    let sent = match head_sent.and(to.flush().await) {
        Ok(()) => carry(from, to, plan.framing, http.settings.head_len_max).await,
        Err(_) => Err(BodyError::Gone(CarryError::Sink)),
    };
    match sent {
        Ok(()) => progress.request_sent.store(true, Relaxed),
        Err(BodyError::Bad(bad)) => return Broken::BadRequest(bad),
        Err(BodyError::Gone(CarryError::Source)) => return Broken::Ended(Ended::DownstreamGone),
        // The server may have answered before it stopped to listen.
        Err(BodyError::Gone(CarryError::Sink)) => {}
    }
    // The client waits now, or sends its next request. Its end is no reason to withhold the answer; a reset is.
    while from.bytes().len() < PIPELINED_LEN_MAX {
        match from.fill().await {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Broken::Ended(Ended::DownstreamGone),
        }
    }
    pending().await
}

/// Passes the answer on, with those that come before it.
async fn pass_response<R, W>(
    from: &mut Inbox<R>,
    to: &mut W,
    plan: &Plan,
    progress: &Progress,
    http: &Http<'_>,
) -> Result<ExchangeEnd, Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let settings = &http.settings;
    let mut out = Vec::new();
    let (framing, close) = loop {
        let len = read_head(from, http).await?;
        let bytes = from.bytes().get(..len).unwrap_or_default();
        let lines = lines(bytes, settings.fields_max)
            .map_err(|_| Broken::BadResponse(BadResponse::Head))?;
        let head = ResponseHead::read(lines, plan.to_head).map_err(Broken::BadResponse)?;
        if head.status == 101 && !(head.upgrades && plan.upgrade) {
            return Err(Broken::BadResponse(BadResponse::Upgrade));
        }
        let close = plan.is_last || head.is_last || !progress.request_sent.load(Relaxed);
        let (framing, is_interim, upgrades) = (head.framing, head.is_interim(), head.upgrades);
        let is_wanted = !(is_interim && plan.is_http10);
        if is_wanted {
            head.write(close, &mut out);
        }
        from.take(len);
        let is_final = !is_interim && !upgrades;
        progress.response_begun.store(is_final, Relaxed);
        // A short answer goes in one piece with its head.
        if let (true, Framing::Length(length)) = (is_final, framing) {
            let there = from.bytes();
            if there.len() <= ONE_PIECE_LEN_MAX && there.len() as u64 == length {
                out.extend_from_slice(there);
                from.take(usize::MAX);
                write(to, &out).await?;
                return Ok(end(close));
            }
        }
        write(to, &out).await?;
        out.clear();
        if upgrades {
            return Ok(ExchangeEnd::Upgraded);
        }
        if is_final {
            break (framing, close);
        }
    };
    match carry(from, to, framing, settings.head_len_max).await {
        Ok(()) => Ok(end(close)),
        Err(BodyError::Bad(_)) => Err(Broken::BadResponse(BadResponse::Chunk)),
        Err(BodyError::Gone(CarryError::Source)) => Err(Broken::Ended(Ended::UpstreamGone)),
        Err(BodyError::Gone(CarryError::Sink)) => Err(Broken::Ended(Ended::DownstreamGone)),
    }
}

fn end(close: bool) -> ExchangeEnd {
    match close {
        true => ExchangeEnd::Last,
        false => ExchangeEnd::Next,
    }
}

async fn read_head<R: AsyncRead + Unpin>(
    from: &mut Inbox<R>,
    http: &Http<'_>,
) -> Result<usize, Broken> {
    let mut search = HeadSearch::default();
    loop {
        let found = search.find(from.bytes(), http.settings.head_len_max);
        if let Some(len) = found.map_err(|_| Broken::BadResponse(BadResponse::Head))? {
            return Ok(len);
        }
        match from.fill().await {
            Ok(1..) => {}
            // No answer: the client sees what it would see without us, and may try again as it would then.
            Ok(0) | Err(_) => return Err(Broken::Ended(Ended::UpstreamGone)),
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> Result<(), Broken> {
    let written = to.write_all(bytes).await;
    let flushed = to.flush().await;
    written
        .and(flushed)
        .map_err(|_| Broken::Ended(Ended::DownstreamGone))
}

/// What is taken of the requests after the present one, so that the client's end is seen.
const PIPELINED_LEN_MAX: usize = 8 * 1024;
/// Bodies up to this length are copied behind their head, for the sake of one packet.
const ONE_PIECE_LEN_MAX: usize = 16 * 1024;
