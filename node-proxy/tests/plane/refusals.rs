//! Who is not let in, and with which answer.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Method, Request, StatusCode};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tulle_identity::{
    MeshTls, Svid,
    testing::{Flaw, Forge, bundles},
};
use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch, AuthorizationRule,
    AuthorizationScope, Change, NamespacedName, PortMapping, Service, ServicePort, SpiffeId,
    StringMatch,
};
use tulle_node_proxy::plane::DeniedLook;

use crate::support::{B, Mesh, domain, eventually, in_time, listen_b, workload};

/// A client of another make.
struct Client {
    sender: h2::client::SendRequest<bytes::Bytes>,
}

impl Client {
    async fn connect(mesh: &Mesh) -> Self {
        let svid = mesh
            .forge_a
            .svid(&identity("a.test", "a"), Flaw::None)
            .unwrap();
        Self::connect_as(mesh, svid).await
    }

    async fn connect_as(mesh: &Mesh, svid: Arc<Svid>) -> Self {
        let tls = MeshTls::new();
        tls.set_bundles(bundles(&[&mesh.forge_a, &mesh.forge_b]).unwrap());
        let stream = TcpStream::connect(mesh.hbone()).await.unwrap();
        let (tls, _) = tls
            .connect(svid, &[identity("b.test", "b")], stream)
            .await
            .unwrap();
        let (sender, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(async move {
            // How it ends is seen by the requests.
            let _ended = connection.await;
        });
        Client { sender }
    }

    async fn status(&self, method: Method, uri: &str) -> Result<StatusCode, h2::Error> {
        Ok(self.response(method, uri).await?.status())
    }

    async fn response(
        &self,
        method: Method,
        uri: &str,
    ) -> Result<http::Response<h2::RecvStream>, h2::Error> {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let mut sender = self.sender.clone().ready().await?;
        let (response, _send) = sender.send_request(request, false)?;
        in_time("a response", response).await
    }

    async fn connect_to(&self, authority: &str) -> StatusCode {
        self.status(Method::CONNECT, authority).await.unwrap()
    }
}

fn identity(trust_domain: &str, account: &str) -> SpiffeId {
    SpiffeId {
        trust_domain: domain(trust_domain),
        namespace: "default".into(),
        service_account: account.into(),
    }
}

fn failed(mesh: &Mesh, reason: &str) -> f64 {
    mesh.metric(
        "tulle_connections_failed_total",
        &["Inbound", &format!("\"{reason}\"")],
    )
}

#[tokio::test]
async fn a_good_connect_is_answered_with_200_and_baggage() {
    let mesh = Mesh::start().await;
    let (_listener, address) = listen_b().await;
    let client = Client::connect(&mesh).await;
    let response = client
        .response(Method::CONNECT, &address.to_string())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let baggage: &HeaderMap = response.headers();
    assert_eq!(
        baggage.get("baggage").unwrap(),
        "k8s.cluster.name=cluster-b,k8s.namespace.name=default,k8s.deployment.name=b,service.name=b,service.version=v1"
    );
}

#[tokio::test]
async fn bad_requests_are_answered_with_400() {
    let mesh = Mesh::start().await;
    let (_listener, address) = listen_b().await;
    let client = Client::connect(&mesh).await;
    let port = address.port();
    for (authority, reason) in [
        (format!("127.0.20.3:{port}"), "wrong_destination"),
        (format!("[::1]:{port}"), "wrong_destination"),
        (format!("{B}:15053"), "recursive"),
        (format!("{B}:0"), "bad_authority"),
        ("nonsense".to_owned(), "bad_authority"),
        ("127.0.20.2".to_owned(), "bad_authority"),
        (format!("user@{B}:{port}"), "bad_authority"),
    ] {
        let before = failed(&mesh, reason);
        assert_eq!(
            client.connect_to(&authority).await,
            StatusCode::BAD_REQUEST,
            "{authority}"
        );
        assert!(
            failed(&mesh, reason) > before,
            "{authority} not counted as {reason}"
        );
    }
    let get = client
        .status(Method::GET, &format!("https://{address}/"))
        .await
        .unwrap();
    assert_eq!(get, StatusCode::BAD_REQUEST);
    assert!(failed(&mesh, "bad_method") > 0.0);
    // The tunnel itself is sound.
    assert_eq!(
        client.connect_to(&address.to_string()).await,
        StatusCode::OK
    );
}

#[tokio::test]
async fn what_is_not_there_is_answered_with_503() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let client = Client::connect(&mesh).await;
    drop(listener);
    let refused = client.connect_to(&address.to_string()).await;
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    assert!(failed(&mesh, "application_refused") > 0.0);

