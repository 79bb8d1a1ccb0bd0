//! HTTP/2 as applications use it: calls with streams both ways and trailers, resets, many at once, bulk.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;
use tulle_node_proxy::http::{Ended, HttpSettings};

use crate::support::{Layer, RecordingJudge, in_time};

/// A server that hands every request to `answer`.
async fn serve<F, A>(answer: A) -> SocketAddr
where
    A: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                // By default it ends connections on which a hundred small messages wait to be read.
                let mut builder = h2::server::Builder::new();
                builder.data_frame_budget(SMALL_FRAMES_LEN_MAX);
                let Ok(mut connection) = builder.handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    address
}

async fn connect(layer: &Layer) -> SendRequest<Bytes> {
    let stream = layer.connect().await;
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(SMALL_FRAMES_LEN_MAX);
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

fn request(path: &str) -> Request<()> {
    let uri = format!("http://server{path}");
    Request::post(uri)
        .header("te", "trailers")
        .body(())
        .unwrap()
}

async fn send(
    requests: &SendRequest<Bytes>,
    path: &str,
    ends: bool,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let requests = requests.clone().ready().await.unwrap();
    let mut requests = requests;
    requests.send_request(request(path), ends).unwrap()
}

/// Returns what comes, and the trailers.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        answer.send_data(piece, false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    if let Ok(Some(sent)) = body.trailers().await {
        trailers.extend(sent);
    }
    answer.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn a_call_streams_both_ways_and_ends_with_trailers() {
    let server = serve(echo).await;
    let judge = RecordingJudge::only("/package.Service/");
    let layer = Layer::start(server, judge.clone(), HttpSettings::default()).await;
    let requests = connect(&layer).await;
    let (response, mut up) = send(&requests, "/package.Service/Method", false).await;
    let response = in_time("the head", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for turn in 0..20 {
        let piece = Bytes::from(format!("message {turn}"));
        up.send_data(piece.clone(), false).unwrap();
        // Each message comes back before the next one goes.
        let got = in_time("a message", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(got.len()).unwrap();
        assert_eq!(got, piece);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    up.send_trailers(trailers).unwrap();
    assert!(in_time("the end", body.data()).await.is_none());
    let trailers = in_time("trailers", body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-sum"], "7");
    let asked = judge.asked().remove(0);
    assert_eq!(
        (&*asked.method, &*asked.path, &*asked.authority),
        ("POST", "/package.Service/Method", "server")
    );
}

#[tokio::test]
async fn one_denied_call_is_no_matter_for_the_others() {
    let server = serve(echo).await;
    let judge = RecordingJudge::only("/public");
    let layer = Layer::start(server, judge, HttpSettings::default()).await;
    let requests = connect(&layer).await;
    let (allowed, mut up) = send(&requests, "/public", false).await;
    let (denied, mut denied_up) = send(&requests, "/admin", false).await;
    let denied = in_time("the denial", denied).await.unwrap();
    assert_eq!(denied.status(), 403);
    assert!(denied.headers().get("x-tulle-policy").is_none());
    let _refused = denied_up.send_data(Bytes::from_static(b"unread"), false);
    let mut body = denied.into_body();
    let text = in_time("the text", body.data()).await.unwrap().unwrap();
    assert_eq!(text, "Access denied\r\n");
    let response = in_time("the head", allowed).await.unwrap();
    up.send_data(Bytes::from_static(b"hi"), true).unwrap();
    let mut body = response.into_body();
    assert_eq!(
        in_time("the echo", body.data()).await.unwrap().unwrap(),
        "hi"
    );
}

/// Whether the policy or the server answers before the body has come: a stream that ends at once is told so by a reset, and a client
/// that is still sending may forget the answer (curl 7.88 shows no status then).
#[tokio::test]
async fn an_early_answer_leaves_the_client_time_to_end_its_request() {
    let server = serve(|request, mut respond: SendResponse<Bytes>| async move {
        respond.send_response(Response::new(()), true).unwrap();
        drop(request);
    })
    .await;
    let judge = RecordingJudge::only("/public");
    let layer = Layer::start(server, judge, HttpSettings::default()).await;
    let requests = connect(&layer).await;
    for (path, status) in [("/public", 200), ("/admin", 403)] {
        let (response, mut up) = send(&requests, path, false).await;
        let response = in_time("the head", response).await.unwrap();
        assert_eq!(response.status(), status);
        let mut body = response.into_body();
        while let Some(piece) = in_time("the text", body.data()).await {
            piece.unwrap();
        }
        // Frames of one connection come in order: what was sent with the first answer is here before the next one.
        let (next, _) = send(&requests, "/admin", true).await;
        in_time("the next head", next).await.unwrap();
        let reset = poll_fn(|cx| Poll::Ready(up.poll_reset(cx))).await;
        assert!(reset.is_pending(), "{path}: {reset:?}");
        up.send_data(Bytes::from_static(b"the rest"), true).unwrap();
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_with_its_reason() {
    let (told, mut heard) = tokio::sync::mpsc::channel(4);
    let server = serve(
        move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let told = told.clone();
            async move {
                if request.uri().path() == "/break" {
                    respond.send_reset(Reason::INADEQUATE_SECURITY);
                    return;
                }
                let mut body = request.into_body();
                while let Some(piece) = body.data().await {
                    if let Err(error) = piece {
                        told.send(error.reason()).await.unwrap();
                    }
                }
            }
        },
    )
    .await;
    let judge = RecordingJudge::open();
    let layer = Layer::start(server, judge, HttpSettings::default()).await;
    let requests = connect(&layer).await;
    let (_response, mut up) = send(&requests, "/hold", false).await;
    up.send_data(Bytes::from_static(b"x"), false).unwrap();
    // Sent before the reset, so it has arrived.
    let (other, _) = send(&requests, "/break", true).await;
    let error = in_time("the reset", other).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INADEQUATE_SECURITY));
    up.send_reset(Reason::CANCEL);
    let reason = in_time("the reset", heard.recv()).await.unwrap();
    assert_eq!(reason, Some(Reason::CANCEL));
}

#[tokio::test]
async fn many_calls_go_at_once() {
    let server = serve(echo).await;
    let judge = RecordingJudge::open();
    let layer = Layer::start(server, judge, HttpSettings::default()).await;
    let requests = connect(&layer).await;
    // From the first answer on the client knows how many calls it may have open.
    let (first, _) = send(&requests, "/", true).await;
    in_time("the first answer", first).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for turn in 0..1000 {
        let requests = requests.clone();
        calls.spawn(async move {
            let (response, mut up) = send(&requests, &format!("/{turn}"), false).await;
            up.send_data(Bytes::from(turn.to_string()), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            let got = body.data().await.unwrap().unwrap();
            assert_eq!(got, turn.to_string());
        });
    }
    in_time("the calls", calls.join_all()).await;
    assert!((layer.metric("http_requests_total", &["allowed"]) - 1001.0).abs() < 0.1);
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let server = serve(move |_request, _respond| {
        count.fetch_add(1, Relaxed);
        std::future::pending()
    })
    .await;
    let judge = RecordingJudge::open();
    let mut layer = Layer::start(server, judge, HttpSettings::default()).await;
    let requests = connect(&layer).await;
    let mut sent = 0;
    let flood = async {
        while let Ok(mut ready) = requests.clone().ready().await {
            let Ok((_response, mut up)) = ready.send_request(request("/"), false) else {
                break;
            };
            // Lets the request out before its reset, as an attacker would.
            tokio::task::yield_now().await;
            up.send_reset(Reason::CANCEL);
            sent += 1;
            assert!(sent < 100_000, "nobody minds");
        }
    };
    in_time("the end of patience", flood).await;
    let ended = layer.ended().await;
    assert!(
        matches!(ended, Ended::RapidReset | Ended::Http2),
        "{ended:?}"
    );
    println!(
        "after {sent} resets the connection ended; the server saw {}",
        seen.load(Relaxed)
    );
    assert!(seen.load(Relaxed) <= 600);
}

/// Bulk passes and nothing piles up, HTTP/1 and HTTP/2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_size_pass_in_bounded_memory() {
    let server = serve(
        |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            let mut body = request.into_body();
            let mut len = 0;
            while let Some(Ok(piece)) = body.data().await {
                body.flow_control().release_capacity(piece.len()).unwrap();
                len += piece.len();
            }
            let response = Response::builder().header("x-len", len);
            respond
                .send_response(response.body(()).unwrap(), true)
                .unwrap();
        },
    )
    .await;
    let judge = RecordingJudge::open();
    let layer = Layer::start(server, judge, HttpSettings::default()).await;
    let requests = connect(&layer).await;
    let before = resident_len();
    let (response, mut up) = send(&requests, "/", false).await;
    let piece = Bytes::from(vec![1; 64 * 1024]);
    let mut left = BULK_LEN;
    let sending = async {
        while left > 0 {
            up.reserve_capacity(piece.len().min(left));
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx))
                .await
                .unwrap()
                .unwrap();
            let part = piece.slice(..room.min(piece.len()).min(left));
            left -= part.len();
            up.send_data(part, left == 0).unwrap();
        }
        response.await.unwrap()
    };
    let response = in_time("the bulk", sending).await;
    assert_eq!(response.headers()["x-len"], BULK_LEN.to_string());
    let grown = resident_len().saturating_sub(before);
    println!("100 MiB over HTTP/2: {grown} bytes more in client, layer and server");
    assert!(grown < GROWTH_MAX, "{grown}");
}

