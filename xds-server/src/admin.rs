//! The admin port: health, metrics, status and a dump, read-only.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chain::Chain, metrics::Metrics, snapshot::Snapshot, status::StatusBoard, tokens::NodeTokens,
};

/// What the port shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The server's condition.
    pub status: Arc<StatusBoard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the nodes are given.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// For their file's fault.
    pub tokens: Arc<NodeTokens>,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! { // Cancel-safe: `accept` loses no connection.
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("the admin port cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        let admin = admin.clone();
        tasks.spawn(async move {
            admin.serve_connection(stream).await;
            drop(slot);
        });
    }
}

impl Admin {
    async fn serve_connection(self, stream: TcpStream) {
        let service = service_fn(move |request: Request<Incoming>| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(&request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES_MAX)
            .keep_alive(false);
        let served = timeout(
            REQUEST_TIMEOUT,
            http.serve_connection(TokioIo::new(stream), service),
        );
        match served.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("an admin request broke: {}", Chain(&error)),
            Err(_) => tracing::debug!("an admin request took too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.status.read().ready => text(StatusCode::OK, "ready\n"),
            "/readyz" => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the source is not read yet\n",
            ),
            "/metrics" => self.metrics(),
            "/status" => {
                let mut status = self.status.read();
                status.node_tokens = self.tokens.fault();
                json_answer(serde_json::to_vec_pretty(&status))
            }
            "/dump" => self.dump().await,
            _ => text(
                StatusCode::NOT_FOUND,
                "try /healthz /readyz /metrics /status /dump\n",
            ),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let page = self.metrics.render(&self.status.read().gauges());
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        answer(StatusCode::OK, kind, page.into())
    }

    /// A large mesh makes a large page, so it is written on a thread of its own.
    async fn dump(&self) -> Response<Full<Bytes>> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let written = tokio::task::spawn_blocking(move || dump_of(&snapshot)).await;
        match written {
            Ok(page) => json_answer(page),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the dump failed\n"),
        }
    }
}

fn dump_of(snapshot: &Snapshot) -> serde_json::Result<Vec<u8>> {
    let directory = &snapshot.directory;
    let mut workloads: Vec<_> = directory.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    serde_json::to_vec_pretty(&json!({
        "revision": snapshot.revision,
        "ready": snapshot.ready,
        "workloads": workloads.iter().map(|w| &***w).collect::<Vec<_>>(),
        "services": directory.services().map(|s| &**s).collect::<Vec<_>>(),
        "policies": directory.policies().map(|p| &**p).collect::<Vec<_>>(),
        "bundles": directory.bundles().map(|b| &**b).collect::<Vec<_>>(),
        "nodes": snapshot.nodes.iter().collect::<std::collections::BTreeSet<_>>(),
        "unheardClusters": snapshot.unheard.iter().collect::<Vec<_>>(),
    }))
}

fn json_answer(page: serde_json::Result<Vec<u8>>) -> Response<Full<Bytes>> {
    match page {
        Ok(page) => answer(StatusCode::OK, "application/json", page.into()),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the page cannot be written as JSON\n",
        ),
    }
}

fn text(code: StatusCode, page: &'static str) -> Response<Full<Bytes>> {
    answer(
        code,
        "text/plain; charset=utf-8",
        Bytes::from_static(page.as_bytes()),
    )
}

fn answer(code: StatusCode, kind: &'static str, page: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(page));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_BYTES_MAX: usize = 16 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
