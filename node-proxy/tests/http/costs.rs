//! What judging costs: the same path with and without it, and what a flood costs its neighbour.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tulle_model::HttpRule;
use tulle_node_proxy::http::{HttpSettings, HttpVerdict, RequestJudge};
use tulle_policy::{compiled::HttpFacts, l7::HttpMatcher};

use crate::support::Layer;

/// A thousand rules, the last of which allows what is asked.
struct Rules(HttpMatcher);

impl Rules {
    fn new() -> Self {
        let rule = |number: usize| HttpRule {
            method: Some("GET|POST".into()),
            path: Some(format!("/service-{number}/v[0-9]+/.*")),
            ..HttpRule::default()
        };
        let rules: Vec<_> = (0..RULES).map(rule).collect();
        Rules(HttpMatcher::new(&rules))
    }
}

impl RequestJudge for Rules {
    fn judge(&self, request: &HttpFacts<'_>) -> HttpVerdict {
        match self.0.matches(request) {
            Some(edits) => HttpVerdict::Allow { edits },
            None => HttpVerdict::Deny {
                policy: String::new(),
            },
        }
    }
}

/// Answers everything with a small page.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(1..) = stream.read(&mut bytes).await {
                    if stream.write_all(ANSWER).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The same path, without a look at the requests.
async fn plain_relay(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(server).await.unwrap();
                client.set_nodelay(true).unwrap();
                upstream.set_nodelay(true).unwrap();
                let _end = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    address
}

/// Requests per second, and the median of their times.
async fn load(address: SocketAddr, connections: usize) -> (f64, Duration) {
    let mut clients = JoinSet::new();
    let end = Instant::now() + PERIOD;
    for _ in 0..connections {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut times = Vec::new();
            let mut bytes = vec![0; ANSWER.len()];
            while Instant::now() < end {
                let began = Instant::now();
                stream.write_all(REQUEST).await.unwrap();
                stream.read_exact(&mut bytes).await.unwrap();
                times.push(began.elapsed());
            }
            times
        });
    }
    let mut times: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let rate = f64::from(u32::try_from(times.len()).unwrap()) / PERIOD.as_secs_f64();
    (rate, times[times.len() / 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rules_cost_less_than_the_path() {
    let server = server().await;
    let relay = plain_relay(server).await;
    let layer = Layer::start(server, Arc::new(Rules::new()), HttpSettings::default()).await;
    for connections in [1, 16] {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let (plain, judged) = (
                load(relay, connections).await,
                load(layer.address(), connections).await,
            );
            ratios.push((
                judged.0 / plain.0,
                judged.1.as_secs_f64() / plain.1.as_secs_f64(),
            ));
            println!(
                "{connections} connections: plain {plain:.0?}, with {RULES} rules {judged:.0?}"
            );
        }
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, median) = ratios[ROUNDS / 2];
        println!("{connections} connections: rate {rate:.2}x, median {median:.2}x");
        // An unoptimised build measures itself.
        if !cfg!(debug_assertions) {
            assert!(rate >= 0.5 && median <= 2.0, "{rate:.2}x, {median:.2}x");
        }
    }
}

const RULES: usize = 1000;
const ROUNDS: usize = 3;
const PERIOD: Duration = Duration::from_millis(700);
const REQUEST: &[u8] = b"GET /service-999/v1/items?page=1 HTTP/1.1\r\nHost: shop.default.svc:8080\r\nUser-Agent: wrk\r\nAccept: */*\r\nX-Request-Id: 0123456789abcdef\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, world\n";
