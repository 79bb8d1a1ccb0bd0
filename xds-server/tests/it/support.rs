//! A server in a temporary directory, and a client that speaks ADS and asks for certificates.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::uri::PathAndQuery;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use tulle_identity::{ClientTls, KeyRequest, Svid};
use tulle_model::{Directory, SpiffeId};
use tulle_policy::{DefaultCluster, ReadSettings};
use tulle_wire::{
    DecodedAddress,
    citadel::{IstioCertificateRequest, IstioCertificateResponse},
    decode_address, decode_authorization, decode_bundle, grpc_path, type_url,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node},
};
use tulle_xds_server::{
    config::{AuthorityConfig, Config, ManagementConfig, PeersConfig, StoreConfig},
    run::{self, Running},
    server::SERVER_DNS_NAME,
};

/// Nothing here takes longer, even on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// The token of each node is its name with this in front.
const TOKEN: &str = "token-of-";

/// One cluster's server with its directories.
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) id: u16,
    pub(crate) directory: TempDir,
    pub(crate) store: StoreConfig,
    pub(crate) peers: PeersConfig,
    pub(crate) publish_cilium: bool,
    running: Option<Running>,
}

impl Cluster {
    /// A cluster `name` with the nodes n1 and n2 and no server yet.
    pub(crate) fn new(name: &str, id: u16, store: StoreConfig) -> Self {
        let directory = TempDir::new().unwrap();
        let cluster = Cluster {
            name: name.to_owned(),
            id,
            directory,
            store,
            peers: PeersConfig::None,
            publish_cilium: false,
            running: None,
        };
        for part in ["manifests", "remotes"] {
            fs::create_dir(cluster.path(part)).unwrap();
        }
        let hash = |node: &str| -> String {
            Sha256::digest(format!("{TOKEN}{node}"))
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect()
        };
        let tokens = format!(
            r#"{{"n1": "{}", "n2": "{}", "ghost": "{}"}}"#,
            hash("n1"),
            hash("n2"),
            hash("ghost")
        );
        fs::write(cluster.path("tokens.json"), tokens).unwrap();
        let operators = format!(r#"{{"test": "{}"}}"#, hash("operator"));
        fs::write(cluster.path("operators.json"), operators).unwrap();
        cluster.apply("node-n1", &node("n1"));
        cluster.apply("node-n2", &node("n2"));
        cluster
    }

    /// A running cluster without etcd.
    pub(crate) async fn start_alone() -> Self {
        let mut cluster = Cluster::new("koornacht", 1, StoreConfig::Memory);
        cluster.start().await;
        cluster
    }

    pub(crate) async fn start(&mut self) {
        let config = Config {
            cluster: self.name.parse().unwrap(),
            cluster_id: self.id.try_into().unwrap(),
            trust_domain: self.trust_domain().parse().unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            admin: "127.0.0.1:0".parse().unwrap(),
            manifests: self.path("manifests"),
            authority: AuthorityConfig {
                directory: self.path("ca"),
                given: None,
            },
            node_tokens: self.path("tokens.json"),
            store: self.store.clone(),
            publish_cilium: self.publish_cilium,
            remotes: (self.store != StoreConfig::Memory).then(|| self.path("remotes")),
            namespaces_global: true,
            policies: ReadSettings {
                cluster: self.name.parse().unwrap(),
                default_cluster: DefaultCluster::Any,
            },
            svid_ttl: Duration::from_secs(3600),
            management: ManagementConfig {
                listen: Some("127.0.0.1:0".parse().unwrap()),
                operator_tokens: Some(self.path("operators.json")),
                peers: self.peers.clone(),
                ..ManagementConfig::default()
            },
        };
        self.running = Some(run::start(config).await.unwrap());
        self.wait_status("readiness", |s| s["ready"] == true).await;
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub(crate) fn trust_domain(&self) -> String {
        format!("{}.tulle", self.name)
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.directory.path().join(part)
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().expect("the server is not running")
    }

    /// Writes a manifest as a kubelet would: beside it, then renamed.
    pub(crate) fn apply(&self, file: &str, text: &str) {
        write_by_rename(&self.path("manifests").join(format!("{file}.yaml")), text);
    }

    pub(crate) fn delete(&self, file: &str) {
        fs::remove_file(self.path("manifests").join(format!("{file}.yaml"))).unwrap();
    }

    pub(crate) fn node_proxy(&self) -> SpiffeId {
        format!(
            "spiffe://{}/ns/tulle-system/sa/node-proxy",
            self.trust_domain()
        )
        .parse()
        .unwrap()
    }

    pub(crate) fn client_tls(&self, svid: Option<&Svid>) -> ClientTls {
        ClientTls::new(&self.running().root_pem, SERVER_DNS_NAME, svid).unwrap()
    }

    pub(crate) async fn channel(
        &self,
        svid: Option<&Svid>,
    ) -> Result<Channel, tonic::transport::Error> {
        let address = format!("https://{}", self.running().listen);
        let endpoint = ClientTls::endpoint(&address).unwrap();
        endpoint
            .connect_with_connector(self.client_tls(svid).connector())
            .await
    }

    /// Asks for a certificate in the name of `node`, for `id` if that is given.
    pub(crate) async fn create_certificate(
        &self,
        token: Option<&str>,
        impersonate: Option<&str>,
        change: impl FnOnce(&mut IstioCertificateRequest),
    ) -> Result<(IstioCertificateResponse, KeyRequest), Status> {
        let asked = impersonate
            .and_then(|id| id.parse().ok())
            .unwrap_or_else(|| self.node_proxy());
        let key = KeyRequest::new(&asked).unwrap();
        let mut message = IstioCertificateRequest {
            csr: key.csr_pem().to_owned(),
            ..Default::default()
        };
        if let Some(id) = impersonate {
            message.impersonate(id);
        }
        change(&mut message);
        let mut request = Request::new(message);
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let mut grpc = Grpc::new(self.channel(None).await.unwrap());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(grpc_path::CREATE_CERTIFICATE);
        let response = grpc.unary(request, path, ProstCodec::default()).await?;
        Ok((response.into_inner(), key))
    }

    /// A genuine certificate through the server's own authority.
    pub(crate) async fn svid(&self, node: &str, impersonate: Option<&str>) -> Svid {
        let asked = self
            .create_certificate(Some(&token(node)), impersonate, |_| ())
            .await;
        let (response, key) = asked.unwrap();
        key.into_svid(&response.cert_chain.concat()).unwrap()
    }

    /// A certificate of the node proxy with `seconds` to live.
    pub(crate) async fn svid_for(&self, node: &str, seconds: i64) -> Svid {
        let token = token(node);
        let asked = self.create_certificate(Some(&token), None, |request| {
            request.validity_duration = seconds;
        });
        let (response, key) = asked.await.unwrap();
        key.into_svid(&response.cert_chain.concat()).unwrap()
    }

    /// An ADS stream of the node proxy of n1.
    pub(crate) async fn ads(&self) -> AdsClient {
        let svid = self.svid("n1", None).await;
        AdsClient::open(self.channel(Some(&svid)).await.unwrap())
            .await
            .unwrap()
    }

    /// Waits until the status page says so.
    pub(crate) async fn wait_status(
        &self,
        what: &str,
        holds: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let until = Instant::now() + DEADLINE;
        loop {
            let status: serde_json::Value =
                serde_json::from_str(&self.page("/status").await.1).unwrap();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < until, "{what} did not come: {status:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Code and text of an admin page.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.running().admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, body.to_owned())
    }

    /// The value of a metric with its labels, 0 when it is not there.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.page("/metrics").await.1;
        let line = page
            .lines()
            .find(|l| l.rsplit_once(' ').is_some_and(|(n, _)| n == name));
        line.map_or(0.0, |l| l.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    pub(crate) async fn wait_metric(&self, name: &str, at_least: f64) {
        let until = Instant::now() + DEADLINE;
        while self.metric(name).await < at_least {
            assert!(
                Instant::now() < until,
                "{name} stays at {}",
                self.metric(name).await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn token(node: &str) -> String {
    format!("{TOKEN}{node}")
}

pub(crate) fn write_by_rename(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

/// A client of one stream that keeps what it is told, as a node proxy does.
pub(crate) struct AdsClient {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    pub(crate) directory: Directory,
}

impl AdsClient {
    pub(crate) async fn open(channel: Channel) -> Result<Self, Status> {
        Self::open_with(channel, None).await
    }

    /// Presents a token as well.
    pub(crate) async fn open_with(channel: Channel, token: Option<&str>) -> Result<Self, Status> {
        let mut grpc = Grpc::new(channel).max_decoding_message_size(200 << 20);
        grpc.ready()
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let (requests, receiver) = mpsc::channel(64);
        let path = PathAndQuery::from_static(grpc_path::DELTA_AGGREGATED_RESOURCES);
        let mut stream = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            stream.metadata_mut().insert("authorization", value);
        }
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let responses = grpc.streaming(stream, path, codec).await?.into_inner();
        Ok(AdsClient {
            requests,
            responses,
            directory: Directory::default(),
        })
    }

    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// The first request of a type, of all resources.
    pub(crate) async fn subscribe(&self, type_url: &str) {
        self.send(first_request(type_url)).await;
    }

    /// All three types, each answered.
    pub(crate) async fn subscribe_all(&mut self) {
        for url in [
            type_url::TRUST_BUNDLE,
            type_url::AUTHORIZATION,
            type_url::ADDRESS,
        ] {
            self.subscribe(url).await;
            while self.next().await.unwrap().type_url != url {}
        }
    }

    /// The next response, acknowledged and taken in.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let message = timeout(DEADLINE, self.responses.message()).await;
        let response = message
            .expect("no response in time")?
            .expect("the stream ended");
        self.take(&response);
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        })
        .await;
        Ok(response)
    }

    /// Reads on until the directory is as wanted.
    pub(crate) async fn wait(&mut self, what: &str, holds: impl Fn(&Directory) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !holds(&self.directory) {
            assert!(
                Instant::now() < until,
                "{what} did not come: {:#?}",
                self.directory
            );
            self.next().await.unwrap();
        }
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse) {
        use tulle_model::Change;
        for resource in &response.resources {
            let content = &resource.resource.as_ref().unwrap().value;
            let change = match response.type_url.as_str() {
                type_url::ADDRESS => match decode_address(content).unwrap() {
                    DecodedAddress::Workload(w) => {
                        assert_eq!(*resource.name, *w.uid.0);
                        Change::Workload(Arc::new(w))
                    }
                    DecodedAddress::Service(s) => {
                        assert_eq!(resource.name, s.key().to_string());
                        Change::Service(Arc::new(s))
                    }
                },
                type_url::AUTHORIZATION => {
                    Change::Policy(Arc::new(decode_authorization(content).unwrap()))
                }
                _ => Change::Bundle(Arc::new(decode_bundle(content).unwrap())),
            };
            self.directory.apply(change);
        }
        for name in &response.removed_resources {
            let change = match response.type_url.as_str() {
                type_url::ADDRESS if name.matches('/').count() == 1 => {
                    Change::ServiceGone(name.parse().unwrap())
                }
                type_url::ADDRESS => {
                    Change::WorkloadGone(tulle_model::WorkloadUid(name.clone().into()))
                }
                type_url::AUTHORIZATION => Change::PolicyGone(name.parse().unwrap()),
                _ => Change::BundleGone(name.parse().unwrap()),
            };
            self.directory.apply(change);
        }
    }
}

pub(crate) fn first_request(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: "node-proxy~n1".to_owned(),
            ..Node::default()
        }),
        type_url: type_url.to_owned(),
        ..Default::default()
    }
}

/// Names of the healthy workloads that serve `web`.
pub(crate) fn endpoints(directory: &Directory) -> Vec<String> {
    let key = "shop/web.shop.svc.cluster.local".parse().unwrap();
    directory.endpoints(&key).map(|w| w.name.clone()).collect()
}

pub(crate) fn node(name: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n")
}

pub(crate) fn pod(name: &str, node: &str, ip: &str, account: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}
spec: {{nodeName: {node}, serviceAccountName: {account}, containers: []}}
status: {{podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: \"True\"}}]}}
"
    )
}

pub(crate) fn service(annotations: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop, annotations: {{{annotations}}}}}
spec: {{clusterIPs: [172.20.1.5], ports: [{{port: 80, targetPort: 8080}}], selector: {{app: web}}}}
"
    )
}

pub(crate) fn slice(pods: &[(&str, &str)]) -> String {
    let endpoints: String = pods
        .iter()
        .map(|(pod, ip)| {
            format!("- {{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}, namespace: shop}}}}\n")
        })
        .collect();
    let endpoints = if endpoints.is_empty() {
        " []\n".to_owned()
    } else {
        format!("\n{endpoints}")
    };
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints:{endpoints}"
    )
}
