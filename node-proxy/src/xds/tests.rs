use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tulle_identity::{
    CertificateAuthority, FetchSvidError, GrpcStream, KeyRequest, ServerTls, Svid, SvidManager,
    SvidManagerSettings, SvidSource, TrustBundles,
};
use tulle_model::{Directory, SpiffeId};
use tulle_wire::{
    type_url::{ADDRESS, AUTHORIZATION, RULES, TRUST_BUNDLE},
    xds::DeltaDiscoveryResponse,
};

use super::{
    FIRST_VIEW_QUIET, MtlsChannel, OpenChannel, ResourceKind, ViewOrigin, XdsClient, XdsSettings,
    XdsStatus,
    testing::{PlainChannel, ScriptedServer, ServerStream, service_resource, workload_resource},
};
use crate::{
    kernel_sync::TouchLog,
    metrics::XdsMetrics,
    published::Published,
    testing::{DEADLINE, pod, service},
};

/// A client at work.
struct Client {
    directory: Published<Directory>,
    status: Published<XdsStatus>,
    touched: Arc<TouchLog>,
    metrics: Arc<XdsMetrics>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Client {
    fn start(address: SocketAddr) -> Self {
        Self::with(Arc::new(PlainChannel(address)), None)
    }

    fn with(channel: Arc<dyn OpenChannel>, state: Option<PathBuf>) -> Self {
        let settings = XdsSettings {
            cluster: "koornacht".parse().unwrap(),
            node: "koornacht-worker".to_owned(),
            trust_domain: "koornacht.tulle".parse().unwrap(),
            state,
        };
        let touched = Arc::new(TouchLog::default());
        let metrics = Arc::new(XdsMetrics::default());
        let mut client = XdsClient::new(
            settings,
            channel,
            Arc::clone(&touched),
            Arc::clone(&metrics),
        );
        client.load_saved();
        let (directory, status) = (client.directory(), client.status());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(client.run(cancel.clone()));
        Client {
            directory,
            status,
            touched,
            metrics,
            cancel,
            task,
        }
    }

    async fn sees(&mut self, what: &str, wanted: impl FnMut(&Directory) -> bool) -> Arc<Directory> {
        let waited = tokio::time::timeout(DEADLINE, self.directory.wait_for(wanted)).await;
        waited
            .unwrap_or_else(|_| panic!("not in time: {what}"))
            .unwrap()
    }

    /// How many streams ended for that reason.
    fn terminations(&self, reason: &'static str) -> u64 {
        let family = &self.metrics.terminations;
        family.get_or_create(&[("reason", reason)]).get()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

/// Answers the first requests with nothing but one service.
async fn serve_first_view(stream: &mut ServerStream) {
    stream.send(TRUST_BUNDLE, "b1", Vec::new(), &[]).await;
    stream.send(AUTHORIZATION, "p1", Vec::new(), &[]).await;
    stream.send(RULES, "r1", Vec::new(), &[]).await;
    let rebel = service("default", "rebel-base", &["172.20.1.7"]);
    stream
        .send(ADDRESS, "a1", vec![service_resource(&rebel, "v1")], &[])
        .await;
}

#[tokio::test]
async fn all_types_are_subscribed_to_as_wildcards() {
    let mut server = ScriptedServer::start().await;
    let client = Client::start(server.address);
    let (_stream, requests) = server.greet().await;
    let urls: Vec<_> = requests
        .iter()
        .map(|request| request.type_url.as_str())
        .collect();
    assert_eq!(urls, [TRUST_BUNDLE, AUTHORIZATION, RULES, ADDRESS]);
    let node = requests[0].node.as_ref().unwrap();
    assert!(node.id.contains("koornacht-worker"), "{}", node.id);
    assert!(
        node.metadata
            .as_ref()
            .unwrap()
            .fields
            .contains_key("NODE_NAME")
    );
    for request in &requests {
        assert!(request.resource_names_subscribe.is_empty());
        assert!(request.initial_resource_versions.is_empty());
        assert!(request.response_nonce.is_empty());
    }
    client.stop().await;
}

#[tokio::test]
async fn nothing_is_visible_before_workloads_and_policies_are_there() {
    let mut server = ScriptedServer::start().await;
    let mut client = Client::start(server.address);
    let (mut stream, _) = server.greet().await;
    let rebel = service("default", "rebel-base", &["172.20.1.7"]);
    let answer = stream
        .send(ADDRESS, "a1", vec![service_resource(&rebel, "v1")], &[])
        .await;
    assert_eq!(answer.error_detail, None);
    assert_eq!(client.directory.snapshot().services().count(), 0);
    assert!(!client.status.snapshot().has_view());
    stream.send(AUTHORIZATION, "p1", Vec::new(), &[]).await;
    client
        .sees("the service", |directory| directory.services().count() == 1)
        .await;
    assert_eq!(client.status.snapshot().origin, ViewOrigin::Server);
    assert!(client.touched.take().everything);
}

/// A large first view over a slow line is no small one.
#[tokio::test]
async fn nothing_is_visible_before_the_last_part_of_an_answer() {
    let mut server = ScriptedServer::start().await;
    let mut client = Client::start(server.address);
    let (mut stream, _) = server.greet().await;
    stream.send(AUTHORIZATION, "p1", Vec::new(), &[]).await;
    let part = |name: &str, address: &str, is_continued| DeltaDiscoveryResponse {
        type_url: ADDRESS.to_owned(),
        nonce: name.to_owned(),
        resources: vec![service_resource(
            &service("default", name, &[address]),
            "v1",
        )],
        is_continued,
        ..DeltaDiscoveryResponse::default()
    };
    stream.send_response(part("one", "172.20.1.7", true)).await;
    // A break in the middle makes it no more whole than it was.
    stream.fail(Status::unavailable("restarting")).await;
    let (mut stream, _) = server.greet().await;
    let mut directory = client.directory.clone();
    let visible = directory.wait_for(|directory| directory.services().count() > 0);
    let waited = tokio::time::timeout(FIRST_VIEW_QUIET * 5, visible).await;
    assert!(waited.is_err(), "half a view is visible");
    stream.send_response(part("two", "172.20.1.8", false)).await;
    client
        .sees("both services", |directory| {
            directory.services().count() == 2
        })
        .await;
}

#[tokio::test]
async fn a_first_view_in_parts_becomes_visible_whole() {
    let mut server = ScriptedServer::start().await;
    let mut client = Client::start(server.address);
    let (mut stream, _) = server.greet().await;
    serve_first_view(&mut stream).await;
    for n in 0..20 {
        let workload = pod(
            "koornacht",
            "default",
            &format!("p{n}"),
            &[&format!("10.1.1.{n}")],
        );
        stream
            .send(
                ADDRESS,
                &format!("a{n}"),
                vec![workload_resource(&workload, "v")],
                &[],
            )
            .await;
    }
    let first = client
        .sees("a view", |directory| directory.services().count() == 1)
        .await;
    assert_eq!(first.workloads().count(), 20);
}

#[tokio::test]
async fn a_nack_names_the_bad_ones_and_the_good_ones_are_in_force() {
    let mut server = ScriptedServer::start().await;
    let mut client = Client::start(server.address);
    let (mut stream, _) = server.greet().await;
    serve_first_view(&mut stream).await;
    let mut bad = workload_resource(&pod("koornacht", "default", "bad", &["10.1.1.6"]), "v1");
    bad.resource.as_mut().unwrap().value = vec![0xff];
    let good = workload_resource(&pod("koornacht", "default", "good", &["10.1.1.5"]), "v1");
    let answer = stream.send(ADDRESS, "a2", vec![bad, good], &[]).await;
    let message = answer.error_detail.unwrap().message;
    assert!(
        message.starts_with("koornacht//Pod/default/bad: "),
        "{message}"
    );
    client
        .sees("the good one", |directory| {
            directory.workloads().count() == 1
        })
        .await;
    let status = client.status.snapshot();
    assert_eq!(status.types[&ResourceKind::Address].refused.len(), 1);
    assert_eq!(status.types[&ResourceKind::Address].resources, 2);
}

#[tokio::test]
async fn a_type_that_was_not_asked_for_is_refused_and_the_stream_lives() {
    let mut server = ScriptedServer::start().await;
    let mut client = Client::start(server.address);
    let (mut stream, _) = server.greet().await;
    let answer = stream
        .send("type.googleapis.com/x", "n", Vec::new(), &[])
        .await;
    assert!(answer.error_detail.is_some());
    serve_first_view(&mut stream).await;
    client
        .sees("the service", |directory| directory.services().count() == 1)
        .await;
}

#[tokio::test]
async fn a_reconnect_says_what_is_held_and_takes_only_differences() {
    let mut server = ScriptedServer::start().await;
    let mut client = Client::start(server.address);
    let (mut stream, _) = server.greet().await;
    serve_first_view(&mut stream).await;
    client
        .sees("the service", |directory| directory.services().count() == 1)
        .await;
    stream.fail(Status::unavailable("restarting")).await;
    let (mut stream, requests) = server.greet().await;
    let held = &requests[3].initial_resource_versions;
    let name = "default/rebel-base.default.svc.cluster.local";
    assert_eq!(held.get(name).map(String::as_str), Some("v1"));
    assert!(requests[1].initial_resource_versions.is_empty());
    assert!(requests[0].node.is_some());
    // Still there without a word of the server.
    assert_eq!(client.directory.snapshot().services().count(), 1);
    stream.send(ADDRESS, "a1", Vec::new(), &[name]).await;
    client
        .sees("the removal", |directory| directory.services().count() == 0)
        .await;
}

#[tokio::test]
async fn the_view_stays_while_the_server_is_gone() {
    let mut server = ScriptedServer::start().await;
    let address = server.address;
    let mut client = Client::start(address);
    let (mut stream, _) = server.greet().await;
    serve_first_view(&mut stream).await;
    client
        .sees("the service", |directory| directory.services().count() == 1)
        .await;
    server.stop();
    drop(stream);
    drop(server);
    let waited = client
        .status
        .wait_for(|status| !status.connected && status.last_error.is_some());
    tokio::time::timeout(DEADLINE, waited)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(client.directory.snapshot().services().count(), 1);
    let mut server = ScriptedServer::listen(address).await;
    let (mut stream, _) = server.greet().await;
    let late = service("default", "late", &["172.20.1.8"]);
    stream
        .send(ADDRESS, "a1", vec![service_resource(&late, "v1")], &[])
        .await;
    client
        .sees("the late service", |directory| {
            directory.services().count() == 2
        })
        .await;
}

#[tokio::test]
async fn a_restart_works_while_the_server_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("view");
    let mut server = ScriptedServer::start().await;
    let address = server.address;
    let mut client = Client::with(Arc::new(PlainChannel(address)), Some(state.clone()));
    let (mut stream, _) = server.greet().await;
    serve_first_view(&mut stream).await;
    client
        .sees("the service", |directory| directory.services().count() == 1)
        .await;
    client.stop().await;
    drop((stream, server));
    let client = Client::with(Arc::new(PlainChannel(address)), Some(state));
    assert_eq!(client.directory.snapshot().services().count(), 1);
    assert_eq!(client.status.snapshot().origin, ViewOrigin::Saved);
    assert!(client.touched.take().everything);
    let mut server = ScriptedServer::listen(address).await;
    let (_stream, requests) = server.greet().await;
    assert_eq!(requests[3].initial_resource_versions.len(), 1);
    client.stop().await;
}

/// Signs whatever is asked for: the first time for as long as is said, then for long.
struct Signer(CertificateAuthority, Mutex<Option<Duration>>);

#[async_trait]
impl SvidSource for Signer {
    async fn fetch(&self, id: &SpiffeId) -> Result<Svid, FetchSvidError> {
        let key = KeyRequest::new(id).map_err(FetchSvidError::Key)?;
        let ttl = self.1.lock().unwrap().take().unwrap_or(LONG_LIFE);
        let issued = self
            .0
            .sign_csr(key.csr_pem(), id, ttl, SystemTime::now())
            .unwrap();
        key.into_svid(&issued.leaf_pem)
            .map_err(FetchSvidError::Unusable)
    }
}

/// Listens with mTLS and hands on the names of the callers.
async fn secure_server(
    authority: &CertificateAuthority,
) -> (ScriptedServer, mpsc::Receiver<Option<SpiffeId>>) {
    let id: SpiffeId = "spiffe://koornacht.tulle/ns/tulle-system/sa/xds-server"
        .parse()
        .unwrap();
    let svid = authority
        .issue_server(
            &id,
            &["xds-server.tulle-system.svc"],
            LONG_LIFE,
            SystemTime::now(),
        )
        .unwrap();
    let bundles = TrustBundles::default()
        .with_pem(&id.trust_domain, authority.root_pem())
        .unwrap();
    let tls = ServerTls::new(&svid, Arc::new(bundles)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, incoming) = mpsc::channel(4);
    let (peers, callers) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok((stream, peer)) = tls.accept(stream).await else {
                continue;
            };
            peers
                .send(peer.as_ref().map(|peer| peer.id.clone()))
                .await
                .unwrap();
            let stream: std::io::Result<_> = Ok(GrpcStream::new(stream, peer));
            sender.send(stream).await.unwrap();
        }
    });
    (
        ScriptedServer::serve(address, ReceiverStream::new(incoming)),
        callers,
    )
}

