//! The layer between two loopback sockets, with a judge that writes down what it was asked.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use prometheus_client::registry::Registry;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tulle_node_proxy::{
    http::{Ended, Http, HttpMetrics, HttpSettings, HttpVerdict, RequestJudge, Side, serve},
    plane::Direction,
};
use tulle_policy::compiled::HttpFacts;

/// A request, as somebody saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authority: String,
    /// Lower-case names; without the fields that frame the message.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

/// What the framing and the connection need; policy is not asked about it.
pub(crate) const OF_CONNECTION: [&str; 6] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "upgrade",
];

type Decide = dyn Fn(&HttpFacts<'_>) -> HttpVerdict + Send + Sync;

/// Decides as the test says, and writes down what it was asked.
pub(crate) struct RecordingJudge {
    decide: Box<Decide>,
    asked: Mutex<Vec<Seen>>,
}

impl RecordingJudge {
    pub(crate) fn new(
        decide: impl Fn(&HttpFacts<'_>) -> HttpVerdict + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(RecordingJudge {
            decide: Box::new(decide),
            asked: Mutex::default(),
        })
    }

    /// Everything passes.
    pub(crate) fn open() -> Arc<Self> {
        Self::new(|_| HttpVerdict::ALLOW)
    }

    /// Only paths that begin so pass.
    pub(crate) fn only(prefix: &'static str) -> Arc<Self> {
        Self::new(move |request| match request.path.starts_with(prefix) {
            true => HttpVerdict::ALLOW,
            false => HttpVerdict::Deny {
                policy: "cilium/default/only".into(),
            },
        })
    }

    pub(crate) fn asked(&self) -> Vec<Seen> {
        self.asked.lock().unwrap().clone()
    }
}

impl RequestJudge for RecordingJudge {
    fn judge(&self, request: &HttpFacts<'_>) -> HttpVerdict {
        let headers = request.headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), value.to_vec()));
        self.asked.lock().unwrap().push(Seen {
            method: request.method.into(),
            path: request.path.into(),
            authority: request.authority.into(),
            headers: headers
                .filter(|(name, _)| !OF_CONNECTION.contains(&name.as_str()))
                .collect(),
        });
        (self.decide)(request)
    }
}

/// The layer, in front of a server.
pub(crate) struct Layer {
    address: SocketAddr,
    ended: mpsc::Receiver<Ended>,
    registry: Registry,
}

impl Layer {
    pub(crate) async fn start(
        server: SocketAddr,
        judge: Arc<dyn RequestJudge>,
        settings: HttpSettings,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, ended) = mpsc::channel(10_000);
        let mut registry = Registry::default();
        let metrics = HttpMetrics::default();
        metrics.register(&mut registry);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (judge, settings) = (Arc::clone(&judge), settings.clone());
                let (metrics, told) = (metrics.clone(), told.clone());
                tokio::spawn(async move {
                    let end = carry(client, server, &*judge, &settings, &metrics).await;
                    let _told = told.send(end).await;
                });
            }
        });
        Layer {
            address,
            ended,
            registry,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// How the next connection ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        in_time("the end", self.ended.recv()).await.unwrap()
    }

    /// The sum of all series of a metric whose line holds every one of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines()
            .filter(|line| line.starts_with(name))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// As the node proxy does it: the sockets end as the layer says.
async fn carry(
    client: TcpStream,
    server: SocketAddr,
    judge: &dyn RequestJudge,
    settings: &HttpSettings,
    metrics: &HttpMetrics,
) -> Ended {
    let upstream = TcpStream::connect(server).await.unwrap();
    let (mut client, mut upstream) = (client, upstream);
    for socket in [&client, &upstream] {
        socket.set_nodelay(true).unwrap();
    }
    let counters = metrics.of(Direction::Inbound);
    let ended = {
        let (reader, writer) = client.split();
        let downstream = Side { reader, writer };
        let (reader, writer) = upstream.split();
        let http = Http {
            settings,
            judge,
            metrics: &counters,
        };
        Box::pin(serve(downstream, Side { reader, writer }, http)).await
    };
    for (socket, is_orderly) in [
        (&client, ended.is_orderly_downstream()),
        (&upstream, ended.is_orderly_upstream()),
    ] {
        if !is_orderly {
            SockRef::from(socket)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    }
    ended
}

/// Sends everything, finishes, and reads the answers to the end; a reset ends them as well.
pub(crate) async fn talk(mut client: TcpStream, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    // Whoever refuses may close before everything was sent.
    if client.write_all(request).await.is_ok() {
        let _finished = client.shutdown().await;
    }
    let _end = in_time("the answer", client.read_to_end(&mut answer)).await;
    answer
}

/// Reads until the text has come.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    in_time("an answer", async {
        while !got.windows(end.len()).any(|window| window == end) {
            let mut byte = [0; 1];
            assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "{:?}", text(&got));
            got.push(byte[0]);
        }
    })
    .await;
    got
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ends a future that takes too long with a message.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
