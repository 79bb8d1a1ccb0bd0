//! What connections find out about endpoints, and what a drain still owes to those that are open.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};
use tulle_model::{Change, NamespacedName, PortMapping, Service, ServicePort};

use crate::{
    refusals::allow_only,
    support::{B, Mesh, domain, in_time, listen_b, pair, workload},
};

fn ejected(mesh: &Mesh) -> BTreeSet<SocketAddr> {
    mesh.a.plane.shared.health.ejected().addresses().collect()
}

/// A service whose endpoints are pod B and another one at this address.
fn serve_by(mesh: &Mesh, other: &str, port: u16) -> SocketAddr {
    let key = NamespacedName::new("default", "svc.default.svc.cluster.local");
    let service = Service {
        name: "svc".into(),
        namespace: "default".into(),
        hostname: key.name.clone().into(),
        addresses: vec!["127.0.99.1".parse().unwrap()],
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            target_port: port,
            protocol: Default::default(),
            app_protocol: Default::default(),
        }],
        ..Service::default()
    };
    let mapping = PortMapping {
        service_port: 80,
        target_port: 0,
        ..PortMapping::default()
    };
    let mut view = (*mesh.directory.snapshot()).clone();
    view.apply(Change::Service(Arc::new(service)));
    for (name, ip) in [("b", B), ("other", other)] {
        let mut endpoint = workload(name, ip, &domain("b.test"));
        endpoint.services.insert(key.clone(), vec![mapping]);
        view.apply(Change::Workload(Arc::new(endpoint)));
    }
    mesh.directory.publish(view);
    "127.0.99.1:80".parse().unwrap()
}

#[tokio::test]
async fn a_silent_endpoint_is_left_for_the_next_one() {
    let mesh = Mesh::with(|s| s.failover_patience = Duration::from_millis(300)).await;
    let (listener, address) = listen_b().await;
    let silent: SocketAddr = SocketAddr::new("127.0.50.7".parse().unwrap(), address.port());
    let _mute = mute_at(&mesh, "127.0.50.7");
    let requested = serve_by(&mesh, "127.0.50.7", address.port());
    for round in 0..2 {
        let mut client = mesh.connect_by(requested, silent).await;
        client.write_all(b"?").await.unwrap();
        let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
        in_time("the bytes", server.read_exact(&mut [0; 1]))
            .await
            .unwrap();
        let retries = mesh.metric("tulle_connect_retries_total", &[]);
        assert!((retries - 1.0).abs() < 0.5, "round {round}: {retries}");
        assert_eq!(ejected(&mesh), BTreeSet::from([silent]));
    }
}

/// Takes connections at the tunnel's port of an address, and never says a word.
fn mute_at(mesh: &Mesh, ip: &str) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    let door = SocketAddr::new(ip.parse().unwrap(), mesh.hbone().port());
    socket.bind(door).unwrap();
    socket.listen(16).unwrap()
}

/// The second connection is led to an endpoint that nobody tried yet, and does not even try it.
#[tokio::test]
async fn one_silent_endpoint_of_another_cluster_stands_for_all_of_them() {
    let mesh = Mesh::with(|s| s.failover_patience = Duration::from_millis(300)).await;
    let (listener, address) = listen_b().await;
    let requested = serve_by(&mesh, "127.0.50.7", address.port());
    let mut view = (*mesh.directory.snapshot()).clone();
    let known = view.workload_at("127.0.50.7".parse().unwrap()).unwrap();
    let mut more = workload("more", "127.0.50.8", &domain("b.test"));
    more.cluster = known.cluster.clone();
    more.services = known.services.clone();
    view.apply(Change::Workload(Arc::new(more)));
    mesh.directory.publish(view);
    let _mute = ["127.0.50.7", "127.0.50.8"].map(|ip| mute_at(&mesh, ip));
    for ip in ["127.0.50.7", "127.0.50.8", "127.0.50.8"] {
        let silent = SocketAddr::new(ip.parse().unwrap(), address.port());
        let mut client = mesh.connect_by(requested, silent).await;
        client.write_all(b"?").await.unwrap();
        let (mut server, _) = in_time("accept", listener.accept()).await.unwrap();
        in_time("the byte", server.read_exact(&mut [0; 1]))
            .await
            .unwrap();
        let retries = mesh.metric("tulle_connect_retries_total", &[]);
        assert!((retries - 1.0).abs() < 0.5, "{ip}: {retries}");
    }
}

#[tokio::test]
async fn the_last_endpoint_gets_all_its_time() {
    let mesh = Mesh::with(|s| s.failover_patience = Duration::ZERO).await;
    let (listener, _) = listen_b().await;
    pair(&mesh, &listener).await;
    assert!(ejected(&mesh).is_empty());
}

#[tokio::test]
async fn an_application_that_refuses_is_left_out_and_comes_back() {
    let mesh = Mesh::start().await;
    let (listener, address) = listen_b().await;
    drop(listener);
    let mut stream = mesh.connect(address).await;
    in_time("the refusal", stream.read(&mut [0; 1]))
        .await
        .unwrap_err();
    assert_eq!(ejected(&mesh), BTreeSet::from([address]));
    // It is asked all the same, since there is nobody else.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    pair(&mesh, &socket.listen(16).unwrap()).await;
    assert!(ejected(&mesh).is_empty());
}

#[tokio::test]
async fn policy_applies_during_the_drain_too() {
    let mesh = Mesh::start().await;
    let (listener, _) = listen_b().await;
    let (mut client, mut server) = pair(&mesh, &listener).await;
    let draining = tokio::spawn({
        let b = mesh.b.proxy;
        async move { b.drain(Duration::from_secs(25)).await }
    });
    // The drain has begun when nobody is taken any more.
    let mut view = (*mesh.directory.snapshot()).clone();
    tokio::task::yield_now().await;
    view.apply(Change::Policy(Arc::new(allow_only("somebody-else"))));
    mesh.directory.publish(view);
    for stream in [&mut client, &mut server] {
        let end = in_time("the cut", stream.read(&mut [0; 1])).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    in_time("the end of the drain", draining).await.unwrap();
}
