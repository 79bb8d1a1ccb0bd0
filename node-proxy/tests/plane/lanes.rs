//! Lanes: reuse, bursts, peers that do not know them, and peers that break them.

use std::time::Duration;

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tulle_identity::{InnerProtocol, MeshTls, Offer, Opener, Sealer, testing::bundles};
use tulle_model::SpiffeId;

use crate::support::{B, HOUR, Mesh, domain, eventually, in_time, listen_b, pair, round_trip};

fn handshakes(mesh: &Mesh) -> f64 {
    mesh.metric("tulle_tunnel_handshakes_total", &["Client", "\"ok\""])
}

fn broken(mesh: &Mesh) -> f64 {
    mesh.metric("tulle_connections_failed_total", &["Inbound", "\"lane\""])
}

fn sessions(mesh: &Mesh) -> f64 {
    mesh.metric("tulle_tunnel_streams", &[])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_one_after_the_other_share_a_lane_however_they_end() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    for round in 0..40 {
        let (mut client, mut server) = pair(&mesh, &listener).await;
        let reset = Some(Duration::ZERO);
        match round % 4 {
            0 => {
                drop(client);
                assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
                drop(server);
            }
            1 => {
                drop(server);
                assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
                drop(client);
            }
            2 => {
                SockRef::from(&client).set_linger(reset).unwrap();
                drop(client);
                assert!(in_time("a reset", server.read(&mut [0; 1])).await.is_err());
            }
            _ => {
                SockRef::from(&server).set_linger(reset).unwrap();
                drop(server);
                assert!(in_time("a reset", client.read(&mut [0; 1])).await.is_err());
            }
        }
        eventually("the session is over", || sessions(&mesh) < 0.5).await;
    }
    // A lane that returns a moment after its session's end is missed once in a while.
    let count = handshakes(&mesh);
    assert!((1.0..=3.0).contains(&count), "{count} handshakes");
    assert!(broken(&mesh) < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_costs_a_bounded_number_of_handshakes() {
    let mesh = Mesh::with(|settings| settings.lanes_per_destination_max = 20).await;
    let (listener, address) = listen_b().await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = mesh.connect(address).await;
        client.write_all(b"?").await.unwrap();
        clients.push(client);
    }
    for _ in 0..200 {
        let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
    }
    let ways = mesh.metric("tulle_tunnels", &["Client"]);
    assert!((20.5..30.0).contains(&ways), "{ways} lanes and tunnels");
}

#[tokio::test]
async fn a_peer_that_knows_no_lanes_gets_hbone_and_is_not_asked_again() {
    for (client_max, server_max) in [(256, 0), (0, 256)] {
        let mesh = Mesh::with_each(
            |client| client.lanes_per_destination_max = client_max,
            |server| server.lanes_per_destination_max = server_max,
        )
        .await;
        let (listener, _) = listen_b().await;
        let mut pairs = Vec::new();
        for _ in 0..10 {
            pairs.push(pair(&mesh, &listener).await);
        }
        for (client, server) in &mut pairs {
            round_trip(client, server).await;
        }
        let count = handshakes(&mesh);
        assert!((count - 1.0).abs() < 0.5, "{count} handshakes");
    }
}

/// What one lane carries never waits for another's bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_lanes_go_on_over_a_tunnel() {
    let mesh = Mesh::with(|settings| settings.lanes_per_destination_max = 2).await;
    let (listener, _) = listen_b().await;
    let mut pairs = Vec::new();
    for _ in 0..6 {
        pairs.push(pair(&mesh, &listener).await);
    }
    for (client, server) in &mut pairs {
        round_trip(client, server).await;
    }
    let count = handshakes(&mesh);
    assert!((count - 3.0).abs() < 0.5, "{count} handshakes");
}

/// A peer that speaks `tulle/1` by hand.
pub(crate) struct ByHand {
    pub(crate) socket: TcpStream,
    sealer: Sealer,
    opener: Opener,
}

impl ByHand {
    pub(crate) async fn connect(mesh: &Mesh) -> Self {
        Self::connect_for(mesh, HOUR).await
    }

