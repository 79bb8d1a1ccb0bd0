//! HTTP/1 as applications use it.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tulle_node_proxy::http::{BadRequest, BadResponse, Ended, HttpSettings, HttpVerdict};
use tulle_policy::l7::HeaderEdit;

use crate::{
    origin::Origin,
    support::{Layer, RecordingJudge, in_time, read_until, talk, text},
};

/// A server whose one connection the test plays by hand.
struct ByHand {
    listener: TcpListener,
    layer: Layer,
}

impl ByHand {
    async fn start(judge: Arc<RecordingJudge>, settings: HttpSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let layer = Layer::start(listener.local_addr().unwrap(), judge, settings).await;
        ByHand { listener, layer }
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.layer.connect().await;
        let (server, _) = in_time("accept", self.listener.accept()).await.unwrap();
        (client, server)
    }

    /// Asks and answers.
    async fn converse(&self, request: &[u8], answer: &[u8]) -> (String, String) {
        let (mut client, mut server) = self.pair().await;
        client.write_all(request).await.unwrap();
        let asked = read_until(&mut server, b"\r\n\r\n").await;
        server.write_all(answer).await.unwrap();
        server.shutdown().await.unwrap();
        let mut got = Vec::new();
        let _end = in_time("the answer", client.read_to_end(&mut got)).await;
        (text(&asked), text(&got))
    }
}

async fn open() -> ByHand {
    ByHand::start(RecordingJudge::open(), HttpSettings::default()).await
}

