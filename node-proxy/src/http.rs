//! HTTP between an application and whom it talks to, where policy speaks of requests.
//!
//! One connection of a client is one connection to the server, never shared: so the identity that was proven for the connection is
//! that of each of its requests, and nothing that one client sends can end up in front of another's request. Each request is read
//! in one way only or refused, judged by what the server will see, and forwarded as it was judged. Bodies stream; what a
//! connection holds is bounded by [`HttpSettings`].
//!
//! Where policy speaks of the names in TLS hellos, the client's first bytes decide whether the connection passes as it is.
//!
//! Decides nothing about who may connect; what policy thinks of a request is asked of a [`RequestJudge`].

mod chunked;
mod detect;
mod error;
mod framing;
mod h1;
mod h2;
mod head;
mod hello;
mod inbox;
mod judge;
mod metrics;
mod readings;
mod request;
pub(crate) mod reread;
mod response;
mod settings;

use tokio::io::{AsyncRead, AsyncWrite};
use tulle_policy::compiled::ServerName;

use detect::{Protocol, detect};
pub use error::{BadRequest, BadResponse, Ended};
use inbox::Inbox;
pub use judge::{HttpVerdict, NameVerdict, RequestJudge};
use metrics::Spoken;
pub use metrics::{HttpCounters, HttpMetrics};
pub use settings::HttpSettings;

/// One side of a connection.
#[derive(Debug)]
pub struct Side<R, W> {
    /// What it sends.
    pub reader: R,
    /// What it is sent.
    pub writer: W,
}

/// What the connection is served by.
#[derive(Clone, Copy)]
pub struct Http<'a> {
    /// Limits and modes.
    pub settings: &'a HttpSettings,
    /// Who decides about requests.
    pub judge: &'a dyn RequestJudge,
    /// What is counted.
    pub metrics: &'a HttpCounters,
}

/// Serves one connection to its end: every request is judged before the server sees a byte of it.
///
/// The caller closes both sides as [`Ended`] demands. Dropping the future leaves both in the middle of what they were saying; the
/// caller then resets them.
pub async fn serve<DR, DW, UR, UW>(
    downstream: Side<DR, DW>,
    upstream: Side<UR, UW>,
    http: Http<'_>,
) -> Ended
where
    DR: AsyncRead + Unpin,
    DW: AsyncWrite + Unpin,
    UR: AsyncRead + Unpin,
    UW: AsyncWrite + Unpin,
{
    let mut connection = h1::Connection {
        downstream: Inbox::new(downstream.reader),
        downstream_writer: downstream.writer,
        upstream: Inbox::new(upstream.reader),
        upstream_writer: upstream.writer,
        http: &http,
        is_audit: false,
    };
    let detected = detect(
        &mut connection.downstream,
        &mut connection.upstream,
        http.settings,
    )
    .await;
    let protocol = match detected {
        Ok(protocol) => protocol,
        Err(ended) => {
            connection.close(ended).await;
            return ended;
        }
    };
    let name = match &protocol {
        Protocol::Tls(Some(name)) => ServerName::Name(name),
        Protocol::Tls(None) | Protocol::Http1 | Protocol::Http2 | Protocol::Other(_) => {
            ServerName::Absent
        }
    };
    let verdict = http.judge.judge_server_name(name);
    http.metrics.count_connection(match &protocol {
        Protocol::Http1 => Spoken::Http1,
        Protocol::Http2 => Spoken::Http2,
        Protocol::Tls(_) => Spoken::Tls,
        Protocol::Other(_) => Spoken::Other,
    });
    match (verdict, protocol) {
        (NameVerdict::Deny, _) => Ended::NameDenied,
        (NameVerdict::Pass, _) | (NameVerdict::Audited, Protocol::Tls(_) | Protocol::Other(_)) => {
            connection.serve_anything().await
        }
        (NameVerdict::Requests, Protocol::Http1) => connection.serve().await,
        (NameVerdict::Audited, Protocol::Http1) => {
            connection.is_audit = true;
            connection.serve().await
        }
        // Boxed: it is much larger than the other.
        (NameVerdict::Requests | NameVerdict::Audited, Protocol::Http2) => {
            Box::pin(h2::serve(connection)).await
        }
        (NameVerdict::Requests, Protocol::Tls(_)) => Ended::Tls,
        (NameVerdict::Requests, Protocol::Other(ended)) => ended,
    }
}

/// Whether a text can stand in a field.
fn is_field_text(text: &str) -> bool {
    text.bytes().all(|b| (b' '..0x7f).contains(&b))
}

/// What is taken of a client that goes on sending after its answer, so that the answer is not lost to a reset.
const DRAINED_LEN_MAX: usize = 256 * 1024;
/// What a client reads whose request is denied: what Cilium's users know.
const DENIAL: &str = "Access denied\r\n";
/// The field that names the policy, where it is told.
const POLICY_FIELD: &str = "x-tulle-policy";