    let unknown = client
        .connect_to("no-such-service.default.svc.cluster.local:80")
        .await;
    assert_eq!(unknown, StatusCode::SERVICE_UNAVAILABLE);

    // Another pod's entry under the pod's address: not this pod.
    let mut view = (*mesh.directory.snapshot()).clone();
    let own = workload("b", B, &domain("b.test"));
    view.apply(Change::WorkloadGone(own.uid.clone()));
    view.apply(Change::Workload(Arc::new(workload(
        "other",
        B,
        &domain("b.test"),
    ))));
    mesh.directory.publish(view);
    let (_listener, address) = listen_b().await;
    assert_eq!(
        client.connect_to(&address.to_string()).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert!(failed(&mesh, "unknown_workload") > 0.0);
}

#[tokio::test]
async fn a_hostname_leads_to_the_port_at_which_the_workload_serves() {
    let mesh = Mesh::start().await;
    let (_listener, address) = listen_b().await;
    let hostname = "b.default.svc.cluster.local";
    let service = Service {
        name: "b".into(),
        namespace: "default".into(),
        hostname: hostname.into(),
        addresses: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            target_port: 1,
            protocol: Default::default(),
            app_protocol: Default::default(),
        }],
        subject_alt_names: Vec::new(),
        sharing: Default::default(),
        ..Service::default()
    };
    let mut own = workload("b", B, &domain("b.test"));
    let mapping = PortMapping {
        service_port: 80,
        target_port: address.port(),
        ..PortMapping::default()
    };
    own.services
        .insert(NamespacedName::new("default", hostname), vec![mapping]);
    let mut view = (*mesh.directory.snapshot()).clone();
    view.apply(Change::Service(Arc::new(service)));
    view.apply(Change::Workload(Arc::new(own)));
    mesh.directory.publish(view);
    let client = Client::connect(&mesh).await;
    assert_eq!(
        client.connect_to(&format!("{hostname}:80")).await,
        StatusCode::OK
    );
    let other_port = client.connect_to(&format!("{hostname}:81")).await;
    assert_eq!(other_port, StatusCode::SERVICE_UNAVAILABLE);
}

/// Lets only one service account in to the whole namespace.
pub(crate) fn allow_only(account: &str) -> Authorization {
    Authorization {
        name: "allow".into(),
        namespace: "default".into(),
        scope: AuthorizationScope::Namespace,
        action: AuthorizationAction::Allow,
        rules: vec![AuthorizationRule {
            clauses: vec![AuthorizationClause {
                matches: vec![AuthorizationMatch {
                    principals: vec![StringMatch::Exact(identity("a.test", account).principal())],
                    ..AuthorizationMatch::default()
                }],
            }],
        }],
        dry_run: false,
    }
}

fn publish_policy(mesh: &Mesh, policy: Authorization) {
    let mut view = (*mesh.directory.snapshot()).clone();
    view.apply(Change::Policy(Arc::new(policy)));
    mesh.directory.publish(view);
}

