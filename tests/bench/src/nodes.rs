//! The simulated nodes: delta ADS over mTLS, each with its own certificate; they acknowledge everything and keep nothing.

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use tulle_identity::{ClientTls, KeyRequest};
use tulle_model::SpiffeId;
use tulle_wire::{
    citadel::{IstioCertificateRequest, IstioCertificateResponse},
    grpc_path, type_url,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node},
};

/// How the nodes reach the server.
#[derive(Debug, Clone)]
pub struct Server {
    /// `https://host:port`.
    pub address: String,
    /// The roots to verify it with.
    pub root_pem: String,
    /// The name in its certificate.
    pub name: String,
    /// The identity of every node proxy of the cluster.
    pub node_proxy: SpiffeId,
}

/// A change has reached a node.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// When.
    pub at: Instant,
    /// The size of the response that brought it.
    pub bytes: usize,
}

/// All simulated nodes.
#[derive(Debug)]
pub struct Nodes {
    shared: Arc<Shared>,
    sights: mpsc::Receiver<Sight>,
    tasks: JoinSet<()>,
    count: usize,
}

#[derive(Debug)]
struct Shared {
    server: Server,
    /// The resource that is waited for.
    expected: RwLock<String>,
    sights: mpsc::Sender<Sight>,
    resources: AtomicU64,
    bytes: AtomicU64,
    subscribed: AtomicUsize,
    /// What a node has when it has the whole view.
    simulated_len: usize,
    /// Nodes that have it.
    whole: AtomicUsize,
    failures: AtomicUsize,
    last_failure: RwLock<String>,
    /// So many nodes are being let in at once.
    entrance: Semaphore,
}

impl Nodes {
    /// Starts so many nodes; each has the token of its name. A node's view is whole with so many simulated services and endpoints.
    pub fn start(
        server: Server,
        count: usize,
        simulated_len: usize,
        token: impl Fn(usize) -> String,
    ) -> Nodes {
        let (sender, sights) = mpsc::channel(SIGHTS_MAX);
        let shared = Arc::new(Shared {
            server,
            expected: RwLock::default(),
            sights: sender,
            resources: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            subscribed: AtomicUsize::new(0),
            simulated_len,
            whole: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            last_failure: RwLock::default(),
            entrance: Semaphore::new(ENTERING_MAX),
        });
        let mut tasks = JoinSet::new();
        for number in 0..count {
            tasks.spawn(keep(Arc::clone(&shared), token(number)));
        }
        Nodes {
            shared,
            sights,
            tasks,
            count,
        }
    }

    /// How many nodes have had an answer for every type.
    pub fn subscribed(&self) -> usize {
        self.shared.subscribed.load(Ordering::Relaxed)
    }

    /// How many nodes have the whole view. The total of what all have received says less: it holds what is not simulated as well.
    pub fn whole(&self) -> usize {
        self.shared.whole.load(Ordering::Relaxed)
    }

    /// Resources and bytes that were received by all nodes together.
    pub fn received(&self) -> (u64, u64) {
        (
            self.shared.resources.load(Ordering::Relaxed),
            self.shared.bytes.load(Ordering::Relaxed),
        )
    }

