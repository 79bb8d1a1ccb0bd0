//! HTTP/2 frames that two parsers may read differently: refused, or judged as the server sees them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Response, header};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tulle_node_proxy::http::{HttpSettings, HttpVerdict};

use crate::support::{Layer, OF_CONNECTION, RecordingJudge, Seen, in_time};

/// What must become of a request.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// The server sees nothing of it; the stream or the connection ends, or an error is answered.
    Refused,
    /// The server sees it as it was judged.
    Judged,
}

use Expect::{Judged, Refused};

type Fields = &'static [(&'static str, &'static str)];

const GOOD: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/public"),
];

const REQUESTS: &[(&str, Fields, Expect)] = &[
    ("a good request", &GOOD, Judged),
    (
        "no method",
        &[
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "no scheme",
        &[
            (":method", "GET"),
            (":authority", "a"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "no path",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a")],
        Refused,
    ),
    (
        "no authority and no host",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "a host only",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/public"),
            ("host", "a"),
        ],
        Judged,
    ),
    (
        "an empty path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", ""),
        ],
        Refused,
    ),
    (
        "a path without a slash",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "public"),
        ],
        Refused,
    ),
    (
        "an absolute path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "http://b/public"),
        ],
        Refused,
    ),
    (
        "two paths",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            (":path", "/admin"),
        ],
        Refused,
    ),
    (
        "two methods",
        &[
            (":method", "GET"),
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "two authorities",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":authority", "b"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "an unknown pseudo-field",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            (":admin", "1"),
        ],
        Refused,
    ),
    (
        "a status in a request",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            (":status", "200"),
        ],
        Refused,
    ),
    (
        "a pseudo-field behind a field",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            ("x", "y"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "a name in capitals",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("X-A", "y"),
        ],
        Refused,
    ),
    (
        "a connection field",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("connection", "close"),
        ],
        Refused,
    ),
    (
        "a transfer encoding",
        &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("transfer-encoding", "chunked"),
        ],
        Refused,
    ),
    (
        "an upgrade",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("upgrade", "h2c"),
        ],
        Refused,
    ),
    (
        "te of something else",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("te", "gzip"),
        ],
        Refused,
    ),
    (
        "a host that disagrees",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("host", "b"),
        ],
        Refused,
    ),
    (
        "two hosts",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/public"),
            ("host", "a"),
            ("host", "b"),
        ],
        Refused,
    ),
    (
        "a user in the authority",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "u@a"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "a line end in the path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public\r\nX: y"),
        ],
        Refused,
    ),
    (
        "a blank in the path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public /x"),
        ],
        Refused,
    ),
    (
        "a line end in a value",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("x", "a\r\nb: c"),
        ],
        Refused,
    ),
    (
        "a line end in a name",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("x\r\ny", "z"),
        ],
        Refused,
    ),
    (
        "a colon in a name",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("x:y", "z"),
        ],
        Refused,
    ),
    (
        "NUL in a value",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("x", "a\0b"),
        ],
        Refused,
    ),
    (
        "a line end in the method",
        &[
            (":method", "GET / HTTP/1.1\r\nX"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "CONNECT",
        &[(":method", "CONNECT"), (":authority", "a:443")],
        Refused,
    ),
    (
        "extended CONNECT",
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "another scheme",
        &[
            (":method", "GET"),
            (":scheme", "file"),
            (":authority", "a"),
            (":path", "/public"),
        ],
        Refused,
    ),
    (
        "two lengths",
        &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("content-length", "0"),
            ("content-length", "5"),
        ],
        Refused,
    ),
    (
        "a length that is a lie",
        &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("content-length", "5"),
        ],
        Refused,
    ),
    (
        "a length with an underscore",
        &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public"),
            ("content_length", "5"),
        ],
        Refused,
    ),
    (
        "encoded dots",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public/%2e%2e/admin"),
        ],
        Refused,
    ),
    (
        "dots",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public/../admin"),
        ],
        Refused,
    ),
    (
        "an encoded slash",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public/..%2fadmin"),
        ],
        Refused,
    ),
    (
        "a fragment",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public#/../admin"),
        ],
        Judged,
    ),
    (
        "two slashes",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/public//x"),
        ],
        Judged,
    ),
];

#[tokio::test]
async fn each_is_refused_or_judged_as_the_server_sees_it() {
    let (server, record) = recording_server().await;
    let mut failed = Vec::new();
    for (name, fields, expected) in REQUESTS {
        let judge = RecordingJudge::new(|request| match request.path.starts_with("/public") {
            true => HttpVerdict::ALLOW,
            false => HttpVerdict::Deny {
                policy: "none".into(),
            },
        });
        let layer = Layer::start(server, judge.clone(), HttpSettings::default()).await;
        let end = ask(&layer, fields).await;
        let seen = std::mem::take(&mut *record.lock().unwrap());
        let asked = judge.asked();
        let right = match expected {
            Refused => seen.is_empty() && end != Answer::Ok,
            Judged => seen.len() == 1 && asked.contains(&seen[0]) && end == Answer::Ok,
        };
        if !right {
            failed.push(format!(
                "{name}: expected {expected:?}, got {end:?}; judged {asked:?}; seen {seen:?}"
            ));
        }
    }
    println!("{} hostile HTTP/2 requests", REQUESTS.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What the client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Ok,
    Error,
    Reset,
    GoAway,
    Closed,
}

/// Sends one request by hand and reads what becomes of it.
async fn ask(layer: &Layer, fields: Fields) -> Answer {
    let mut client = layer.connect().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(0x4, 0, 0, &[]));
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal without indexing, with a literal name.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    // END_STREAM and END_HEADERS.
    bytes.extend(frame(0x1, 0x5, 1, &block));
    client.write_all(&bytes).await.unwrap();
    in_time("an answer", async {
        loop {
            let mut head = [0; 9];
            if client.read_exact(&mut head).await.is_err() {
                return Answer::Closed;
            }
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; len];
            if client.read_exact(&mut payload).await.is_err() {
                return Answer::Closed;
            }
            match head[3] {
                // The status of the static table: 200 is the eighth.
                0x1 if payload.first() == Some(&0x88) => return Answer::Ok,
                0x1 => return Answer::Error,
                0x3 => return Answer::Reset,
                0x7 => return Answer::GoAway,
                _ => {}
            }
        }
    })
    .await
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

async fn recording_server() -> (SocketAddr, Arc<Mutex<Vec<Seen>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let record: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let seen = Arc::clone(&record);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    seen.lock().unwrap().push(seen_of(&request));
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
                }
            });
        }
    });
    (address, record)
}

fn seen_of(request: &http::Request<h2::RecvStream>) -> Seen {
    assert!(request.headers().get(header::HOST).is_none());
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    Seen {
        method: request.method().to_string(),
        path: request.uri().path_and_query().unwrap().to_string(),
        authority: request.uri().authority().unwrap().to_string(),
        headers: headers
            .filter(|(name, _)| !OF_CONNECTION.contains(&name.as_str()))
            .collect(),
    }
}
