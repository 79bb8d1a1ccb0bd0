//! Which tunnels there are, and how they end.

use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tulle_identity::{
    MeshTls,
    testing::{Flaw, bundles},
};
use tulle_model::{Change, NamespacedName, PortMapping, Service, ServicePort, SpiffeId};

use crate::support::{B, Mesh, domain, eventually, in_time, listen_b, pair, round_trip, workload};

fn handshakes(mesh: &Mesh) -> f64 {
    mesh.metric("tulle_tunnel_handshakes_total", &["Client", "\"ok\""])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_shares_one_handshake() {
    let mesh = Mesh::hbone_only().await;
    let (listener, address) = listen_b().await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = mesh.connect(address).await;
        client.write_all(b"?").await.unwrap();
        clients.push(client);
    }
    for _ in 0..60 {
        let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
    }
    let count = handshakes(&mesh);
    assert!((1.0..=2.0).contains(&count), "{count} handshakes");
}

#[tokio::test]
async fn an_idle_tunnel_is_closed() {
    let mesh = Mesh::with(|s| s.tunnel_idle_timeout = Duration::from_millis(100)).await;
    let (listener, _) = listen_b().await;
    drop(pair(&mesh, &listener).await);
    for side in ["Client", "Server"] {
        eventually(side, || mesh.metric("tulle_tunnels", &[side]) < 0.5).await;
    }
    pair(&mesh, &listener).await;
    assert!(handshakes(&mesh) > 1.5);
}

#[tokio::test]
async fn a_new_certificate_is_proven_by_new_tunnels_and_cuts_nothing() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    let (mut client, mut server) = pair(&mesh, &listener).await;
    let identity = mesh.a.proxy.descriptor().identity(&domain("a.test"));
    mesh.a.plane.svids.forget(&identity);
    pair(&mesh, &listener).await;
    assert!((handshakes(&mesh) - 2.0).abs() < 0.5);
    client.write_all(b"still").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_leaves_gracefully_finishes_its_streams() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    let (mut client, mut server) = pair(&mesh, &listener).await;
    let Mesh {
        a, b, directory, ..
    } = mesh;
    let draining = tokio::spawn(b.proxy.drain(Duration::from_secs(20)));
    client.write_all(b"late").await.unwrap();
    server.read_exact(&mut [0; 4]).await.unwrap();
    server.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    assert!(!draining.is_finished());
    drop((client, server));
    in_time("the drain", draining).await.unwrap();
    drop((a, directory));
}

#[tokio::test]
async fn the_end_of_a_drain_is_a_reset_never_a_clean_end() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    let mut streams = pair(&mesh, &listener).await;
    let Mesh {
        a, b, directory, ..
    } = mesh;
    b.proxy.drain(Duration::from_millis(50)).await;
    for stream in [&mut streams.0, &mut streams.1] {
        let end = in_time("the cut", stream.read(&mut [0; 1])).await;
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    drop((a, directory));
}

#[tokio::test]
async fn a_draining_proxy_takes_nothing_new() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    let _open = pair(&mesh, &listener).await;
    let outbound = mesh.a.proxy.addresses().outbound[0];
    let Mesh {
        a, b, directory, ..
    } = mesh;
    let draining = tokio::spawn(a.proxy.drain(Duration::from_secs(20)));
    let refuses = async {
        while TcpStream::connect(outbound).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    in_time("refusal", refuses).await;
    assert!(!draining.is_finished());
    draining.abort();
    drop((b, directory));
}

