//! What policy is asked about a request, and what it may answer.

use std::{future::pending, time::Duration};

use futures::future::BoxFuture;
use tokio::time::sleep;
use tulle_policy::{
    compiled::{HttpFacts, ServerName},
    l7::HeaderEdit,
};

use super::{
    error::BadRequest,
    readings::{has_broken_encoding, other_readings},
};

/// Decides about each request of a connection.
pub trait RequestJudge: Send + Sync {
    /// Whether the server may see the request. Called for every request, and again for every other way to read its path; it must
    /// not wait.
    fn judge(&self, request: &HttpFacts<'_>) -> HttpVerdict;

    /// What the connection may be, now that the name in the client's TLS hello is known, or that there is none. Called once.
    fn judge_server_name(&self, _name: ServerName<'_>) -> NameVerdict {
        NameVerdict::Requests
    }

    /// Ends when `is_over` says so, which is asked now and whenever the rules may have changed. Never, where rules do not change.
    fn watch<'a>(&'a self, _is_over: Box<dyn FnMut() -> bool + Send + 'a>) -> BoxFuture<'a, ()> {
        Box::pin(pending())
    }
}

/// What policy says about a connection whose first bytes were seen.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameVerdict {
    /// It may pass, whatever is said on it.
    Pass,
    /// Its requests have to be seen.
    Requests,
    /// It may pass, and its requests are to be seen as far as they can be.
    Audited,
    /// It may not pass.
    Deny,
}

/// What policy says about a request.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpVerdict {
    /// It may pass, with these changes to its fields.
    Allow {
        /// What policy adds to the request and takes from it.
        edits: Vec<HeaderEdit>,
    },
    /// It may not.
    Deny {
        /// Which policy says so, or that none allows it.
        policy: String,
    },
}

impl HttpVerdict {
    /// It may pass as it is.
    pub const ALLOW: HttpVerdict = HttpVerdict::Allow { edits: Vec::new() };
}

/// Asks about a request and about all ways to read its path: it may pass if it may pass in each.
///
/// # Errors
/// Fails for paths that cannot be judged.
pub(super) fn judge_all_readings(
    judge: &dyn RequestJudge,
    request: &HttpFacts<'_>,
) -> Result<HttpVerdict, BadRequest> {
    if has_broken_encoding(request.path) {
        return Err(BadRequest::PathEncoding);
    }
    let others = other_readings(request.path)?;
    let verdict = judge.judge(request);
    if let HttpVerdict::Deny { .. } = verdict {
        return Ok(verdict);
    }
    for path in &others {
        let reading = HttpFacts { path, ..*request };
        if let denied @ HttpVerdict::Deny { .. } = judge.judge(&reading) {
            return Ok(denied);
        }
    }
    Ok(verdict)
}

/// Ends when a request that was let through may not go on: a stream, or what follows an upgrade, may last for days, and rules change.
///
/// `may` judges it anew. Short requests, nearly all, cost a timer.
pub(super) async fn revoked<'a>(judge: &'a dyn RequestJudge, may: impl Fn() -> bool + Send + 'a) {
    sleep(RECONSIDERED_AFTER).await;
    judge.watch(Box::new(move || !may())).await;
}

/// Whether a request passes in each of its readings.
pub(super) fn is_allowed(judge: &dyn RequestJudge, request: &HttpFacts<'_>) -> bool {
    let verdict = judge_all_readings(judge, request);
    matches!(verdict, Ok(HttpVerdict::Allow { .. }))
}

/// What takes longer is looked at again when rules change.
const RECONSIDERED_AFTER: Duration = Duration::from_secs(1);