/// A reader that stops stops the writer, at the windows of the layer.
#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    let server = serve(
        |request: Request<RecvStream>, respond: SendResponse<Bytes>| async move {
            let _held = (request, respond);
            std::future::pending().await
        },
    )
    .await;
    let judge = RecordingJudge::open();
    let layer = Layer::start(server, judge, HttpSettings::default()).await;
    let requests = connect(&layer).await;
    let (_response, mut up) = send(&requests, "/", false).await;
    let mut sent = 0;
    loop {
        up.reserve_capacity(1024 * 1024);
        let room = std::future::poll_fn(|cx| up.poll_capacity(cx));
        let Ok(room) = tokio::time::timeout(Duration::from_millis(500), room).await else {
            break;
        };
        let room = room.unwrap().unwrap();
        up.send_data(Bytes::from(vec![0; room]), false).unwrap();
        sent += room;
    }
    println!("{sent} bytes went into a call that nobody reads");
    assert!(sent <= 2 * 1024 * 1024, "{sent}");
}

fn resident_len() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

const SMALL_FRAMES_LEN_MAX: usize = 1024 * 1024;
const BULK_LEN: usize = 100 * 1024 * 1024;
/// Windows, buffers, and what the allocator keeps.
const GROWTH_MAX: usize = 24 * 1024 * 1024;