/// A service of two endpoints whose first does not answer.
#[tokio::test]
async fn an_unreachable_endpoint_is_replaced_before_any_byte_is_sent() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let key = NamespacedName::new("default", "svc.default.svc.cluster.local");
    let service = Service {
        name: "svc".into(),
        namespace: "default".into(),
        hostname: key.name.clone().into(),
        addresses: vec!["127.0.99.1".parse().unwrap()],
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            target_port: address.port(),
            protocol: Default::default(),
            app_protocol: Default::default(),
        }],
        subject_alt_names: Vec::new(),
        sharing: Default::default(),
        ..Service::default()
    };
    let mapping = PortMapping {
        service_port: 80,
        target_port: 0,
        ..PortMapping::default()
    };
    let mut view = (*mesh.directory.snapshot()).clone();
    view.apply(Change::Service(Arc::new(service)));
    for (name, ip) in [("b", B), ("dead", "127.0.66.6")] {
        let mut endpoint = workload(name, ip, &domain("b.test"));
        endpoint.services.insert(key.clone(), vec![mapping]);
        view.apply(Change::Workload(Arc::new(endpoint)));
    }
    mesh.directory.publish(view);
    // Somebody else answers at the dead endpoint's port: it cannot prove to be the endpoint.
    let requested: SocketAddr = "127.0.99.1:80".parse().unwrap();
    let dead = SocketAddr::new("127.0.66.6".parse().unwrap(), address.port());
    for round in 0..3 {
        let mut client = mesh.connect_by(requested, dead).await;
        client.write_all(b"?").await.unwrap();
        let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        // After the first failure the dead endpoint is not tried first any more.
        let retries = mesh.metric("tulle_connect_retries_total", &[]);
        assert!(
            (retries - 1.0).abs() < 0.5,
            "round {round}: {retries} retries"
        );
    }
}

#[tokio::test]
async fn the_client_is_announced_with_its_own_address_and_port() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    let (client, _server) = pair(&mesh, &listener).await;
    let port = client.local_addr().unwrap().port();
    let expected: SocketAddr = format!("{}:{port}", crate::support::A).parse().unwrap();
    assert_eq!(mesh.b.kernel.announced(), [expected]);
}

