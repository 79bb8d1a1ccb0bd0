//! One request of an HTTP/2 client, from its head to the last trailer of its answer.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header,
    uri::{PathAndQuery, Scheme},
};
use tokio::time::timeout;
use tulle_policy::{compiled::HttpFacts, l7::HeaderEdit};

use crate::http::{
    DENIAL, DRAINED_LEN_MAX, Http, POLICY_FIELD,
    error::BadRequest,
    is_field_text,
    judge::{HttpVerdict, is_allowed, judge_all_readings, revoked},
    metrics::Outcome,
    request::{addition, is_authority},
};

/// How a stream ended, as far as the connection must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// It was answered.
    Answered,
    /// The client took its request back.
    ResetByClient,
    /// The server broke the stream off.
    ResetByServer,
    /// The server takes no more requests on this connection.
    ServerLeaves,
}

/// Carries one request and its answer.
pub(super) async fn carry(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    requests: SendRequest<Bytes>,
    http: &Http<'_>,
) -> Conclusion {
    let began = Instant::now();
    let (head, mut body) = request.into_parts();
    let head = match check(head, http) {
        Ok(Ok(head)) => head,
        Ok(Err(policy)) => {
            http.metrics.count(Outcome::Denied);
            deny(&mut respond, policy.as_deref());
            linger(&mut body, http.settings.linger_timeout).await;
            return Conclusion::Answered;
        }
        Err(bad) => {
            http.metrics.count(Outcome::Bad(bad));
            refuse(&mut respond, bad);
            linger(&mut body, http.settings.linger_timeout).await;
            return Conclusion::Answered;
        }
    };
    http.metrics.count(Outcome::Allowed);
    let kept = head.clone();
    let sent = tokio::select! {
        // Nothing is sent yet when the client takes its request back here.
        biased;
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return Conclusion::ResetByClient,
        sent = send(head, body.is_end_stream(), requests) => sent,
    };
    let conclusion = match sent {
        Ok((answer, up)) => {
            let conclusion = tokio::select! {
                biased;
                conclusion = exchange(&mut body, up, answer, &mut respond) => Some(conclusion),
                () = revoked(http.judge, || may_go_on(&kept, http)) => None,
            };
            conclusion.unwrap_or_else(|| {
                http.metrics.count(Outcome::Denied);
                respond.send_reset(Reason::CANCEL);
                Conclusion::Answered
            })
        }
        Err(_) => {
            // The request was not processed: the client may try it on another connection.
            respond.send_reset(Reason::REFUSED_STREAM);
            Conclusion::ServerLeaves
        }
    };
    http.metrics.observe(began.elapsed());
    if conclusion == Conclusion::Answered {
        linger(&mut body, http.settings.linger_timeout).await;
    }
    conclusion
}

async fn send(
    head: Request<()>,
    is_end: bool,
    requests: SendRequest<Bytes>,
) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
    requests.ready().await?.send_request(head, is_end)
}

/// Both directions; ends when the answer has ended or one side gave up.
async fn exchange(
    body: &mut RecvStream,
    up: SendStream<Bytes>,
    answer: ResponseFuture,
    respond: &mut SendResponse<Bytes>,
) -> Conclusion {
    // A client that lets go of an answer costs nothing; one that lets go of its request before is what floods are made of.
    let begun = AtomicBool::new(false);
    let reset_by_client = || match begun.load(Relaxed) {
        true => Conclusion::Answered,
        false => Conclusion::ResetByClient,
    };
    let mut upload = pin!(pass_body(body, up));
    let mut download = pin!(pass_answer(answer, respond, &begun));
    let mut uploading = true;
    loop {
        tokio::select! {
            // Each is polled to its end, or dropped with the stream.
            biased;
            result = &mut upload, if uploading => {
                uploading = false;
                if result == Err(Side::Source) {
                    return reset_by_client();
                }
            }
            result = &mut download => return match result {
                Ok(()) => Conclusion::Answered,
                Err(Side::Source) => Conclusion::ResetByServer,
                Err(Side::Sink) => reset_by_client(),
            },
        }
    }
}

