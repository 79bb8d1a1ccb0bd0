//! The admin server: is the proxy alive, is it ready, what does it count, what does it know.
//!
//! On loopback, on a thread of its own, and read-only: it can neither stall traffic nor change anything. It decides nothing but
//! what readiness means ([`readiness`]).

mod dump;
pub mod readiness;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use dump::DumpSources;
use readiness::Readiness;

/// What the admin server shows.
pub struct Admin {
    /// What decides about readiness.
    pub readiness: Readiness,
    /// All metrics.
    pub registry: Registry,
    /// What the dump shows.
    pub dump: Arc<DumpSources>,
}

/// The server's state.
struct Server {
    admin: Admin,
    /// A dump of a large mesh takes memory and time: one at a time.
    dumps: Arc<Semaphore>,
}

type Body = BoxBody<Bytes, Infallible>;

impl Admin {
    /// Serves until it is cancelled.
    ///
    /// # Errors
    /// The listener cannot be used by this runtime.
    pub async fn serve(
        self,
        listener: std::net::TcpListener,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let server = Arc::new(Server {
            admin: self,
            dumps: Arc::new(Semaphore::new(1)),
        });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        loop {
            // Both arms are cancel-safe: an accepted connection is returned or still in the queue.
            let accepted = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _client)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "an admin connection cannot be accepted");
                    sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            // Without a place the connection is closed at once.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let server = Arc::clone(&server);
            tasks.spawn(cancel.clone().run_until_cancelled_owned(async move {
                serve_connection(stream, server).await;
                drop(place);
            }));
        }
    }
}

async fn serve_connection(stream: TcpStream, server: Arc<Server>) {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_LEN_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection failed"),
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
}

impl Server {
    /// Answers one request; bodies of requests are not read.
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => match self.admin.readiness.missing() {
                missing if missing.is_empty() => plain(StatusCode::OK, "ready\n"),
                missing => plain(StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
            },
            "/metrics" => self.metrics(),
            "/dump" => match Arc::clone(&self.dumps).try_acquire_owned() {
                Ok(place) => {
                    let body = dump::stream(Arc::clone(&self.admin.dump), place);
                    with_type("application/json", body)
                }
                Err(_) => plain(StatusCode::TOO_MANY_REQUESTS, "another dump is under way\n"),
            },
            "/" => plain(StatusCode::OK, "/healthz\n/readyz\n/metrics\n/dump\n"),
            _ => plain(
                StatusCode::NOT_FOUND,
                "try /healthz, /readyz, /metrics or /dump\n",
            ),
        }
    }

    fn metrics(&self) -> Response<Body> {
        let mut out = String::new();
        match text::encode(&mut out, &self.admin.registry) {
            Ok(()) => with_type(METRICS_TYPE, Full::new(Bytes::from(out)).boxed()),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = with_type("text/plain; charset=utf-8", Full::new(text.into()).boxed());
    *response.status_mut() = status;
    response
}

fn with_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// People with curl, a scraper, the kubelet.
const CONNECTIONS_MAX: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_LEN_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// A scraper that keeps its connection longer opens a new one.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
const ERROR_PAUSE: Duration = Duration::from_millis(20);
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests;
