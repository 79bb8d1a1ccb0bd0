//! Rules that change while a request that they let through is still being answered.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};
use tulle_node_proxy::http::{Ended, HttpSettings, HttpVerdict, RequestJudge};
use tulle_policy::compiled::HttpFacts;

use crate::support::{Layer, in_time, read_until, text};

/// Lets through the paths that begin as the rules say now.
struct ChangingJudge(watch::Receiver<&'static str>);

impl ChangingJudge {
    fn new(prefix: &'static str) -> (Arc<Self>, watch::Sender<&'static str>) {
        let (rules, now) = watch::channel(prefix);
        (Arc::new(ChangingJudge(now)), rules)
    }
}

impl RequestJudge for ChangingJudge {
    fn judge(&self, request: &HttpFacts<'_>) -> HttpVerdict {
        match request.path.starts_with(*self.0.borrow()) {
            true => HttpVerdict::ALLOW,
            false => HttpVerdict::Deny {
                policy: "cilium/default/changed".into(),
            },
        }
    }

    fn watch<'a>(&'a self, mut is_over: Box<dyn FnMut() -> bool + Send + 'a>) -> BoxFuture<'a, ()> {
        let mut rules = self.0.clone();
        Box::pin(async move {
            let _over = rules.wait_for(|_| is_over()).await;
        })
    }
}

/// A server that answers with `answer`, and then goes on to say `then`.
async fn endless(answer: &'static [u8], then: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_until(&mut stream, b"\r\n\r\n").await;
                let mut next = answer;
                while stream.write_all(next).await.is_ok() {
                    next = then;
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    address
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn an_answer_that_is_allowed_no_longer_is_cut() {
    let get = "GET /feed HTTP/1.1\r\nHost: server\r\n\r\n";
    let upgrade =
        "GET /feed HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (request, answer) in [(get, CHUNKED), (upgrade, SWITCHED)] {
        let server = endless(answer, b"1\r\nx\r\n").await;
        let (judge, rules) = ChangingJudge::new("/");
        let mut layer = Layer::start(server, judge, HttpSettings::default()).await;
        let mut client = layer.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut client, b"1\r\nx\r\n").await;
        // A change that leaves it allowed leaves it alone.
        rules.send("/feed").unwrap();
        let mut feed = vec![0; 1 << 20];
        in_time("more", client.read_exact(&mut feed)).await.unwrap();
        rules.send("/other").unwrap();
        let end = in_time("the cut", async {
            loop {
                if let Err(error) = client.read(&mut feed).await {
                    return error;
                }
            }
        });
        // Not a clean end: the client must not take half an answer for a whole one.
        assert_eq!(end.await.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(layer.ended().await, Ended::Revoked);
    }
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_denied() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let (judge, rules) = ChangingJudge::new("/");
    let mut layer = Layer::start(server, judge, HttpSettings::default()).await;
    let mut client = layer.connect().await;
    let request = b"GET /slow HTTP/1.1\r\nHost: server\r\n\r\n";
    client.write_all(request).await.unwrap();
    let (mut asked, _) = listener.accept().await.unwrap();
    read_until(&mut asked, b"\r\n\r\n").await;
    rules.send("/other").unwrap();
    let mut answer = Vec::new();
    in_time("the denial", client.read_to_end(&mut answer))
        .await
        .unwrap();
    let answer = text(&answer);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(layer.ended().await, Ended::Denied);
}

#[tokio::test]
async fn one_stream_of_http2_is_cut_and_the_others_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"first"), false).unwrap();
            held.push(body);
        }
    });
    let (judge, rules) = ChangingJudge::new("/");
    let layer = Layer::start(server, judge, HttpSettings::default()).await;
    let (requests, connection) = h2::client::handshake(layer.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for path in ["/feed", "/other"] {
        let mut requests = requests.clone().ready().await.unwrap();
        let request = Request::get(format!("http://server{path}")).body(());
        let (answer, _) = requests.send_request(request.unwrap(), true).unwrap();
        let mut body = in_time("the head", answer).await.unwrap().into_body();
        let first = in_time("the first piece", body.data()).await;
        assert_eq!(first.unwrap().unwrap(), "first");
        bodies.push(body);
    }
    rules.send("/other").unwrap();
    let cut = in_time("the cut", bodies[0].data()).await.unwrap();
    assert_eq!(cut.unwrap_err().reason(), Some(h2::Reason::CANCEL));
    let other = tokio::time::timeout(SOON, bodies[1].data()).await;
    assert!(other.is_err(), "{other:?}");
    let mut requests = requests.ready().await.unwrap();
    let request = Request::get("http://server/other/2").body(()).unwrap();
    let (answer, _) = requests.send_request(request, true).unwrap();
    let answer = in_time("another answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Longer than what is cut needs.
const SOON: std::time::Duration = std::time::Duration::from_millis(200);
