//! Requests that two parsers may read differently: refused, or judged as the server sees them.

use tulle_node_proxy::http::{HttpSettings, HttpVerdict};

use crate::{
    origin::Origin,
    support::{Layer, RecordingJudge, talk, text},
};

/// What must become of the bytes.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// The server sees nothing of it; the client reads this status.
    Refused(u16),
    /// The server sees this many requests, each as it was judged.
    Judged(usize),
    /// The server sees a part of a body at most, and the connection ends.
    Cut,
}

use Expect::{Cut, Judged, Refused};

const REQUESTS: &[(&str, &[u8], Expect)] = &[
    // Lengths.
    ("two lengths that differ", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", Refused(400)),
    ("two equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ("a list of lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", Refused(400)),
    ("a signed length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", Refused(400)),
    ("a negative length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", Refused(400)),
    ("a hexadecimal length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", Refused(400)),
    ("a length with a blank inside", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\n0123456789", Refused(400)),
    ("a length beyond 64 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello", Refused(400)),
    ("an empty length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Refused(400)),
    ("a length with an underscore", b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello", Refused(400)),
    // Both framings, and odd encodings.
    ("a length and chunks", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("chunks and a length", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nX: ", Refused(400)),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("a list of encodings", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("chunked, identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Refused(400)),
    ("xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("a quoted encoding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused(400)),
    ("an encoding behind a vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("a blank before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("an encoding with an underscore", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("chunks in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("CHUNKED in capitals", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", Judged(1)),
    // Lines.
    ("a folded field", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\n\r\n", Refused(400)),
    ("a field folded by a tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tY: 2\r\n\r\n", Refused(400)),
    ("a blank line with a blank", b"GET / HTTP/1.1\r\nHost: a\r\n \r\nX: y\r\n\r\n", Refused(400)),
    ("a lone line feed", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Refused(400)),
    ("a lone line feed behind a field", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\nTransfer-Encoding: chunked\r\n\r\n", Refused(400)),
    ("lone line feeds at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Refused(400)),
    ("a lone carriage return in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", Refused(400)),
    ("a lone carriage return in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: 2\r\n\r\n", Refused(400)),
    ("two carriage returns", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Refused(400)),
    ("an empty line first", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Refused(400)),
    ("NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", Refused(400)),
    ("a field without a name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Refused(400)),
    ("a field without a colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Refused(400)),
    ("a name beyond ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nX\xff: b\r\n\r\n", Refused(400)),
    ("a value beyond ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4\xff\r\n\r\n", Judged(1)),
    ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", Refused(400)),
    ("two spellings of one field", b"GET / HTTP/1.1\r\nHost: a\r\nX-Role: user\r\nX_Role: admin\r\n\r\n", Refused(400)),
    // The first line.
    ("HTTP/0.9", b"GET /\r\n\r\n", Refused(400)),
    ("two blanks", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a blank in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a tab in the line", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a blank at the end", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refused(400)),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(400)),
    ("HTTP/2.0 in a line", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused(400)),
    ("http/1.1 in small letters", b"GET / http/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a method that is no token", b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Refused(405)),
    ("PRI within HTTP/1", b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a target without a slash", b"GET admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a star for GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a star for OPTIONS", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Judged(1)),
    // Hosts.
    ("no host", b"GET / HTTP/1.1\r\n\r\n", Refused(400)),
    ("an empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
    ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400)),
    ("two equal hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Refused(400)),
    ("a user in the host", b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", Refused(400)),
    ("a path in the host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400)),
    ("a list of hosts", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused(400)),
    ("an absolute target that agrees", b"GET http://A:80/b?c HTTP/1.1\r\nHost: a:80\r\n\r\n", Judged(1)),
    ("an absolute target that disagrees", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("an absolute target with a user", b"GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", Refused(400)),
    ("an absolute target of https", b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("an absolute target without a path", b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    // Paths.
    ("a plain path", b"GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n", Judged(1)),
    ("another case", b"GET /PUBLIC/a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("dots", b"GET /public/../admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("encoded dots", b"GET /public/%2e%2e/admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("dots encoded twice", b"GET /public/%252e%252e/admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("an encoded slash", b"GET /public/..%2fadmin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("an encoded backslash", b"GET /public/..%5cadmin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("a backslash", b"GET /public/..\\admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("dots with parameters", b"GET /public/..;x=1/admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("slashes that hide the host", b"GET //public/../admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(403)),
    ("two slashes inside", b"GET /public//a HTTP/1.1\r\nHost: a\r\n\r\n", Judged(1)),
    ("an encoded letter", b"GET /public/%61 HTTP/1.1\r\nHost: a\r\n\r\n", Judged(1)),
    ("an encoded NUL", b"GET /public/a%00.png HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("an encoded line end", b"GET /public/%0d%0aX:%20y HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("overlong dots", b"GET /public/%c0%ae%c0%ae/admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("a path that is not UTF-8", b"GET /public/\xff HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("an encoding that is none", b"GET /public/%zz HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("an encoding that ends early", b"GET /public/%2 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    // Connection options and expectations.
    ("an option that takes the host", b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", Refused(400)),
    ("an option that takes a credential", b"GET /public HTTP/1.1\r\nHost: a\r\nAuthorization: b\r\nConnection: authorization\r\n\r\n", Refused(400)),
    ("an option that takes another field", b"GET /public HTTP/1.1\r\nHost: a\r\nX-A: b\r\nConnection: x-a\r\n\r\n", Judged(1)),
    ("an option that is no token", b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", Refused(400)),
    ("an unknown expectation", b"POST /public HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n", Refused(400)),
    ("an upgrade to h2c", b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", Judged(1)),
    ("a WebSocket with a body", b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", Refused(400)),
    ("HTTP/1.0 that wants to stay", b"GET /public HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET /public HTTP/1.0\r\nHost: a\r\n\r\n", Judged(1)),
    ("HTTP/1.0 without a host", b"GET /public HTTP/1.0\r\n\r\n", Judged(1)),
    // Chunks.
    ("a chunk of no size", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n", Cut),
    ("a chunk of a wrong size", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n", Cut),
    ("a size with 0x", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n", Cut),
    ("a size beyond 64 bits", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nabcde\r\n0\r\n\r\n", Cut),
    ("a negative size", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabcde\r\n0\r\n\r\n", Cut),
    ("a blank before the extension", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 ;a\r\nabcde\r\n0\r\n\r\n", Cut),
    ("an extension with a line feed", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;\nabcde\r\n0\r\n\r\n", Cut),
    ("an extension with a carriage return", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nabcde\r\n0\r\n\r\n", Cut),
    ("a line feed behind the size", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n", Cut),
    ("a line feed behind the chunk", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\n0\r\n\r\n", Cut),
    ("a trailer that frames", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", Cut),
    ("a trailer that is a credential", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: b\r\n\r\n", Cut),
    ("a trailer that is folded", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", Cut),
    ("a short extension", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n0\r\n\r\n", Judged(1)),
    ("leading zeros", b"POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nabcde\r\n000\r\n\r\n", Judged(1)),
    // Requests inside of requests.
    ("a request in a GET's body", b"GET /public HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\nxxxxGET /public HTTP/1.1\r\nHost: a\r\n\r\n", Judged(1)),
    ("a second request that is denied", b"GET /public HTTP/1.1\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n", Judged(1)),
    ("a second request that is broken", b"GET /public HTTP/1.1\r\nHost: a\r\n\r\nGET /public HTTP/1.1\r\nHost : a\r\n\r\n", Judged(1)),
    ("three requests at once", b"GET /public HTTP/1.1\r\nHost: a\r\n\r\nPOST /public/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /public/3 HTTP/1.1\r\nHost: a\r\n\r\n", Judged(3)),
];

#[tokio::test]
async fn each_is_refused_or_judged_as_the_server_sees_it() {
    assert!(REQUESTS.len() >= 60, "{}", REQUESTS.len());
    let origin = Origin::start().await;
    let mut failed = Vec::new();
    for (name, bytes, expected) in REQUESTS {
        if let Err(why) = check(&origin, bytes, *expected).await {
            failed.push(format!("{name}: {why}"));
        }
    }
    println!("{} hostile requests", REQUESTS.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Policy allows everything below `/public`, and the plain paths that the cases about other things ask for.
async fn check(origin: &Origin, bytes: &[u8], expected: Expect) -> Result<(), String> {
    let judge = RecordingJudge::new(|request| {
        let path = request.path.split('?').next().unwrap_or_default();
        match path.starts_with("/public") || matches!(path, "/" | "*" | "/b") {
            true => HttpVerdict::ALLOW,
            false => HttpVerdict::Deny {
                policy: "none".into(),
            },
        }
    });
    let layer = Layer::start(origin.address, judge.clone(), HttpSettings::default()).await;
    let answer = text(&talk(layer.connect().await, bytes).await);
    let requests = origin.take_requests().await;
    let asked = judge.asked();
    let as_judged = requests.iter().all(|(seen, _)| asked.contains(seen));
    let right = match expected {
        Refused(status) => {
            requests.is_empty() && answer.starts_with(&format!("HTTP/1.1 {status} "))
        }
        Judged(count) => requests.len() == count && as_judged && answer.starts_with("HTTP/1.1 200"),
        Cut => requests.is_empty() && !answer.contains(" 200 "),
    };
    match right {
        true => Ok(()),
        false => Err(format!(
            "expected {expected:?}; judged {asked:?}; the server saw {requests:?}; the client read {answer:?}"
        )),
    }
}

#[tokio::test]
async fn nothing_of_a_refused_request_reaches_the_server() {
    let origin = Origin::start().await;
    for (name, bytes, expected) in REQUESTS {
        if let Refused(_) = expected {
            let judge = RecordingJudge::only("/public");
            let layer = Layer::start(origin.address, judge, HttpSettings::default()).await;
            talk(layer.connect().await, bytes).await;
            assert_eq!(text(&origin.bytes()), "", "{name}");
        }
    }
}
