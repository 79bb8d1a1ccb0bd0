//! What comes and goes without a tunnel.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tulle_model::{Change, TunnelProtocol};
use tulle_node_proxy::plane::InboundMode;

use crate::support::{B, Mesh, domain, in_time, listen_b, workload};

/// Connects to pod B's plaintext port as if the kernel had steered a connection for `destination`.
async fn steer(mesh: &Mesh, source: &str, destination: SocketAddr) -> TcpStream {
    mesh.b.kernel.steer_to(destination);
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(source.parse().unwrap(), 0))
        .unwrap();
    let port = mesh.b.proxy.addresses().inbound[0].port();
    socket
        .connect(SocketAddr::new(B.parse().unwrap(), port))
        .await
        .unwrap()
}

async fn expect_refusal(mesh: &Mesh, mut stream: TcpStream, reason: &str) {
    let end = in_time("the refusal", stream.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let labels = ["Inbound", &format!("\"{reason}\"")];
    assert!(
        mesh.metric("tulle_connections_failed_total", &labels) > 0.0,
        "{reason}"
    );
}

#[tokio::test]
async fn permissive_lets_plaintext_in_and_announces_the_client() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let mut client = steer(&mesh, "127.0.30.1", address).await;
    client.write_all(b"ping").await.unwrap();
    let (mut server, seen) = in_time("accept", listener.accept()).await.unwrap();
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes).await.unwrap();
    server.write_all(b"pong").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"pong");
    assert!(seen.ip().is_loopback());
    assert_eq!(mesh.b.kernel.announced(), [client.local_addr().unwrap()]);
}

#[tokio::test]
async fn resets_pass_both_ways_in_plaintext() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    for client_resets in [true, false] {
        let mut client = steer(&mesh, "127.0.30.1", address).await;
        client.write_all(b"x").await.unwrap();
        let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        let (breaker, mut seer) = if client_resets {
            (client, server)
        } else {
            (server, client)
        };
        socket2::SockRef::from(&breaker)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(breaker);
        let end = in_time("the reset", seer.read(&mut [0; 1])).await;
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_closed_port_resets_and_the_proxys_own_ports_are_not_reached() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    drop(listener);
    let stream = steer(&mesh, "127.0.30.1", address).await;
    expect_refusal(&mesh, stream, "application_refused").await;
    let own = SocketAddr::new(B.parse().unwrap(), 15053);
    let stream = steer(&mesh, "127.0.30.1", own).await;
    expect_refusal(&mesh, stream, "recursive").await;
    let other = SocketAddr::new("127.0.20.3".parse().unwrap(), 80);
    let stream = steer(&mesh, "127.0.30.1", other).await;
    expect_refusal(&mesh, stream, "wrong_destination").await;
}

#[tokio::test]
async fn strict_refuses_plaintext_except_from_the_node() {
    let mesh = Mesh::with(|settings| {
        settings.inbound_mode = InboundMode::Strict;
        settings.host_addresses = vec!["127.0.30.9".parse().unwrap()];
    })
    .await;
    let (listener, address) = listen_b().await;
    let stream = steer(&mesh, "127.0.30.1", address).await;
    expect_refusal(&mesh, stream, "strict").await;
    let mut probe = steer(&mesh, "127.0.30.9", address).await;
    probe.write_all(b"x").await.unwrap();
    let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
    server.read_exact(&mut [0; 1]).await.unwrap();
}

#[tokio::test]
async fn a_peer_outside_of_the_mesh_is_reached_in_plaintext() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    let mut plain = workload("b", B, &domain("b.test"));
    plain.tunnel_protocol = TunnelProtocol::None;
    let mut view = (*mesh.directory.snapshot()).clone();
    view.apply(Change::Workload(Arc::new(plain)));
    mesh.directory.publish(view);
    let mut client = mesh.connect(address).await;
    client.write_all(b"x").await.unwrap();
    let (mut server, seen) = in_time("accept", listener.accept()).await.unwrap();
    server.read_exact(&mut [0; 1]).await.unwrap();
    assert_eq!(seen.ip().to_string(), crate::support::A);
    let plaintext = ["Outbound", "Plaintext"];
    assert!(mesh.metric("tulle_connections_opened_total", &plaintext) > 0.0);
}

#[tokio::test]
async fn an_unknown_destination_is_reset_and_never_reached() {
    let mesh = Mesh::start().await;
    let outbound = mesh.a.proxy.addresses().outbound[0];
    let mut direct = TcpStream::connect(outbound).await.unwrap();
    let end = in_time("the reset", direct.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);

    // The kernel chose an address that has left the mesh: nothing is sent there, not even in plaintext.
    let listener = tokio::net::TcpListener::bind("127.0.40.4:0").await.unwrap();
    let mut stream = mesh.connect(listener.local_addr().unwrap()).await;
    let end = in_time("the reset", stream.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let unknown = ["Outbound", "unknown_workload"];
    assert!(mesh.metric("tulle_connections_failed_total", &unknown) > 0.0);
}