    /// With a certificate that lives so long.
    pub(crate) async fn connect_for(mesh: &Mesh, life: Duration) -> Self {
        let tls = MeshTls::new();
        tls.set_bundles(bundles(&[&mesh.forge_a, &mesh.forge_b]).unwrap());
        let id = |trust_domain: &str, account: &str| SpiffeId {
            trust_domain: domain(trust_domain),
            namespace: "default".into(),
            service_account: account.into(),
        };
        let svid = mesh.forge_a.svid_for(&id("a.test", "a"), life).unwrap();
        let stream = TcpStream::connect(mesh.hbone()).await.unwrap();
        let (tls, _) = tls
            .connect_offering(Offer::Any, svid, &[id("b.test", "b")], stream)
            .await
            .unwrap();
        assert_eq!(tls.protocol(), Some(InnerProtocol::Lane));
        let (socket, sealer, opener) = tls.into_sealed().unwrap();
        let mut lane = ByHand {
            socket,
            sealer,
            opener,
        };
        assert_eq!(lane.read_frame().await, Some((READY, Vec::new())));
        lane
    }

    pub(crate) fn frame(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut sealed = [&[kind], content].concat();
        let header = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
        let tag = self.sealer.seal(&header, &mut sealed).unwrap();
        [header.as_slice(), &sealed, &tag].concat()
    }

    pub(crate) async fn send(&mut self, kind: u8, content: &[u8]) {
        let frame = self.frame(kind, content);
        self.socket.write_all(&frame).await.unwrap();
    }

    /// The next frame; `None` when the peer has closed.
    pub(crate) async fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 2];
        in_time("a frame", self.socket.read_exact(&mut header))
            .await
            .ok()?;
        let mut sealed = vec![0; usize::from(u16::from_be_bytes(header))];
        in_time("a frame", self.socket.read_exact(&mut sealed))
            .await
            .ok()?;
        let len = self.opener.open(&header, &mut sealed).unwrap();
        Some((sealed[0], sealed[1..len].to_vec()))
    }
}

/// A preface for an application of pod B.
pub(crate) fn preface(session: u32, port: u16) -> Vec<u8> {
    let mut bytes = session.to_be_bytes().to_vec();
    for (ip, port) in [(B, port), ("127.0.10.1", 40_000)] {
        let ip: std::net::Ipv4Addr = ip.parse().unwrap();
        bytes.push(4);
        bytes.extend(ip.octets());
        bytes.extend(port.to_be_bytes());
    }
    bytes
}

const READY: u8 = 1;
pub(crate) const OPEN: u8 = 2;
pub(crate) const ACCEPT: u8 = 3;
const REFUSE: u8 = 4;
pub(crate) const DATA: u8 = 5;
pub(crate) const DATA_END: u8 = 6;
const RESET: u8 = 7;

#[tokio::test]
async fn refusals_leave_the_lane_for_the_next_session() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let mut lane = ByHand::connect(&mesh).await;
    let nobody = {
        let (closed, address) = listen_b().await;
        drop(closed);
        address.port()
    };
    let mut wrong = preface(1, 80);
    wrong[8] ^= 1;
    lane.send(OPEN, &wrong).await;
    assert_eq!(lane.read_frame().await, Some((REFUSE, vec![1])));
    lane.send(OPEN, &preface(2, nobody)).await;
    assert_eq!(lane.read_frame().await, Some((REFUSE, vec![3])));
    lane.send(OPEN, &preface(3, address.port())).await;
    assert_eq!(lane.read_frame().await, Some((ACCEPT, Vec::new())));
    lane.send(DATA, b"hello ").await;
    lane.send(DATA_END, b"world").await;
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    let mut all = Vec::new();
    in_time("the bytes", server.read_to_end(&mut all))
        .await
        .unwrap();
    assert_eq!(all, b"hello world");
    server.write_all(b"bye").await.unwrap();
    drop(server);
    let mut answer = Vec::new();
    loop {
        let (kind, bytes) = lane.read_frame().await.unwrap();
        answer.extend(bytes);
        if kind == DATA_END {
            break;
        }
        assert_eq!(kind, DATA);
    }
    assert_eq!(answer, b"bye");
    // A word about the session that is over is ignored; the next one begins.
    lane.send(RESET, &3_u32.to_be_bytes()).await;
    lane.send(OPEN, &preface(4, address.port())).await;
    assert_eq!(lane.read_frame().await, Some((ACCEPT, Vec::new())));
    let _fourth = in_time("accept", listener.accept()).await.unwrap();
    assert!(broken(&mesh) < 0.5);
}