/// Takes the rest of a request that is answered already. If its stream ended at once, the client would hear of that (`RST_STREAM`,
/// `NO_ERROR`) while it still sends, and some clients then forget the answer, although RFC 9113 §8.1 forbids it.
async fn linger(body: &mut RecvStream, limit: Duration) {
    let rest = async {
        let mut left = DRAINED_LEN_MAX;
        while let Some(Ok(piece)) = body.data().await {
            // Refused only for more than was received.
            let _given: Result<(), h2::Error> = body.flow_control().release_capacity(piece.len());
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    // Whoever does not end in time is told so by the drop.
    let _in_time = timeout(limit, rest).await;
}

/// Which end of a direction gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Sink,
}

/// Passes the answer, with those that come before it.
async fn pass_answer(
    mut answer: ResponseFuture,
    respond: &mut SendResponse<Bytes>,
    begun: &AtomicBool,
) -> Result<(), Side> {
    let response = loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(reason) = respond.poll_reset(cx) {
                drop(reason);
                return Poll::Ready(Err(Side::Sink));
            }
            if let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
                return Poll::Ready(Ok(Ok(interim)));
            }
            Poll::Ready(Ok(Err(ready!(Pin::new(&mut answer).poll(cx)))))
        });
        match next.await? {
            Ok(interim) => {
                let _sent: Result<(), h2::Error> = respond.send_informational(interim);
            }
            Err(Ok(response)) => break response,
            Err(Err(error)) => {
                respond.send_reset(reason_of(&error));
                return Err(Side::Source);
            }
        }
    };
    let (head, mut body) = response.into_parts();
    let is_end = body.is_end_stream();
    begun.store(true, Relaxed);
    let head = Response::from_parts(head, ());
    let down = respond
        .send_response(head, is_end)
        .map_err(|_| Side::Sink)?;
    match is_end {
        true => Ok(()),
        false => pass_body(&mut body, down).await,
    }
}

/// Passes a body and its trailers. The sender gets room for more as the receiver takes what came.
async fn pass_body(from: &mut RecvStream, mut to: SendStream<Bytes>) -> Result<(), Side> {
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(reason) = to.poll_reset(cx) {
                drop(reason);
                return Poll::Ready(Err(Side::Sink));
            }
            from.poll_data(cx).map(Ok)
        });
        let mut piece = match next.await? {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                to.send_reset(reason_of(&error));
                return Err(Side::Source);
            }
            None => break,
        };
        let len = piece.len();
        // The end goes with the last piece, as it came: an empty piece behind it would be one that the sender never sent.
        let is_end = from.is_end_stream();
        while !piece.is_empty() {
            to.reserve_capacity(piece.len());
            let room = match poll_fn(|cx| to.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Err(Side::Sink),
            };
            let part = piece.split_to(room.min(piece.len()));
            let is_last = is_end && piece.is_empty();
            to.send_data(part, is_last).map_err(|_| Side::Sink)?;
        }
        // Refused only for more than was received.
        let _given: Result<(), h2::Error> = from.flow_control().release_capacity(len);
        if is_end && len > 0 {
            return Ok(());
        }
        tokio::task::consume_budget().await;
    }
    let ended = match poll_fn(|cx| from.poll_trailers(cx)).await {
        Ok(Some(trailers)) => to.send_trailers(trailers),
        Ok(None) => to.send_data(Bytes::new(), true),
        Err(error) => {
            to.send_reset(reason_of(&error));
            return Err(Side::Source);
        }
    };
    ended.map_err(|_| Side::Sink)
}

fn reason_of(error: &h2::Error) -> Reason {
    error.reason().unwrap_or(Reason::CANCEL)
}

type Checked = Result<Request<()>, Option<String>>;

/// Judges a request and makes the one that is forwarded; a denial comes with what the client is told of its reason.
fn check(mut head: http::request::Parts, http: &Http<'_>) -> Result<Checked, BadRequest> {
    if head.method == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    if head.headers.len() > http.settings.fields_max {
        return Err(BadRequest::FieldCount);
    }
    check_fields(&head.headers)?;
    let path = match head.uri.path_and_query() {
        Some(path) if path.as_str().starts_with('/') => path.clone(),
        Some(path) if path.as_str() == "*" && head.method == Method::OPTIONS => path.clone(),
        _ => return Err(BadRequest::Target),
    };
    let authority = authority(&head)?;
    let fields = fields(&head.headers, &authority);
    let facts = HttpFacts {
        method: head.method.as_str(),
        path: path.as_str(),
        authority: &authority,
        headers: &fields,
    };
    let edits = match judge_all_readings(http.judge, &facts)? {
        HttpVerdict::Allow { edits } => edits,
        HttpVerdict::Deny { policy } => {
            return Ok(Err(http.settings.show_policy.then_some(policy)));
        }
    };
    edit(&mut head.headers, &edits);
    let mut request = Request::new(());
    *request.uri_mut() = forwarded_uri(&head.uri, &authority, path)?;
    *request.method_mut() = head.method;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers;
    Ok(Ok(request))
}

