//! HTTP/1 on one connection: one request after the other, each judged before a byte of it reaches the server.
//!
//! Written here and not taken from a library because the reading is the point: hyper and its kind skip empty lines, take lone line
//! feeds, prefer one framing where two are told, and write what they read in their own way. Here what was judged, what is
//! written and what was read are the same bytes, and what could be read otherwise never gets that far (decision 0013).
//!
//! Pipelined requests wait in the client's socket until their turn, so that answers cannot overtake each other and no queue
//! grows.

mod body;
mod exchange;

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};

use super::{
    DRAINED_LEN_MAX, Http,
    detect::next,
    error::{BadRequest, BadResponse, Ended},
    framing::Framing,
    head::{HeadSearch, lines},
    inbox::Inbox,
    judge::{HttpVerdict, is_allowed, judge_all_readings, revoked},
    metrics::Outcome,
    request::RequestHead,
};
use exchange::ExchangeEnd;

/// Both sides of a connection.
pub(super) struct Connection<'a, DR, DW, UR, UW> {
    pub(super) downstream: Inbox<DR>,
    pub(super) downstream_writer: DW,
    pub(super) upstream: Inbox<UR>,
    pub(super) upstream_writer: UW,
    pub(super) http: &'a Http<'a>,
    /// Requests are only looked at: one that cannot be read ends the looking, not the connection.
    pub(super) is_audit: bool,
}

/// What is left of a request once it is judged and written.
#[derive(Debug, Clone, Copy)]
struct Plan {
    framing: Framing,
    to_head: bool,
    is_http10: bool,
    upgrade: bool,
    is_last: bool,
}

/// What becomes of a request.
enum Decision {
    /// The server gets it; its head is in the buffer.
    Forward(Plan),
    /// The client gets this answer.
    Answer { ends: Option<Ended> },
}

impl<DR, DW, UR, UW> Connection<'_, DR, DW, UR, UW>
where
    DR: AsyncRead + Unpin,
    DW: AsyncWrite + Unpin,
    UR: AsyncRead + Unpin,
    UW: AsyncWrite + Unpin,
{
    /// Serves requests until one side is done. The client's first bytes are in its inbox.
    pub(super) async fn serve(&mut self) -> Ended {
        let mut out = Vec::new();
        let ended = loop {
            if let Err(ended) = self.wait().await {
                break ended;
            }
            match self.serve_one(&mut out).await {
                Ok(()) => {}
                Err(ended) => break ended,
            }
            out.clear();
            out.shrink_to(OUT_KEPT_LEN);
        };
        self.close(ended).await;
        ended
    }

    /// Carries whatever is said.
    pub(super) async fn serve_anything(&mut self) -> Ended {
        let ended = self.tunnel().await;
        self.close(ended).await;
        ended
    }

    /// Until the client begins a request.
    async fn wait(&mut self) -> Result<(), Ended> {
        if !self.upstream.bytes().is_empty() {
            return Err(Ended::BadResponse(BadResponse::Unasked));
        }
        if !self.downstream.bytes().is_empty() {
            return Ok(());
        }
        self.downstream.rest();
        self.upstream.rest();
        let idle = self.http.settings.idle_timeout;
        let begun = timeout(idle, next(&mut self.downstream, &mut self.upstream)).await;
        match begun.unwrap_or(Err(Ended::Idle)) {
            Err(Ended::ServerFirst) => Err(Ended::BadResponse(BadResponse::Unasked)),
            result => result,
        }
    }

    async fn serve_one(&mut self, out: &mut Vec<u8>) -> Result<(), Ended> {
        let began = std::time::Instant::now();
        let decision = match self.read_head().await? {
            Ok(len) => {
                let decision = self.decide(len, out);
                if decision.is_ok() {
                    self.downstream.take(len);
                }
                decision
            }
            Err(bad) => Err(bad),
        };
        match decision {
            Ok(Decision::Forward(plan)) => {
                let end = self.exchange(&plan, out).await;
                self.http.metrics.observe(began.elapsed());
                match end? {
                    ExchangeEnd::Next => Ok(()),
                    ExchangeEnd::Last => Err(Ended::Clean),
                    ExchangeEnd::Upgraded => {
                        let revoked = head_revoked(self.http, out, self.is_audit);
                        Err(tokio::select! {
                            // The carried bytes are dropped with the connection.
                            ended = self.tunnel() => ended,
                            () = revoked => Ended::Revoked,
                        })
                    }
                }
            }
            Ok(Decision::Answer { ends }) => {
                let written = self.downstream_writer.write_all(out).await;
                let flushed = self.downstream_writer.flush().await;
                written.and(flushed).map_err(|_| Ended::DownstreamGone)?;
                ends.map_or(Ok(()), Err)
            }
            Err(bad) if self.is_audit => {
                self.http.metrics.count(Outcome::Bad(bad));
                Err(self.tunnel().await)
            }
            Err(bad) => Err(self.refuse(bad, out).await),
        }
    }

    /// Reads to the end of the head; its length.
    async fn read_head(&mut self) -> Result<Result<usize, BadRequest>, Ended> {
        let mut search = HeadSearch::default();
        let deadline = Instant::now() + self.http.settings.head_timeout;
        loop {
            match search.find(self.downstream.bytes(), self.http.settings.head_len_max) {
                Ok(Some(len)) => return Ok(Ok(len)),
                Ok(None) => {}
                Err(bad) => return Ok(Err(bad)),
            }
            match timeout_at(deadline, self.downstream.fill()).await {
                // A head without its end is no request.
                Ok(Ok(0) | Err(_)) => return Err(Ended::DownstreamGone),
                Ok(Ok(_)) => {}
                Err(_) => return Ok(Err(BadRequest::HeadTimeout)),
            }
        }
    }

    /// Judges the request whose head is complete, and writes what follows from it.
    fn decide(&self, len: usize, out: &mut Vec<u8>) -> Result<Decision, BadRequest> {
        let http = self.http;
        let head = self.downstream.bytes().get(..len).unwrap_or_default();
        let request = RequestHead::read(lines(head, http.settings.fields_max)?)?;
        match request.ask(|facts| judge_all_readings(http.judge, facts))? {
            HttpVerdict::Allow { edits } => {
                http.metrics.count(Outcome::Allowed);
                request.write(&edits, out);
                Ok(Decision::Forward(Plan {
                    framing: request.framing,
                    to_head: request.is_head(),
                    is_http10: request.is_http10(),
                    upgrade: request.upgrade,
                    is_last: request.is_last,
                }))
            }
            HttpVerdict::Deny { policy } => {
                http.metrics.count(Outcome::Denied);
                let has_body = !matches!(request.framing, Framing::None | Framing::Length(0));
                let is_last = request.is_last || has_body;
                let policy = http.settings.show_policy.then_some(policy.as_str());
                write_denial(out, policy, request.is_head(), is_last);
                Ok(Decision::Answer {
                    ends: is_last.then_some(Ended::Denied),
                })
            }
        }
    }

    /// Tells the client what is wrong with its request.
    async fn refuse(&mut self, bad: BadRequest, out: &mut Vec<u8>) -> Ended {
        self.http.metrics.count(Outcome::Bad(bad));
        out.clear();
        write_refusal(out, bad.status(), &bad.to_string());
        // If the client is gone it needs no answer.
        let written = self.downstream_writer.write_all(out).await;
        match written.and(self.downstream_writer.flush().await) {
            Ok(()) => Ended::Bad(bad),
            Err(_) => Ended::DownstreamGone,
        }
    }

    /// Carries bytes after an upgrade, until both sides are done.
    async fn tunnel(&mut self) -> Ended {
        let up = body::carry_rest(&mut self.downstream, &mut self.upstream_writer);
        let down = body::carry_rest(&mut self.upstream, &mut self.downstream_writer);
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        let (mut sent, mut received) = (false, false);
        while !(sent && received) {
            tokio::select! {
                // Each is polled to its end, and dropped only when the connection is over.
                result = &mut up, if !sent => match result {
                    Ok(()) => sent = true,
                    Err(body::CarryError::Source) => return Ended::DownstreamGone,
                    Err(body::CarryError::Sink) => return Ended::UpstreamGone,
                },
                result = &mut down, if !received => match result {
                    Ok(()) => received = true,
                    Err(body::CarryError::Source) => return Ended::UpstreamGone,
                    Err(body::CarryError::Sink) => return Ended::DownstreamGone,
                },
            }
        }
        Ended::Clean
    }

    /// Ends both sides in order, where the end is one.
    pub(super) async fn close(&mut self, ended: Ended) {
        let limit = self.http.settings.linger_timeout;
        let downstream = async {
            if ended.is_orderly_downstream() && self.downstream_writer.shutdown().await.is_ok() {
                drain(&mut self.downstream).await;
            }
        };
        let upstream = async {
            if ended.is_orderly_upstream() && self.upstream_writer.shutdown().await.is_ok() {
                drain(&mut self.upstream).await;
            }
        };
        // Whoever does not end in time is cut off by the drop.
        let _in_time = timeout(limit, async { tokio::join!(downstream, upstream) }).await;
    }
}

