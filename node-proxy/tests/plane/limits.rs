//! Slow readers, many connections, and what they cost.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Mesh, eventually, in_time, listen_b, pair, round_trip};

/// Writes until the socket takes no more for a while; says how much it took.
async fn fill(stream: &mut TcpStream, piece: usize) -> usize {
    let bytes = vec![7; piece];
    let mut written = 0;
    loop {
        match tokio::time::timeout(STANDSTILL, stream.write(&bytes)).await {
            Ok(result) => written += result.unwrap(),
            Err(_) => return written,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_stops_the_writer_and_nobody_else() {
    a_reader_that_stops_stops_the_writer_and_nobody_else_on(Mesh::start().await).await;
    a_reader_that_stops_stops_the_writer_and_nobody_else_on(Mesh::hbone_only().await).await;
}

async fn a_reader_that_stops_stops_the_writer_and_nobody_else_on(mesh: Mesh) {
    let (listener, _) = listen_b().await;
    let mut small = pair(&mesh, &listener).await;
    // Several, so that what they hold together is more than a tunnel's usual window.
    let mut stuck = Vec::new();
    for _ in 0..6 {
        let (mut client, server) = pair(&mesh, &listener).await;
        let taken = fill(&mut client, 256 * 1024).await;
        assert!(
            taken < bound(),
            "{taken} bytes taken for a reader that stands still"
        );
        stuck.push((client, server, taken));
        round_trip(&mut small.0, &mut small.1).await;
    }
    // The other way round.
    let (client, mut server) = pair(&mesh, &listener).await;
    let taken = fill(&mut server, 256 * 1024).await;
    assert!(
        taken < bound(),
        "{taken} bytes taken for a reader that stands still"
    );
    round_trip(&mut small.0, &mut small.1).await;
    drop((client, server));
    // Nothing is lost when the readers go on.
    for (mut client, mut server, taken) in stuck {
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        in_time("the rest", server.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(rest.len(), taken);
    }
}

/// Many tiny pieces for a reader that stands still cost no more than their bytes, and the tunnel survives them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_pieces_for_a_stuck_reader_are_harmless() {
    tiny_pieces_for_a_stuck_reader_are_harmless_on(Mesh::start().await).await;
    tiny_pieces_for_a_stuck_reader_are_harmless_on(Mesh::hbone_only().await).await;
}

async fn tiny_pieces_for_a_stuck_reader_are_harmless_on(mesh: Mesh) {
    let (listener, _) = listen_b().await;
    let (mut client, mut server) = pair(&mesh, &listener).await;
    let mut written = 0usize;
    for _ in 0..60_000 {
        client.write_all(b"tiny").await.unwrap();
        written += 4;
    }
    client.shutdown().await.unwrap();
    let mut all = Vec::new();
    in_time("all pieces", server.read_to_end(&mut all))
        .await
        .unwrap();
    assert_eq!(all.len(), written);
}

/// A bulk stream gets its own tunnel's queue; small messages do not wait in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_avoid_a_tunnel_that_carries_bulk() {
    let mesh = Mesh::hbone_only().await;
    let (listener, _) = listen_b().await;
    let (mut bulk, sink) = pair(&mesh, &listener).await;
    let taken = fill(&mut bulk, 256 * 1024).await;
    assert!(taken > 1024 * 1024);
    let mut small = pair(&mesh, &listener).await;
    let tunnels = mesh.metric("tulle_tunnels", &["Client"]);
    assert!(tunnels >= 2.0, "{tunnels} tunnels");
    round_trip(&mut small.0, &mut small.1).await;
    drop(sink);
}

#[tokio::test]
async fn a_pod_has_a_limit_of_connections() {
    let mesh = Mesh::with(|settings| settings.connections_per_pod_max = 2).await;
    let (listener, address) = listen_b().await;
    let first = pair(&mesh, &listener).await;
    let _second = pair(&mesh, &listener).await;
    let mut third = mesh.connect(address).await;
    let end = in_time("the refusal", third.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let refused = ["Outbound", "connection_limit"];
    assert!(mesh.metric("tulle_connections_failed_total", &refused) > 0.0);
    drop(first);
    let closed = || mesh.metric("tulle_connections_closed_total", &["Outbound"]);
    eventually("the place is free", || closed() > 0.0).await;
    let _fourth = pair(&mesh, &listener).await;
}

/// What three TCP connections may hold in the kernel, which gives fast readers larger buffers, and little of our own.
fn bound() -> usize {
    let kernel = buffer_max("tcp_rmem") + buffer_max("tcp_wmem");
    3 * kernel + OWN_LEN_MAX
}

fn buffer_max(setting: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{setting}")).unwrap();
    text.split_whitespace()
        .next_back()
        .unwrap()
        .parse()
        .unwrap()
}

/// Windows of HTTP/2 and the buffers of both proxies.
const OWN_LEN_MAX: usize = 8 * 1024 * 1024;
const STANDSTILL: Duration = Duration::from_millis(300);