/// Whether a request, as it was forwarded, would be let through now.
fn may_go_on(request: &Request<()>, http: &Http<'_>) -> bool {
    let uri = request.uri();
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    is_allowed(
        http.judge,
        &HttpFacts {
            method: request.method().as_str(),
            path: uri.path_and_query().map_or("/", PathAndQuery::as_str),
            authority,
            headers: &fields(request.headers(), authority),
        },
    )
}

/// What policy is shown of the fields.
fn fields<'a>(headers: &'a HeaderMap, authority: &'a str) -> Vec<(&'a str, &'a [u8])> {
    let others = headers.iter().filter(|(name, _)| *name != header::HOST);
    let others = others.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let host = std::iter::once(("host", authority.as_bytes()));
    host.chain(others).collect()
}

/// The one host of the request: `:authority` and `host` say the same, or one of them is absent. It travels as `:authority`.
fn authority(head: &http::request::Parts) -> Result<String, BadRequest> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().map_err(|_| BadRequest::Host)?),
        (Some(_), Some(_)) => return Err(BadRequest::Host),
    };
    let named = head.uri.authority().map(http::uri::Authority::as_str);
    let authority = match (named, host) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => None,
        (Some(one), _) | (None, Some(one)) => Some(one),
        (None, None) => None,
    };
    authority
        .filter(|text| is_authority(text))
        .map(str::to_owned)
        .ok_or(BadRequest::Host)
}

fn forwarded_uri(uri: &Uri, authority: &str, path: PathAndQuery) -> Result<Uri, BadRequest> {
    let scheme = match uri.scheme() {
        // Dropped by the h2 crate where there was no `:authority`.
        None => Scheme::HTTP,
        Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => scheme.clone(),
        Some(_) => return Err(BadRequest::Scheme),
    };
    let builder = Uri::builder().scheme(scheme).authority(authority);
    builder
        .path_and_query(path)
        .build()
        .map_err(|_| BadRequest::Host)
}

/// The same rules as for lines, where HTTP/2 leaves room for two readings.
fn check_fields(headers: &HeaderMap) -> Result<(), BadRequest> {
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(BadRequest::ContentLength);
    }
    let mut expectations = headers.get_all(header::EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => {}
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {}
        _ => return Err(BadRequest::Expect),
    }
    for name in headers.keys().filter(|name| name.as_str().contains('_')) {
        let other = name.as_str().replace('_', "-");
        let is_framing = matches!(
            other.as_str(),
            "content-length" | "transfer-encoding" | "host" | "connection" | "upgrade" | "expect"
        );
        if is_framing || headers.contains_key(other.as_str()) {
            return Err(BadRequest::FieldAlias);
        }
    }
    Ok(())
}

fn edit(headers: &mut HeaderMap, edits: &[HeaderEdit]) {
    // `host` travels as `:authority`.
    headers.remove(header::HOST);
    for change in edits {
        if let HeaderEdit::Remove { name } | HeaderEdit::Set { name, .. } = change {
            headers.remove(name.as_ref());
        }
    }
    for (name, value) in edits.iter().filter_map(addition) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
}

fn deny(respond: &mut SendResponse<Bytes>, policy: Option<&str>) {
    let mut fields = HeaderMap::new();
    let policy = policy.filter(|policy| is_field_text(policy));
    if let Some(policy) = policy.and_then(|policy| HeaderValue::from_str(policy).ok()) {
        fields.insert(HeaderName::from_static(POLICY_FIELD), policy);
    }
    answer(respond, StatusCode::FORBIDDEN, fields, DENIAL.to_owned());
}

fn refuse(respond: &mut SendResponse<Bytes>, bad: BadRequest) {
    let status = StatusCode::from_u16(bad.status()).unwrap_or(StatusCode::BAD_REQUEST);
    answer(respond, status, HeaderMap::new(), format!("{bad}\n"));
}

/// Answers in the server's place. The rest of the request is not wanted.
fn answer(
    respond: &mut SendResponse<Bytes>,
    status: StatusCode,
    mut fields: HeaderMap,
    text: String,
) {
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    // Fails only when the client is gone, who then needs no answer. The text is shorter than any window.
    if let Ok(mut body) = respond.send_response(response, false) {
        let _sent: Result<(), h2::Error> = body.send_data(Bytes::from(text), true);
    }
}