/// The settings of a SETTINGS frame, and the increment of the WINDOW_UPDATE that follows.
async fn read_settings(stream: &mut (impl AsyncRead + Unpin)) -> (BTreeMap<u16, u32>, u32) {
    let mut settings = BTreeMap::new();
    loop {
        let mut head = [0; 9];
        in_time("a frame", stream.read_exact(&mut head))
            .await
            .unwrap();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut body = vec![0; usize::try_from(len).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        match (head[3], head[4]) {
            (SETTINGS, 0) => {
                for entry in body.chunks(6) {
                    let id = u16::from_be_bytes([entry[0], entry[1]]);
                    let value = u32::from_be_bytes(entry[2..6].try_into().unwrap());
                    settings.insert(id, value);
                }
            }
            (WINDOW_UPDATE, _) => {
                assert_eq!(head[5..9], [0; 4], "of the whole connection");
                return (settings, u32::from_be_bytes(body.try_into().unwrap()));
            }
            _ => {}
        }
    }
}

const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn identity(name: &str) -> SpiffeId {
    workload(name, B, &domain(&format!("{name}.test"))).identity()
}

fn tls(mesh: &Mesh) -> MeshTls {
    let tls = MeshTls::new();
    tls.set_bundles(bundles(&[&mesh.forge_a, &mesh.forge_b]).unwrap());
    tls
}

#[tokio::test]
async fn the_server_announces_what_ztunnel_announces() {
    let mesh = Mesh::start().await;
    let svid = mesh.forge_a.svid(&identity("a"), Flaw::None).unwrap();
    let stream = TcpStream::connect(mesh.hbone()).await.unwrap();
    let (mut stream, _) = tls(&mesh)
        .connect(svid, &[identity("b")], stream)
        .await
        .unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream
        .write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    stream.flush().await.unwrap();
    let (settings, increment) = read_settings(&mut stream).await;
    let expected = [(3, 200), (4, 4 << 20), (5, 1 << 20), (6, 65_536)];
    assert_eq!(settings, BTreeMap::from(expected));
    assert_eq!(increment, 16_711_681);
}

/// A peer of another make in pod B's place; the port is where pod A looks for tunnels.
async fn stand_in(mesh: &Mesh) -> (TcpListener, SocketAddr) {
    let ip = "127.0.50.5".parse().unwrap();
    // Beside the proxy's own listener for all addresses, of which the kernel prefers the one that is named.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket
        .bind(SocketAddr::new(ip, mesh.hbone().port()))
        .unwrap();
    let listener = socket.listen(16).unwrap();
    let mut view = (*mesh.directory.snapshot()).clone();
    let own = workload("b", "127.0.50.5", &domain("b.test"));
    view.apply(Change::WorkloadGone(own.uid.clone()));
    view.apply(Change::Workload(Arc::new(own)));
    mesh.directory.publish(view);
    (listener, SocketAddr::new(ip, 80))
}

#[tokio::test]
async fn the_client_announces_what_ztunnel_announces_and_sends_nothing_before_200() {
    let mesh = Mesh::start().await;
    let (listener, address) = stand_in(&mesh).await;
    let mut client = mesh.connect(address).await;
    client.write_all(b"early").await.unwrap();
    let (stream, _) = in_time("a tunnel", listener.accept()).await.unwrap();
    let svid = mesh.forge_b.svid(&identity("b"), Flaw::None).unwrap();
    let (mut stream, peer) = tls(&mesh).accept(svid, stream).await.unwrap();
    assert_eq!(peer.id, identity("a"));
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    let (settings, increment) = read_settings(&mut stream).await;
    assert_eq!(
        settings,
        BTreeMap::from([(2, 0), (4, 4 << 20), (5, 1 << 20), (6, 16_384)])
    );
    assert_eq!(increment, 16_711_681);
    // HEADERS, and then nothing: no DATA before the answer.
    let mut head = [0; 9];
    in_time("the request", stream.read_exact(&mut head))
        .await
        .unwrap();
    assert_eq!(head[3], 1);
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    stream
        .read_exact(&mut vec![0; usize::try_from(len).unwrap()])
        .await
        .unwrap();
    let more = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let mesh = Mesh::with(|settings| {
        settings.ping_interval = Duration::from_millis(50);
        settings.ping_timeout = Duration::from_millis(100);
    })
    .await;
    let (listener, address) = stand_in(&mesh).await;
    let mut client = mesh.connect(address).await;
    client.write_all(b"hello?").await.unwrap();
    let (stream, _) = in_time("a tunnel", listener.accept()).await.unwrap();
    let svid = mesh.forge_b.svid(&identity("b"), Flaw::None).unwrap();
    let _silent = tls(&mesh).accept(svid, stream).await.unwrap();
    let end = in_time("the end", client.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("the tunnel is gone", || {
        mesh.metric("tulle_tunnels", &["Client"]) < 0.5
    })
    .await;
}

#[tokio::test]
async fn pings_do_not_disturb_a_tunnel_that_lives() {
    let mesh = Mesh::with(|settings| {
        settings.lanes_per_destination_max = 0;
        settings.ping_interval = Duration::from_millis(10);
        settings.ping_timeout = Duration::from_secs(10);
    })
    .await;
    let (listener, _) = listen_b().await;
    let (mut client, mut server) = pair(&mesh, &listener).await;
    let until = std::time::Instant::now() + Duration::from_millis(300);
    while std::time::Instant::now() < until {
        round_trip(&mut client, &mut server).await;
    }
    assert!((handshakes(&mesh) - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_timed_out() {
    let mesh = Mesh::with(|s| s.handshake_timeout = Duration::from_millis(50)).await;
    let mut silent = TcpStream::connect(mesh.hbone()).await.unwrap();
    in_time("the end", silent.read(&mut [0; 1]))
        .await
        .unwrap_or(0);
    assert!(mesh.metric("tulle_tunnel_handshakes_total", &["Server", "timeout"]) > 0.5);

    // TLS, but no HTTP/2.
    let svid = mesh.forge_a.svid(&identity("a"), Flaw::None).unwrap();
    let stream = TcpStream::connect(mesh.hbone()).await.unwrap();
    let (mut stream, _) = tls(&mesh)
        .connect(svid, &[identity("b")], stream)
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _end = in_time("the end", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn handshakes_under_way_are_limited() {
    let mesh = Mesh::with(|s| s.handshakes_per_pod_max = 2).await;
    let first = TcpStream::connect(mesh.hbone()).await.unwrap();
    let _second = TcpStream::connect(mesh.hbone()).await.unwrap();
    let mut third = TcpStream::connect(mesh.hbone()).await.unwrap();
    in_time("the refusal", third.read(&mut [0; 1]))
        .await
        .unwrap_or(0);
    assert!(mesh.metric("tulle_tunnel_handshakes_total", &["Server", "\"limit\""]) > 0.5);
    drop(first);
    let (listener, _) = listen_b().await;
    let failed = || mesh.metric("tulle_tunnel_handshakes_total", &["Server", "\"io\""]);
    eventually("the place is free", || failed() > 0.5).await;
    pair(&mesh, &listener).await;
}