#[tokio::test]
async fn policy_is_answered_with_401_and_seen_as_a_reset() {
    // By default it would be silence.
    let mesh = Mesh::with(|settings| settings.denied_look = DeniedLook::Reject).await;
    let (listener, address) = listen_b().await;
    publish_policy(&mesh, allow_only("somebody-else"));
    let client = Client::connect(&mesh).await;
    assert_eq!(
        client.connect_to(&address.to_string()).await,
        StatusCode::UNAUTHORIZED
    );

    let mut stream = mesh.connect(address).await;
    let end = in_time("the refusal", stream.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let refused = ["Outbound", "refused_by_policy"];
    assert!(mesh.metric("tulle_connections_failed_total", &refused) > 0.0);

    publish_policy(&mesh, allow_only("a"));
    assert_eq!(
        client.connect_to(&address.to_string()).await,
        StatusCode::OK
    );
    drop(listener);
}

#[tokio::test]
async fn a_connection_that_a_new_policy_forbids_is_cut() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let mut client = mesh.connect(address).await;
    client.write_all(b"hello").await.unwrap();
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    let mut greeting = [0; 5];
    server.read_exact(&mut greeting).await.unwrap();

    publish_policy(&mesh, allow_only("somebody-else"));
    for stream in [&mut client, &mut server] {
        let end = in_time("the cut", stream.read(&mut [0; 1])).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let cut = ["Inbound", "policy_changed"];
    eventually("counted", || {
        mesh.metric("tulle_connections_closed_total", &cut) > 0.0
    })
    .await;
}

#[tokio::test]
async fn a_refused_application_is_seen_as_a_reset() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    drop(listener);
    let mut stream = mesh.connect(address).await;
    let end = in_time("the refusal", stream.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let refused = ["Outbound", "refused_unavailable"];
    assert!(mesh.metric("tulle_connections_failed_total", &refused) > 0.0);
}

#[tokio::test]
async fn peers_without_a_sound_certificate_are_refused_with_the_reason() {
    let mesh = Mesh::start().await;
    let own = identity("a.test", "a");
    let other = Forge::new(&domain("b.test")).unwrap();
    let cases = [
        (mesh.forge_a.svid(&own, Flaw::Expired).unwrap(), "expired"),
        (mesh.forge_a.svid(&own, Flaw::NoSan).unwrap(), "no_san"),
        (
            mesh.forge_a.svid(&own, Flaw::TwoSans).unwrap(),
            "several_sans",
        ),
        (
            mesh.forge_a
                .svid(&identity("b.test", "b"), Flaw::None)
                .unwrap(),
            "wrong_trust_domain",
        ),
        (
            mesh.forge_a.svid(&own, Flaw::SelfSigned).unwrap(),
            "unknown_authority",
        ),
        (
            other.svid(&identity("b.test", "b"), Flaw::None).unwrap(),
            "unknown_authority",
        ),
    ];
    for (svid, reason) in cases {
        let label = format!("\"{reason}\"");
        let counted = || mesh.metric("tulle_tunnel_handshakes_total", &["Server", &label]);
        let before = counted();
        let tls = MeshTls::new();
        tls.set_bundles(bundles(&[&mesh.forge_a, &mesh.forge_b]).unwrap());
        let stream = TcpStream::connect(mesh.hbone()).await.unwrap();
        if let Ok((mut tls, _)) = tls.connect(svid, &[identity("b.test", "b")], stream).await {
            let end = in_time("the alert", tls.read(&mut [0; 1])).await;
            assert!(end.is_err(), "{reason}: let in");
        }
        eventually(reason, || counted() > before).await;
    }
}

/// Garbage at every port, then a good connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_changes_nothing() {
    let mesh = Mesh::start().await;
    let addresses = mesh.b.proxy.addresses();
    let ports: Vec<SocketAddr> = vec![
        addresses.hbone[0],
        addresses.inbound[0],
        addresses.outbound[0],
    ];
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..600 {
        let port = ports[round % ports.len()].port();
        // Refused so fast that the connection never seemed to stand: as good.
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
            continue;
        };
        let mut bytes = vec![0; rng.random_range(0..3000)];
        rng.fill_bytes(&mut bytes);
        if round % 6 == 0 {
            // The beginning of a TLS record with a handshake.
            bytes.splice(0..0, [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
        }
        // The proxy may refuse before all is written.
        let _written = stream.write_all(&bytes).await;
        if round % 2 == 0 {
            let _told = stream.shutdown().await;
        }
    }
    let (listener, address) = listen_b().await;
    let mut client = mesh.connect(address).await;
    client.write_all(b"still here").await.unwrap();
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    let mut greeting = [0; 10];
    server.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"still here");
    let unknown = ["Outbound", "unknown_destination"];
    assert!(mesh.metric("tulle_connections_failed_total", &unknown) >= 200.0);
    let refused = || mesh.metric("tulle_tunnel_handshakes_total", &["Server", "protocol"]);
    eventually("counted", || refused() >= 90.0).await;
}

/// HTTP/2 garbage inside a good TLS connection.
#[tokio::test]
async fn garbage_in_a_proven_tunnel_ends_only_that_tunnel() {
    let mesh = Mesh::start().await;
    let tls = MeshTls::new();
    tls.set_bundles(bundles(&[&mesh.forge_a, &mesh.forge_b]).unwrap());
    let mut rng = StdRng::seed_from_u64(4);
    for round in 0..40 {
        let svid = mesh
            .forge_a
            .svid(&identity("a.test", "a"), Flaw::None)
            .unwrap();
        let stream = TcpStream::connect(mesh.hbone()).await.unwrap();
        let expected = [identity("b.test", "b")];
        let (mut tls, _) = tls.connect(svid, &expected, stream).await.unwrap();
        let mut bytes = vec![0; 2000];
        rng.fill_bytes(&mut bytes);
        if round % 2 == 0 {
            bytes.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        let _written = tls.write_all(&bytes).await;
        let _flushed = tls.flush().await;
        let mut rest = Vec::new();
        // Ends, with or without an error.
        let _end = in_time("the end", tls.read_to_end(&mut rest)).await;
    }
    let (_listener, address) = listen_b().await;
    let client = Client::connect(&mesh).await;
    assert_eq!(
        client.connect_to(&address.to_string()).await,
        StatusCode::OK
    );
}