#[tokio::test]
async fn what_no_honest_peer_sends_ends_the_lane_and_is_counted() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let good = preface(1, address.port());
    let cases: [(&str, u8, Vec<u8>); 9] = [
        ("an empty preface", OPEN, Vec::new()),
        (
            "an oversize preface",
            OPEN,
            [good.as_slice(), &[0; 2000]].concat(),
        ),
        (
            "a preface and one byte",
            OPEN,
            [good.as_slice(), &[0]].concat(),
        ),
        ("another session", OPEN, preface(2, address.port())),
        ("the port 0", OPEN, preface(1, 0)),
        ("bytes without a session", DATA, b"hello".to_vec()),
        ("an end without a session", DATA_END, Vec::new()),
        ("the server's word", ACCEPT, Vec::new()),
        ("an unknown kind", 8, Vec::new()),
    ];
    for (what, kind, content) in cases {
        let before = broken(&mesh);
        let mut lane = ByHand::connect(&mesh).await;
        lane.send(kind, &content).await;
        assert_eq!(lane.read_frame().await, None, "{what}");
        eventually(what, || broken(&mesh) > before).await;
    }
    // In the midst of a session, which its application sees as a reset.
    let mut lane = ByHand::connect(&mesh).await;
    lane.send(OPEN, &good).await;
    assert_eq!(lane.read_frame().await, Some((ACCEPT, Vec::new())));
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    lane.send(DATA, b"x").await;
    lane.send(OPEN, &good).await;
    let mut all = Vec::new();
    let end = in_time("the end", server.read_to_end(&mut all)).await;
    assert!(end.is_err(), "{all:?}");
    let counted = || {
        let labels = ["Inbound", "\"tunnel_broken\""];
        mesh.metric("tulle_connections_closed_total", &labels)
    };
    eventually("counted", || counted() > 0.5).await;
    pair(&mesh, &listener).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_a_proven_lane_ends_only_that_lane() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    let mut honest = pair(&mesh, &listener).await;
    let mut rng = StdRng::seed_from_u64(5);
    let rounds = 60_u32;
    for round in 0..rounds {
        let mut lane = ByHand::connect(&mesh).await;
        let mut bytes = vec![0; rng.random_range(20..2000)];
        rng.fill_bytes(&mut bytes);
        if round % 2 == 0 {
            // A length that is possible, so that the seal is looked at.
            bytes[..2].copy_from_slice(&18_u16.to_be_bytes());
        } else if round % 3 == 0 {
            let mut frame = lane.frame(OPEN, &preface(1, 80));
            let bit = rng.random_range(16..frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            bytes = frame;
        } else {
            bytes[..2].copy_from_slice(&rng.random_range(0..17_u16).to_be_bytes());
        }
        let _written = lane.socket.write_all(&bytes).await;
        assert_eq!(lane.read_frame().await, None);
    }
    eventually("counted", || broken(&mesh) > f64::from(rounds) - 0.5).await;
    round_trip(&mut honest.0, &mut honest.1).await;
}

#[tokio::test]
async fn a_preface_has_a_time_and_an_idle_lane_another() {
    let mesh = Mesh::with(|settings| {
        settings.handshake_timeout = Duration::from_millis(200);
        settings.lane_idle_max = Duration::from_secs(5);
    })
    .await;
    let mut lane = ByHand::connect(&mesh).await;
    let frame = lane.frame(OPEN, &preface(1, 80));
    let began = std::time::Instant::now();
    lane.socket.write_all(&frame[..10]).await.unwrap();
    assert_eq!(lane.read_frame().await, None);
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "not by its idle time"
    );
    let mut lane = ByHand::connect(&mesh).await;
    let began = std::time::Instant::now();
    assert_eq!(lane.read_frame().await, None);
    assert!(began.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn an_idle_lane_ends_with_the_drain_and_the_client_notices() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    drop(pair(&mesh, &listener).await);
    eventually("the session is over", || sessions(&mesh) < 0.5).await;
    let mut lane = ByHand::connect(&mesh).await;
    let Mesh {
        a, b, directory, ..
    } = mesh;
    in_time("the drain", b.proxy.drain(Duration::from_secs(20))).await;
    assert_eq!(lane.read_frame().await, None);
    drop((a, directory));
}
