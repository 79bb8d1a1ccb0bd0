//! Ways between proxies end with the certificates that they were opened with; what they carry goes on.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tulle_identity::{MeshTls, testing::bundles};
use tulle_model::SpiffeId;

use crate::{
    lanes::{ACCEPT, ByHand, DATA, DATA_END, OPEN, preface},
    support::{B, HOUR, Mesh, eventually, in_time, listen_b, pair, round_trip, workload},
};

fn handshakes(mesh: &Mesh) -> f64 {
    mesh.metric("tulle_tunnel_handshakes_total", &["Client", "\"ok\""])
}

/// How many handshakes each of some connections costs that come one after the other, beside others that stay open.
async fn costs(mesh: &Mesh, listener: &TcpListener, open: f64, connections: usize) -> Vec<u32> {
    let mut costs = Vec::new();
    for _ in 0..connections {
        eventually("the last one is over", || {
            mesh.metric("tulle_tunnel_streams", &["Client"]) < open + 0.5
        })
        .await;
        let before = handshakes(mesh);
        drop(pair(mesh, listener).await);
        costs.push(u32::from(handshakes(mesh) > before + 0.5));
    }
    costs
}

/// The client's side, with lanes and without.
#[tokio::test]
async fn no_connection_takes_a_way_whose_peers_certificate_is_over() {
    for lanes in [256, 0] {
        let mesh = Mesh::with(|settings| settings.lanes_per_destination_max = lanes).await;
        let (listener, _) = listen_b().await;
        mesh.a.set_life(20 * HOUR);
        let mut carried = pair(&mesh, &listener).await;
        drop(pair(&mesh, &listener).await);
        mesh.b.set_life(20 * HOUR);
        mesh.a.clock.set_forward(HOUR - HOUR / 20);
        // A lane that returns a moment after its session's end is missed once in a while.
        assert!(costs(&mesh, &listener, 1.0, 10).await.contains(&0));
        mesh.a.clock.set_forward(HOUR / 10);
        assert!(costs(&mesh, &listener, 1.0, 1).await[0] > 0);
        assert!(costs(&mesh, &listener, 1.0, 10).await.contains(&0));
        round_trip(&mut carried.0, &mut carried.1).await;
    }
}

/// The server's side; the peer does not care for its own end.
#[tokio::test]
async fn a_lane_takes_no_session_after_the_end_of_a_certificate() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let mut lane = ByHand::connect(&mesh).await;
    lane.send(OPEN, &preface(1, address.port())).await;
    assert_eq!(lane.read_frame().await, Some((ACCEPT, Vec::new())));
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    mesh.b.clock.set_forward(2 * HOUR);
    // The session goes on to its own end.
    lane.send(DATA, b"late").await;
    let mut late = [0; 4];
    in_time("the bytes", server.read_exact(&mut late))
        .await
        .unwrap();
    server.write_all(b"bye").await.unwrap();
    assert_eq!(lane.read_frame().await, Some((DATA, b"bye".to_vec())));
    lane.send(DATA_END, b"").await;
    drop(server);
    assert_eq!(lane.read_frame().await, Some((DATA_END, Vec::new())));
    // Whether the next request comes before or after the lane has closed: it is not answered.
    let open = lane.frame(OPEN, &preface(2, address.port()));
    let _written = lane.socket.write_all(&open).await;
    assert_eq!(lane.read_frame().await, None);
}

#[tokio::test]
async fn a_preface_that_comes_after_the_clock_was_set_is_not_answered() {
    let mesh = Mesh::start().await;
    let (_listener, address) = listen_b().await;
    let mut lane = ByHand::connect(&mesh).await;
    mesh.b.clock.set_forward(2 * HOUR);
    lane.send(OPEN, &preface(1, address.port())).await;
    assert_eq!(lane.read_frame().await, None);
}

#[tokio::test]
async fn an_idle_lane_ends_with_its_certificate() {
    let mesh = Mesh::start().await;
    let begun = SystemTime::now();
    let mut lane = ByHand::connect_for(&mesh, SHORT_LIFE).await;
    assert_eq!(lane.read_frame().await, None);
    assert_ended_in_time(begun);
}

#[tokio::test]
async fn a_tunnel_takes_no_stream_after_the_end_of_a_certificate() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let (mut requests, ended) = tunnel(&mesh, HOUR).await;
    let (mut send, mut receive) = open(&mut requests, address).await.unwrap();
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    mesh.b.clock.set_forward(2 * HOUR);
    let refused = open(&mut requests, address).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM), "{refused}");
    let told = requests.clone().ready().await;
    assert!(told.is_err_and(|error| error.is_go_away()));
    // What it carries goes on to its own end, and then the tunnel ends.
    send.send_data(Bytes::from_static(b"late"), true).unwrap();
    let mut late = Vec::new();
    in_time("the bytes", server.read_to_end(&mut late))
        .await
        .unwrap();
    assert_eq!(late, b"late");
    server.write_all(b"bye").await.unwrap();
    drop(server);
    let bye = in_time("the answer", receive.data())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bye, b"bye"[..]);
    drop((send, receive));
    in_time("the end", ended).await.unwrap();
}

#[tokio::test]
async fn an_idle_tunnel_ends_with_its_certificate() {
    let mesh = Mesh::start().await;
    let begun = SystemTime::now();
    let (_requests, ended) = tunnel(&mesh, SHORT_LIFE).await;
    in_time("the end", ended).await.unwrap();
    assert_ended_in_time(begun);
}

/// After the certificate's end, and by it: everything else that ends what is idle takes longer.
fn assert_ended_in_time(begun: SystemTime) {
    let lasted = begun.elapsed().unwrap();
    // Certificates end with a second, after which that second is still theirs.
    assert!(lasted + Duration::from_secs(1) >= SHORT_LIFE, "{lasted:?}");
}

/// A tunnel by hand, of a peer that proves itself for so long.
async fn tunnel(mesh: &Mesh, life: Duration) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let identity = |name: &str| -> SpiffeId {
        let domain = format!("{name}.test").parse().unwrap();
        workload(name, B, &domain).identity()
    };
    let tls = MeshTls::new();
    tls.set_bundles(bundles(&[&mesh.forge_a, &mesh.forge_b]).unwrap());
    let svid = mesh.forge_a.svid_for(&identity("a"), life).unwrap();
    let stream = TcpStream::connect(mesh.hbone()).await.unwrap();
    let (stream, _) = tls.connect(svid, &[identity("b")], stream).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let driven = tokio::spawn(async move {
        // A server that closes in good order closes without a word of TLS as well.
        let _ended: Result<(), h2::Error> = connection.await;
    });
    (requests, driven)
}

async fn open(
    requests: &mut SendRequest<Bytes>,
    destination: SocketAddr,
) -> Result<(SendStream<Bytes>, RecvStream), h2::Error> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(destination.to_string())
        .body(())
        .unwrap();
    let (response, send) = requests.send_request(request, false)?;
    let response = in_time("an answer", response).await?;
    assert_eq!(response.status(), StatusCode::OK);
    Ok((send, response.into_body()))
}

/// Enough for a handshake on a busy machine.
const SHORT_LIFE: Duration = Duration::from_secs(4);