    /// How many streams have failed, and why the last one did.
    pub fn failures(&self) -> (usize, String) {
        let last = self.shared.last_failure.read();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        (self.shared.failures.load(Ordering::Relaxed), last)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Makes `change` and waits until every node has been told of the resource that it names.
    ///
    /// # Errors
    /// When the change fails, or a node is not told in time.
    pub async fn watch(
        &mut self,
        deadline: Duration,
        change: impl FnOnce(&mut dyn FnMut(&str)) -> Result<()>,
    ) -> Result<(Instant, Vec<Sight>)> {
        while self.sights.try_recv().is_ok() {}
        let expected = &self.shared.expected;
        let mut arm = |name: &str| {
            name.clone_into(&mut write(expected));
        };
        change(&mut arm)?;
        let began = Instant::now();
        let mut sights = Vec::with_capacity(self.count);
        while sights.len() < self.count {
            let left = deadline.saturating_sub(began.elapsed());
            match timeout(left, self.sights.recv()).await {
                Ok(Some(sight)) => sights.push(sight),
                _ => bail!(
                    "{} of {} nodes were told within {deadline:?}; {} streams have failed, the last: {}",
                    sights.len(),
                    self.count,
                    self.failures().0,
                    self.failures().1,
                ),
            }
        }
        Ok((began, sights))
    }

    /// Ends all nodes.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn keep(shared: Arc<Shared>, token: String) {
    loop {
        let mut is_whole = false;
        let Err(error) = converse(&shared, &token, &mut is_whole).await;
        if is_whole {
            shared.whole.fetch_sub(1, Ordering::Relaxed);
        }
        shared.failures.fetch_add(1, Ordering::Relaxed);
        *write(&shared.last_failure) = format!("{error:#}");
        sleep(RETRY_PAUSE).await;
    }
}

async fn converse(
    shared: &Shared,
    token: &str,
    is_whole: &mut bool,
) -> Result<std::convert::Infallible> {
    let entrance = shared.entrance.acquire().await?;
    let channel = open(&shared.server, token).await?;
    let (requests, mut responses) = subscribe(channel).await?;
    let (mut answered, mut simulated) = (0, 0);
    let mut entrance = Some(entrance);
    loop {
        let response = responses.message().await?.context("the stream ended")?;
        let at = Instant::now();
        let bytes = response.encoded_len();
        note(shared, &response, at, bytes);
        let names = response.resources.iter().map(|resource| &resource.name);
        simulated += names.filter(|name| name.contains(SIMULATED)).count();
        if !*is_whole && simulated >= shared.simulated_len {
            *is_whole = true;
            shared.whole.fetch_add(1, Ordering::Relaxed);
        }
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests
            .send(request)
            .await
            .ok()
            .context("the stream ended")?;
        answered += 1;
        if answered == TYPES.len() {
            shared.subscribed.fetch_add(1, Ordering::Relaxed);
            entrance.take();
        }
    }
}

fn note(shared: &Shared, response: &DeltaDiscoveryResponse, at: Instant, bytes: usize) {
    let count = u64::try_from(response.resources.len()).unwrap_or(u64::MAX);
    shared.resources.fetch_add(count, Ordering::Relaxed);
    let len = u64::try_from(bytes).unwrap_or(u64::MAX);
    shared.bytes.fetch_add(len, Ordering::Relaxed);
    let expected = shared
        .expected
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let told = response.resources.iter().any(|r| r.name == *expected);
    if told {
        // A full queue means that nobody waits for these any more.
        shared.sights.try_send(Sight { at, bytes }).ok();
    }
}

fn write(text: &RwLock<String>) -> RwLockWriteGuard<'_, String> {
    text.write().unwrap_or_else(PoisonError::into_inner)
}

async fn open(server: &Server, token: &str) -> Result<Channel> {
    let endpoint = ClientTls::endpoint(&server.address)?;
    let bootstrap = ClientTls::new(&server.root_pem, &server.name, None)?;
    let channel = endpoint
        .clone()
        .connect_with_connector(bootstrap.connector())
        .await?;
    let key = KeyRequest::new(&server.node_proxy)?;
    let mut request = Request::new(IstioCertificateRequest {
        csr: key.csr_pem().to_owned(),
        ..IstioCertificateRequest::default()
    });
    let bearer = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let path = PathAndQuery::from_static(grpc_path::CREATE_CERTIFICATE);
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let response = grpc.unary(request, path, codec).await?.into_inner();
    let svid = key.into_svid(&response.cert_chain.concat())?;
    let tls = ClientTls::new(&server.root_pem, &server.name, Some(&svid))?;
    Ok(endpoint.connect_with_connector(tls.connector()).await?)
}

async fn subscribe(
    channel: Channel,
) -> Result<(
    mpsc::Sender<DeltaDiscoveryRequest>,
    Streaming<DeltaDiscoveryResponse>,
)> {
    let (requests, queue) = mpsc::channel(REQUESTS_MAX);
    for (number, url) in TYPES.into_iter().enumerate() {
        requests
            .send(DeltaDiscoveryRequest {
                node: (number == 0).then(Node::default),
                type_url: url.to_owned(),
                ..DeltaDiscoveryRequest::default()
            })
            .await?;
    }
    let mut grpc = Grpc::new(channel).max_decoding_message_size(RESPONSE_LEN_MAX);
    grpc.ready().await?;
    let path = PathAndQuery::from_static(grpc_path::DELTA_AGGREGATED_RESOURCES);
    let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    let stream = Request::new(ReceiverStream::new(queue));
    let responses = grpc.streaming(stream, path, codec).await?.into_inner();
    Ok((requests, responses))
}

const TYPES: [&str; 3] = [
    type_url::TRUST_BUNDLE,
    type_url::AUTHORIZATION,
    type_url::ADDRESS,
];
/// A part of the names of all simulated services and endpoints, and of no others.
const SIMULATED: &str = "/svc-";
const SIGHTS_MAX: usize = 100_000;
const REQUESTS_MAX: usize = 64;
const RESPONSE_LEN_MAX: usize = 256 << 20;
/// Each takes a handshake and a signature at both ends; more at once would only time out.
const ENTERING_MAX: usize = 16;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