#[tokio::test]
async fn both_ends_are_proven() {
    let domain = "koornacht.tulle".parse().unwrap();
    let authority = || CertificateAuthority::ephemeral(&domain, SystemTime::now()).unwrap();
    let right = authority();
    let (mut server, mut callers) = secure_server(&right).await;
    let root_pem = right.root_pem().to_owned();
    let identity: SpiffeId = "spiffe://koornacht.tulle/ns/tulle-system/sa/node-proxy"
        .parse()
        .unwrap();
    let source = Arc::new(Signer(right, Mutex::default()));
    let svids = Arc::new(SvidManager::new(source, SvidManagerSettings::default()));
    let channel = |root_pem: &str, server_name: &str| MtlsChannel {
        url: format!("https://{}", server.address),
        server_name: server_name.to_owned(),
        root_pem: root_pem.to_owned(),
        svids: Arc::clone(&svids),
        identity: identity.clone(),
    };
    let right_name = "spiffe://koornacht.tulle/ns/tulle-system/sa/xds-server";
    // A server of another authority, or of another name, is not talked to.
    let stranger = authority().root_pem().to_owned();
    assert!(channel(&stranger, right_name).open().await.is_err());
    let other_name = "spiffe://koornacht.tulle/ns/default/sa/evil";
    assert!(channel(&root_pem, other_name).open().await.is_err());
    let client = Client::with(Arc::new(channel(&root_pem, right_name)), None);
    let (mut stream, _) = server.greet().await;
    assert_eq!(callers.recv().await.unwrap(), Some(identity));
    serve_first_view(&mut stream).await;
    client.stop().await;
}

