use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tulle_identity::{
    FetchSvidError, KeyRequest, MeshTls, Svid, SvidManager, SvidManagerSettings, SvidSource,
};
use tulle_model::SpiffeId;

use super::{Admin, DumpSources, readiness::Readiness};
use crate::{
    config::SameNode,
    kernel_sync::{KernelSyncStatus, table::NodeView},
    metrics::{ControlMetrics, ProcessCollector, QueryOutcome},
    plane::InboundMode,
    pods::{PodDescriptor, PodSockmap, PodState, PodStatus, PodsView},
    published::{Published, Publisher},
    testing::{Fixture, pod, service, serving},
    xds::{ViewOrigin, XdsStatus},
};

/// Makes a key and never gets a certificate for it.
struct Nobody;

#[async_trait]
impl SvidSource for Nobody {
    async fn fetch(&self, id: &SpiffeId) -> Result<Svid, FetchSvidError> {
        let key = KeyRequest::new(id).map_err(FetchSvidError::Key)?;
        key.into_svid("").map_err(FetchSvidError::Unusable)
    }
}

struct Scene {
    address: SocketAddr,
    xds: Publisher<XdsStatus>,
    kernel: Publisher<KernelSyncStatus>,
    pods: Publisher<PodsView>,
    draining: CancellationToken,
}

impl Scene {
    fn start() -> Self {
        let mut mesh = Fixture::default();
        let rebel = service("default", "rebel-base", &["172.20.1.7"]);
        let key = rebel.key();
        mesh.add_service(rebel);
        mesh.add_pod(serving(
            pod("koornacht", "default", "r", &["10.1.1.5"]),
            &key,
        ));
        let (xds, kernel, pods) = (
            Publisher::new(XdsStatus::default()),
            Publisher::new(KernelSyncStatus::default()),
            Publisher::new(PodsView::default()),
        );
        let draining = CancellationToken::new();
        let metrics = ControlMetrics::default();
        metrics.dns.query(QueryOutcome::Answered);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let now = std::time::SystemTime::now();
        registry.register_collector(Box::new(ProcessCollector::new(now)));
        let svids = SvidManager::new(Arc::new(Nobody), SvidManagerSettings::default());
        svids
            .prefetch(&"spiffe://koornacht.tulle/ns/a/sa/b".parse().unwrap())
            .unwrap();
        let admin = Admin {
            readiness: Readiness {
                xds: xds.subscribe(),
                kernel: kernel.subscribe(),
                pods: pods.subscribe(),
                draining: draining.clone(),
            },
            registry,
            dump: Arc::new(DumpSources {
                node: NodeView {
                    cluster: "koornacht".parse().unwrap(),
                    node: "koornacht-worker".to_owned(),
                    same_node: SameNode::Direct,
                    inbound: InboundMode::Permissive,
                },
                trust_domain: "koornacht.tulle".parse().unwrap(),
                directory: Published::fixed(mesh.directory()),
                xds: xds.subscribe(),
                kernel: kernel.subscribe(),
                health: Arc::default(),
                pods: pods.subscribe(),
                svids: Arc::new(svids),
                tls: Arc::new(MeshTls::new()),
                recent: Arc::default(),
            }),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(admin.serve(listener, CancellationToken::new()));
        Scene {
            address,
            xds,
            kernel,
            pods,
            draining,
        }
    }

    /// The status and the body of an answer.
    async fn ask(&self, request_line: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{request_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        (
            status,
            if chunked {
                unchunk(body)
            } else {
                body.to_owned()
            },
        )
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((len, rest)) = body.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).unwrap();
        whole.push_str(&rest[..len]);
        body = rest.get(len + 2..).unwrap_or_default();
    }
    whole
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let scene = Scene::start();
    assert_eq!(scene.ask("GET /healthz").await, (200, "ok\n".to_owned()));
    let (status, body) = scene.ask("GET /readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("no view of the mesh has arrived"), "{body}");
    scene.xds.publish(XdsStatus {
        origin: ViewOrigin::Saved,
        ..XdsStatus::default()
    });
    scene.kernel.publish(KernelSyncStatus {
        applied: 1,
        last_error: None,
    });
    let (status, body) = scene.ask("GET /readyz").await;
    assert_eq!(status, 503);
    assert!(
        body.starts_with("the pods of this node have not been read\n"),
        "{body}"
    );
    scene.pods.publish(PodsView {
        scanned: true,
        ..PodsView::default()
    });
    assert_eq!(scene.ask("GET /readyz").await, (200, "ready\n".to_owned()));
    scene.draining.cancel();
    assert_eq!(scene.ask("GET /readyz").await.0, 503);
}

#[tokio::test]
async fn metrics_are_text() {
    let scene = Scene::start();
    let (status, body) = scene.ask("GET /metrics").await;
    assert_eq!(status, 200);
    for line in [
        "tulle_dns_queries_total{outcome=\"answered\"} 1",
        "tulle_xds_connected 0",
        "# TYPE process_resident_memory_bytes gauge",
        "process_open_fds ",
    ] {
        assert!(body.contains(line), "{line} in {body}");
    }
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_dump_is_json_without_keys() {
    let scene = Scene::start();
    let descriptor = PodDescriptor {
        uid: "u".to_owned(),
        name: "r".to_owned(),
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        addresses: vec!["10.1.1.5".parse().unwrap()],
        netns: "/run/netns/r".into(),
        nameservers: Vec::new(),
        search: Vec::new(),
        sockmap: PodSockmap::Auto,
    };
    let status = PodStatus {
        descriptor,
        state: PodState::Captured,
    };
    let pods = BTreeMap::from([("default_r".to_owned(), status)]);
    scene.pods.publish(PodsView {
        scanned: true,
        pods,
        ..PodsView::default()
    });
    let (status, body) = scene.ask("GET /dump").await;
    assert_eq!(status, 200);
    assert!(!body.contains("PRIVATE"));
    let dump: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(dump["node"], "koornacht-worker");
    assert_eq!(dump["pods"]["default_r"]["state"], "captured");
    assert_eq!(dump["services"][0]["name"], "rebel-base");
    assert_eq!(dump["services"][0]["endpoints"][0]["chosen"], true);
    assert_eq!(dump["workloads"][0]["uid"], "koornacht//Pod/default/r");
    assert_eq!(
        dump["certificates"][0]["id"],
        "spiffe://koornacht.tulle/ns/a/sa/b"
    );
    assert_eq!(dump["xds"]["connected"], false);
    assert_eq!(dump["kernel"]["applied"], 0);
}

#[tokio::test]
async fn other_requests_are_refused() {
    let scene = Scene::start();
    assert_eq!(scene.ask("POST /dump").await.0, 405);
    assert_eq!(scene.ask("GET /quitquitquit").await.0, 404);
    assert_eq!(scene.ask("GET /").await.0, 200);
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    let long = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    // The server may close before it has read all.
    let _sent = stream.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(scene.ask("GET /healthz").await.0, 200);
}

#[tokio::test]
async fn idle_connections_take_places_only() {
    let scene = Scene::start();
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(scene.address).await.unwrap());
    }
    // Those beyond the limit were closed; when the others go there is room again.
    drop(idle);
    let answers = async {
        loop {
            let mut stream = TcpStream::connect(scene.address).await.unwrap();
            let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            let _sent = stream.write_all(request).await;
            let mut answer = Vec::new();
            let _read = stream.read_to_end(&mut answer).await;
            if answer.starts_with(b"HTTP/1.1 200") {
                break;
            }
        }
    };
    tokio::time::timeout(crate::testing::DEADLINE, answers)
        .await
        .unwrap();
}