#[tokio::test]
async fn a_connection_carries_many_requests() {
    let origin = Origin::start().await;
    let judge = RecordingJudge::open();
    let layer = Layer::start(origin.address, judge, HttpSettings::default()).await;
    let mut client = layer.connect().await;
    for turn in 0..50 {
        let request = format!("GET /{turn} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, b"\r\n\r\nok").await;
        assert!(text(&answer).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    drop(client);
    assert_eq!(origin.take_requests().await.len(), 50);
    assert!((layer.metric("http_requests_total", &["allowed"]) - 50.0).abs() < 0.1);
}

#[tokio::test]
async fn a_denied_request_leaves_the_connection_as_it_was() {
    let origin = Origin::start().await;
    let settings = HttpSettings {
        show_policy: true,
        ..HttpSettings::default()
    };
    for (settings, shown) in [(HttpSettings::default(), false), (settings, true)] {
        let judge = RecordingJudge::only("/public");
        let layer = Layer::start(origin.address, judge, settings).await;
        let mut client = layer.connect().await;
        client
            .write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /a HTTP/1.1\r\nHost: a\r\n\r\nGET /public HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let denied = text(&read_until(&mut client, b"Access denied\r\n").await);
        assert!(denied.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{denied}");
        assert_eq!(
            denied.contains("x-tulle-policy: cilium/default/only\r\n"),
            shown,
            "{denied}"
        );
        // No body for HEAD.
        let denied = text(&read_until(&mut client, b"\r\n\r\n").await);
        assert!(denied.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{denied}");
        let answer = text(&read_until(&mut client, b"ok").await);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        drop(client);
        assert_eq!(origin.take_requests().await.len(), 1);
        assert!((layer.metric("http_requests_total", &["denied"]) - 2.0).abs() < 0.1);
    }
}

#[tokio::test]
async fn a_denied_upload_is_answered_and_ends() {
    let origin = Origin::start().await;
    let judge = RecordingJudge::only("/public");
    let mut layer = Layer::start(origin.address, judge, HttpSettings::default()).await;
    let mut request = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".to_vec();
    request.extend(vec![b'x'; 100_000]);
    let answer = text(&talk(layer.connect().await, &request).await);
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.contains("Connection: close\r\n"), "{answer}");
    assert_eq!(layer.ended().await, Ended::Denied);
    assert_eq!(text(&origin.bytes()), "");
}

#[tokio::test]
async fn policy_edits_the_request() {
    let origin = Origin::start().await;
    let judge = RecordingJudge::new(|_| HttpVerdict::Allow {
        edits: vec![
            HeaderEdit::Add {
                name: "x-added".into(),
                value: "1".into(),
            },
            HeaderEdit::Set {
                name: "x-replaced".into(),
                value: "2".into(),
            },
            HeaderEdit::Remove {
                name: "x-gone".into(),
            },
            HeaderEdit::Note {
                name: "x-kept".into(),
            },
            // Not policy's to say.
            HeaderEdit::Set {
                name: "Content-Length".into(),
                value: "9".into(),
            },
        ],
    });
    let layer = Layer::start(origin.address, judge, HttpSettings::default()).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Replaced: 0\r\nX-Kept: 3\r\nX-Gone: 5\r\nX-Other: 6\r\n\r\n";
    talk(layer.connect().await, request).await;
    let (seen, _) = origin.take_requests().await.remove(0);
    let headers: Vec<_> = seen
        .headers
        .iter()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    assert_eq!(
        headers,
        ["x-kept=3", "x-other=6", "x-added=1", "x-replaced=2"]
    );
}

#[tokio::test]
async fn chunks_and_trailers_arrive_both_ways() {
    let mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await
        .unwrap();
    // The first chunk does not wait for the second.
    read_until(&mut server, b"\r\n\r\n3\r\nabc\r\n").await;
    client.write_all(b"0\r\nX-Sum: 1\r\n\r\n").await.unwrap();
    read_until(&mut server, b"0\r\nX-Sum: 1\r\n\r\n").await;
    server
        .write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n",
        )
        .await
        .unwrap();
    read_until(&mut client, b"\r\n\r\n2\r\nhi\r\n").await;
    server.write_all(b"0\r\nX-Sum: 2\r\n\r\n").await.unwrap();
    read_until(&mut client, b"0\r\nX-Sum: 2\r\n\r\n").await;
    // And the connection goes on.
    client
        .write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut server, b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_expects_is_told_to_continue() {
    let mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .await
        .unwrap();
    let head = text(&read_until(&mut server, b"\r\n\r\n").await);
    assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
    server
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        .await
        .unwrap();
    let interim = text(&read_until(&mut client, b"\r\n\r\n").await);
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hi").await.unwrap();
    read_until(&mut server, b"hi").await;
    server
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    let answer = text(&read_until(&mut client, b"\r\n\r\n").await);
    assert_eq!(answer, "HTTP/1.1 204 No Content\r\n\r\n");
    // Who answers without the body leaves open whether it comes: the connection ends.
    client
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .await
        .unwrap();
    read_until(&mut server, b"\r\n\r\n").await;
    server
        .write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let answer = text(&read_until(&mut client, b"\r\n\r\n").await);
    assert!(answer.contains("Connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_websocket_is_opened_and_carries_anything() {
    let mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n")
        .await
        .unwrap();
    let head = text(&read_until(&mut server, b"\r\n\r\n").await);
    assert!(
        head.contains("Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        "{head}"
    );
    server
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\r\n\x81\x00first")
        .await
        .unwrap();
    let answer = read_until(&mut client, b"\x81\x00first").await;
    assert!(text(&answer).starts_with("HTTP/1.1 101 "));
    client.write_all(b"\0\n\nGET").await.unwrap();
    read_until(&mut server, b"\0\n\nGET").await;
    client.shutdown().await.unwrap();
    assert_eq!(
        in_time("the end", server.read(&mut [0; 1])).await.unwrap(),
        0
    );
    server.write_all(b"bye").await.unwrap();
    drop(server);
    let mut rest = Vec::new();
    in_time("the end", client.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"bye");
}

#[tokio::test]
async fn a_websocket_that_is_refused_leaves_http() {
    let mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET /admin\0")
        .await
        .unwrap();
    read_until(&mut server, b"\r\n\r\n").await;
    server
        .write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut client, b"\r\n\r\n").await;
    // What comes next is a request again, and not one that can be read.
    client.write_all(b"\r\n\r\n").await.unwrap();
    let answer = text(&read_until(&mut client, b"\r\n\r\n").await);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let mut rest = Vec::new();
    let _end = in_time("the end", server.read_to_end(&mut rest)).await;
    assert_eq!(text(&rest), "");
}

#[tokio::test]
async fn answers_that_can_be_read_twice_are_not_passed_on() {
    let mesh = open().await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/3 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let (_, got) = mesh.converse(request, answer).await;
        assert!(
            got.starts_with("HTTP/1.1 502 "),
            "{:?}: {got:?}",
            text(answer)
        );
    }
}

#[tokio::test]
async fn answers_end_where_they_end() {
    let mesh = open().await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (answer, expected) in [
        (
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
        ),
        (
            "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nold",
            "HTTP/1.0 200 OK\r\nServer: x\r\nConnection: close\r\n\r\nold",
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        ),
    ] {
        let (_, got) = mesh.converse(request, answer.as_bytes()).await;
        assert_eq!(got, expected);
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_ends_the_connection() {
    let mut mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut server, b"\r\n\r\n").await;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server
        .write_all(&[&answer[..], answer].concat())
        .await
        .unwrap();
    let got = talk(client, b"").await;
    assert_eq!(text(&got), text(answer));
    assert_eq!(
        mesh.layer.ended().await,
        Ended::BadResponse(BadResponse::Unasked)
    );
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer() {
    let mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    client.shutdown().await.unwrap();
    read_until(&mut server, b"\r\n\r\n").await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    let mut got = Vec::new();
    in_time("the answer", client.read_to_end(&mut got))
        .await
        .unwrap();
    assert!(text(&got).ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn a_broken_side_breaks_the_other() {
    let mut mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut server, b"\r\n\r\n").await;
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert!(
        in_time("the reset", server.read(&mut [0; 1]))
            .await
            .is_err()
    );
    assert_eq!(mesh.layer.ended().await, Ended::DownstreamGone);

    // Half an answer must not look like a whole one.
    let (mut client, mut server) = mesh.pair().await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut server, b"\r\n\r\n").await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        .await
        .unwrap();
    read_until(&mut client, b"\r\n\r\nok").await;
    drop(server);
    assert!(
        in_time("the reset", client.read(&mut [0; 1]))
            .await
            .is_err()
    );
    assert_eq!(mesh.layer.ended().await, Ended::UpstreamGone);
}

#[tokio::test]
async fn other_protocols_are_closed_and_counted() {
    let mut mesh = open().await;
    for (first, expected) in [
        (&b"\x16\x03\x01\0\x01\x02"[..], Ended::Tls),
        (b"\0\0\0\x10mqtt", Ended::Unknown),
    ] {
        let (mut client, mut server) = mesh.pair().await;
        client.write_all(first).await.unwrap();
        let mut got = Vec::new();
        let _end = in_time("the end", client.read_to_end(&mut got)).await;
        let _end = in_time("the end", server.read_to_end(&mut got)).await;
        assert_eq!(got, b"");
        assert_eq!(mesh.layer.ended().await, expected);
    }
    // A server that greets is noticed at once, although the client waits for it.
    let (mut client, mut server) = mesh.pair().await;
    server.write_all(b"220 mail\r\n").await.unwrap();
    let mut got = Vec::new();
    let _end = in_time("the end", client.read_to_end(&mut got)).await;
    assert_eq!(got, b"");
    assert_eq!(mesh.layer.ended().await, Ended::ServerFirst);
    assert!((mesh.layer.metric("http_connections_total", &["Other"]) - 3.0).abs() < 0.1);
}

#[tokio::test]
async fn an_http2_server_may_send_its_settings_first() {
    let mut mesh = open().await;
    let (mut client, mut server) = mesh.pair().await;
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    server.write_all(settings).await.unwrap();
    // It is not cut off meanwhile.
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(200), client.read(&mut byte));
    assert!(early.await.is_err());
    client
        .write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings].concat())
        .await
        .unwrap();
    read_until(&mut server, b"SM\r\n\r\n").await;
    let mut head = [0; 9];
    in_time("settings", client.read_exact(&mut head))
        .await
        .unwrap();
    assert_eq!(head[3], 4);
    // For HTTP/1 it is an answer that nobody asked for.
    let (mut client, mut server) = mesh.pair().await;
    server.write_all(settings).await.unwrap();
    let _early = tokio::time::timeout(Duration::from_millis(200), client.read(&mut [0; 1])).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let expected = Ended::BadResponse(BadResponse::Unasked);
    assert_eq!(mesh.layer.ended().await, expected);
}

#[tokio::test]
async fn a_dripping_head_is_not_waited_for() {
    let settings = HttpSettings {
        head_timeout: Duration::from_millis(300),
        ..HttpSettings::default()
    };
    let mut mesh = ByHand::start(RecordingJudge::open(), settings).await;
    let (client, mut server) = mesh.pair().await;
    let (mut reader, mut writer) = client.into_split();
    let dripping = async {
        writer.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        while writer.write_all(b"X: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reading = async {
        let mut got = Vec::new();
        let _end = reader.read_to_end(&mut got).await;
        text(&got)
    };
    let (got, ()) = in_time("the end", async { tokio::join!(reading, dripping) }).await;
    assert!(got.starts_with("HTTP/1.1 408 "), "{got}");
    assert_eq!(
        mesh.layer.ended().await,
        Ended::Bad(BadRequest::HeadTimeout)
    );
    let mut rest = Vec::new();
    let _end = in_time("the end", server.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn heads_are_bounded() {
    let origin = Origin::start().await;
    let judge = RecordingJudge::open();
    let layer = Layer::start(origin.address, judge, HttpSettings::default()).await;
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    let endless = "GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned() + &"x".repeat(100_000);
    for request in [long, many, endless] {
        let answer = text(&talk(layer.connect().await, request.as_bytes()).await);
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let fits = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(60_000)
    );
    let answer = text(&talk(layer.connect().await, fits.as_bytes()).await);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_ends_in_order() {
    let settings = HttpSettings {
        idle_timeout: Duration::from_millis(100),
        ..HttpSettings::default()
    };
    let mut mesh = ByHand::start(RecordingJudge::open(), settings).await;
    let (mut client, mut server) = mesh.pair().await;
    assert_eq!(
        in_time("the end", client.read(&mut [0; 1])).await.unwrap(),
        0
    );
    assert_eq!(
        in_time("the end", server.read(&mut [0; 1])).await.unwrap(),
        0
    );
    drop((client, server));
    assert_eq!(mesh.layer.ended().await, Ended::Idle);
}
