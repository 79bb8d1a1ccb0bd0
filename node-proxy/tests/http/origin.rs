//! A server that takes HTTP/1 strictly, answers everything, and writes down what it saw.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{OF_CONNECTION, Seen};

/// The server.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    requests: Vec<(Seen, Vec<u8>)>,
    /// Everything that came, to its last byte.
    bytes: Vec<u8>,
    open: usize,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let record: Arc<Mutex<Record>> = Arc::default();
        let origin = Origin { address, record };
        let server = origin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                server.record.lock().unwrap().open += 1;
                tokio::spawn(async move {
                    server.serve(stream).await;
                    server.record.lock().unwrap().open -= 1;
                });
            }
        });
        origin
    }

    /// The requests since the last call, with their bodies, once all connections are over.
    pub(crate) async fn take_requests(&self) -> Vec<(Seen, Vec<u8>)> {
        crate::support::in_time("the server's end", async {
            while self.record.lock().unwrap().open > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let mut record = self.record.lock().unwrap();
        record.bytes.clear();
        std::mem::take(&mut record.requests)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.record.lock().unwrap().bytes.clone()
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut unread = Vec::new();
        loop {
            while let Some((seen, body, len)) = parse(&unread) {
                unread.drain(..len);
                self.record.lock().unwrap().requests.push((seen, body));
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(len @ 1..) => {
                    unread.extend_from_slice(&piece[..len]);
                    self.record
                        .lock()
                        .unwrap()
                        .bytes
                        .extend_from_slice(&piece[..len]);
                }
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// A whole request at the beginning of `bytes`, its body, and its length.
fn parse(bytes: &[u8]) -> Option<(Seen, Vec<u8>, usize)> {
    let head_len = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = &bytes[..head_len - 4];
    let mut lines = head
        .split(|b| *b == b'\n')
        .map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let first = String::from_utf8(lines.next()?.to_vec()).unwrap();
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: Vec<(String, Vec<u8>)> = lines
        .map(|line| {
            let colon = line.iter().position(|b| *b == b':').expect("a field");
            let name = std::str::from_utf8(&line[..colon])
                .unwrap()
                .to_ascii_lowercase();
            (name, line[colon + 1..].trim_ascii().to_vec())
        })
        .collect();
    let value = |name: &str| {
        headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };
    let rest = &bytes[head_len..];
    let (body, body_len) = if let Some(length) = value("content-length") {
        let length: usize = String::from_utf8(length).unwrap().parse().unwrap();
        (rest.get(..length)?.to_vec(), length)
    } else if value("transfer-encoding").is_some() {
        let end = rest.windows(5).position(|w| w == b"0\r\n\r\n")? + 5;
        (rest[..end].to_vec(), end)
    } else {
        (Vec::new(), 0)
    };
    let authority = value("host").map(|v| String::from_utf8(v).unwrap());
    let seen = Seen {
        method,
        path,
        authority: authority.unwrap_or_default(),
        headers: headers
            .into_iter()
            .filter(|(name, _)| !OF_CONNECTION.contains(&name.as_str()))
            .collect(),
    };
    Some((seen, body, head_len + body_len))
}