/// A server with TLS, and what a client whose first certificate does not live long needs to reach it.
async fn secured() -> (ScriptedServer, Arc<SvidManager>, Arc<MtlsChannel>) {
    let domain = "koornacht.tulle".parse().unwrap();
    let authority = CertificateAuthority::ephemeral(&domain, SystemTime::now()).unwrap();
    let (server, mut callers) = secure_server(&authority).await;
    tokio::spawn(async move { while callers.recv().await.is_some() {} });
    let root_pem = authority.root_pem().to_owned();
    let source = Arc::new(Signer(authority, Mutex::new(Some(SHORT_LIFE))));
    let svids = Arc::new(SvidManager::new(source, SvidManagerSettings::default()));
    let channel = MtlsChannel {
        url: format!("https://{}", server.address),
        server_name: "spiffe://koornacht.tulle/ns/tulle-system/sa/xds-server".to_owned(),
        root_pem,
        svids: Arc::clone(&svids),
        identity: "spiffe://koornacht.tulle/ns/tulle-system/sa/node-proxy"
            .parse()
            .unwrap(),
    };
    (server, svids, Arc::new(channel))
}

#[tokio::test]
async fn a_stream_moves_to_the_new_certificate_and_nobody_notices() {
    let (mut server, _svids, channel) = secured().await;
    let mut client = Client::with(channel, None);
    let (mut stream, _) = server.greet().await;
    serve_first_view(&mut stream).await;
    client
        .sees("the service", |directory| directory.services().count() == 1)
        .await;
    let mut status = client.status.clone();
    let lost =
        tokio::spawn(async move { status.wait_for(|status| !status.connected).await.is_ok() });
    let (mut next, requests) = server.greet().await;
    // The old one ended in good order.
    let end = tokio::time::timeout(DEADLINE, stream.end()).await.unwrap();
    assert!(end.unwrap().is_none());
    assert_eq!(requests[3].initial_resource_versions.len(), 1);
    assert_eq!(client.directory.snapshot().services().count(), 1);
    let late = service("default", "late", &["172.20.1.8"]);
    next.send(ADDRESS, "a1", vec![service_resource(&late, "v1")], &[])
        .await;
    client
        .sees("the late service", |directory| {
            directory.services().count() == 2
        })
        .await;
    assert!(!lost.is_finished(), "the stream was said to be lost");
    assert!(client.terminations("renewed") >= 1);
    assert_eq!(client.terminations("lost"), 0);
    lost.abort();
    client.stop().await;
}

/// A server that is stricter than the client's own care, or whose clock is ahead.
#[tokio::test]
async fn a_stream_that_is_ended_for_its_old_certificate_is_replaced_without_a_pause() {
    let (mut server, svids, channel) = secured().await;
    let identity = channel.identity.clone();
    let client = Client::with(channel, None);
    // Before the first view is whole the client stays with its stream.
    let (stream, _) = server.greet().await;
    let first = svids.get(&identity).await.unwrap();
    let renewed = svids.renewed(&identity, &first);
    tokio::time::timeout(DEADLINE, renewed).await.unwrap();
    stream.fail(Status::unavailable("connect anew")).await;
    let (mut stream, _) = server.greet().await;
    assert_eq!(client.terminations("renewed"), 1);
    assert_eq!(client.terminations("lost"), 0);
    assert_eq!(client.status.snapshot().last_error, None);
    serve_first_view(&mut stream).await;
    client.stop().await;
}

/// Enough for a handshake on a busy machine; renewed after half of it.
const SHORT_LIFE: Duration = Duration::from_secs(6);
const LONG_LIFE: Duration = Duration::from_secs(600);
