//! What the management API answers: JSON, and for everything that was not done one sentence.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tulle_wire::management::Failure;

use crate::chain::Chain;

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: StatusCode,
    /// For the counter.
    pub(super) reason: &'static str,
    sentence: String,
}

impl Refusal {
    pub(super) fn bad_request(sentence: String) -> Self {
        Refusal {
            code: StatusCode::BAD_REQUEST,
            reason: "bad_request",
            sentence,
        }
    }

    pub(super) fn not_found(sentence: String) -> Self {
        Refusal {
            code: StatusCode::NOT_FOUND,
            reason: "not_found",
            sentence,
        }
    }

    /// It does not fit what is there.
    pub(super) fn conflict(sentence: String) -> Self {
        Refusal {
            code: StatusCode::CONFLICT,
            reason: "conflict",
            sentence,
        }
    }

    /// The caller has not proven who it is.
    pub(super) fn stranger() -> Self {
        Refusal {
            code: StatusCode::UNAUTHORIZED,
            reason: "unauthenticated",
            sentence: "an operator's certificate or token is needed here".to_owned(),
        }
    }

    /// The caller is somebody else.
    pub(super) fn forbidden(sentence: String) -> Self {
        Refusal {
            code: StatusCode::FORBIDDEN,
            reason: "forbidden",
            sentence,
        }
    }

    pub(super) fn method(allowed: &str) -> Self {
        Refusal {
            code: StatusCode::METHOD_NOT_ALLOWED,
            reason: "method",
            sentence: format!("only {allowed} is served here"),
        }
    }

    pub(super) fn too_large(max: usize) -> Self {
        Refusal {
            code: StatusCode::PAYLOAD_TOO_LARGE,
            reason: "too_large",
            sentence: format!("the content has more than {max} bytes"),
        }
    }

    pub(super) fn late() -> Self {
        Refusal {
            code: StatusCode::REQUEST_TIMEOUT,
            reason: "timeout",
            sentence: "the request was not done in time".to_owned(),
        }
    }

    /// The server itself cannot do it now.
    pub(super) fn failed(action: &str, error: &dyn std::error::Error) -> Self {
        Refusal {
            code: StatusCode::SERVICE_UNAVAILABLE,
            reason: "failed",
            sentence: format!("cannot {action}: {}", Chain(error)),
        }
    }

    pub(super) fn answer(&self) -> Response<Full<Bytes>> {
        let failure = Failure {
            error: self.sentence.clone(),
        };
        respond(self.code, &failure)
    }
}

/// The answer to a request that was done.
pub(super) fn done(value: &impl Serialize) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, value)
}

fn respond(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    // The messages hold no map with keys that are not texts, so writing them cannot fail.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    // Some answers hold a key.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
