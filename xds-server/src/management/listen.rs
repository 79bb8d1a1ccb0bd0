//! The port of the management API. Everything that a stranger can send is bounded here.

use std::{pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tulle_identity::{ServerTls, TlsStream};

use super::Management;
use crate::{
    ads::DRAIN_TIMEOUT,
    chain::Chain,
    server::{Caller, shake_hands},
};

/// Serves until `stop`; the connections themselves are `tasks`.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    management: Arc<Management>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! { // Cancel-safe: `accept` loses no connection.
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("the management port cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            management.metrics.count_management("limit");
            continue;
        };
        let (tls, management) = (Arc::clone(&tls), Arc::clone(&management));
        let stop = stop.clone();
        tasks.spawn(async move {
            match shake_hands(stream, address, &tls).await {
                Ok((stream, peer)) => {
                    serve_http(stream, Caller::new(peer, address), management, stop).await;
                }
                Err(_) => management.metrics.count_management("handshake"),
            }
            drop(slot);
        });
    }
}

async fn serve_http(
    stream: TlsStream<TcpStream>,
    caller: Caller,
    management: Arc<Management>,
    stop: CancellationToken,
) {
    let address = caller.address;
    let age = {
        let caller = caller.clone();
        async move {
            tokio::select! { // Cancel-safe: both only wait.
                () = caller.until_expired() => {}
                () = sleep(CONNECTION_AGE_MAX) => {}
            }
        }
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let (management, caller) = (Arc::clone(&management), caller.clone());
        async move { management.answer(&caller, request).await }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! { // Cancel-safe: the connection is polled on below.
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
        () = age => {
            connection.as_mut().graceful_shutdown();
            timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, "a management connection broke: {}", Chain(&error));
    }
}

const CONNECTIONS_MAX: usize = 64;
/// A command asks a few questions; one that waits asks on for minutes, and dials again when it must.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(120);
const STREAMS_MAX: u32 = 16;
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
const RESET_STREAMS_MAX: usize = 20;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