/// Ends when a request whose head was written so may not go on. What is only audited goes on.
async fn head_revoked(http: &Http<'_>, head: &[u8], is_audit: bool) {
    if is_audit {
        return std::future::pending().await;
    }
    let may_go_on = || {
        // With the fields that policy added there may be more than a client may send.
        let request = lines(head, usize::MAX).and_then(RequestHead::read);
        request.is_ok_and(|request| request.ask(|facts| is_allowed(http.judge, facts)))
    };
    revoked(http.judge, may_go_on).await;
}

/// Takes what still comes, so that the answer before it is not lost to a reset.
async fn drain<R: AsyncRead + Unpin>(inbox: &mut Inbox<R>) {
    let mut rest = DRAINED_LEN_MAX;
    while let Ok(len @ 1..) = inbox.fill().await {
        inbox.take(usize::MAX);
        rest = rest.saturating_sub(len);
        if rest == 0 {
            return;
        }
    }
}

fn write_denial(out: &mut Vec<u8>, policy: Option<&str>, to_head: bool, is_last: bool) {
    out.extend_from_slice(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n");
    out.extend_from_slice(format!("Content-Length: {}\r\n", super::DENIAL.len()).as_bytes());
    if let Some(policy) = policy.filter(|policy| super::is_field_text(policy)) {
        out.extend_from_slice(format!("{}: {policy}\r\n", super::POLICY_FIELD).as_bytes());
    }
    if is_last {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(super::DENIAL.as_bytes());
    }
}

fn write_refusal(out: &mut Vec<u8>, status: u16, text: &str) {
    let name = match status {
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        _ => "Bad Request",
    };
    let len = text.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status} {name}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{text}\n"
    );
    out.extend_from_slice(answer.as_bytes());
}

/// What the buffer for heads keeps between requests.
const OUT_KEPT_LEN: usize = 2 * 1024;
