//! Connections to pods: steered to the proxy's listener, or let through.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use tulle_datapath::{KernelTable, Path, WorkloadRoute};

use crate::{
    outbound::at,
    support::{INBOUND, Rig, TUNNEL, count, listen},
};

#[test]
fn inbound_plaintext_of_every_port_reaches_the_proxy_with_its_destination() {
    let rig = Rig::new("steered");
    let datapath = rig.open();
    let (outside, pod, other) = (rig.pod(), rig.pod(), rig.pod());
    let listeners = rig.capture(&datapath, &pod);
    let others = rig.capture(&datapath, &other);
    // An application's own listener does not matter, nor does the absence of one; the proxy's ports are no exception.
    let _application = pod.run(|| listen("0.0.0.0", 8080));
    for port in [8080, 1, 22, 15001, INBOUND, 15053, 65535] {
        for (target, listener) in [
            (at(pod.v4, port), &listeners.inbound_v4),
            (at(pod.v6, port), &listeners.inbound_v6),
            (at(other.v4, port), &others.inbound_v4),
        ] {
            let stream = outside.run(|| TcpStream::connect(target).unwrap());
            let (accepted, peer) = listener.accept().unwrap();
            assert_eq!(accepted.local_addr().unwrap(), target);
            assert_eq!(peer, stream.local_addr().unwrap());
        }
    }
    assert_eq!(count(&datapath, "sk_lookup", "steered"), 21);
}

#[test]
fn tunnels_loopback_and_own_connections_are_not_steered() {
    let rig = Rig::new("not_steered");
    let datapath = rig.open();
    let (outside, pod) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &pod);
    let tunnel = pod.as_proxy(|| listen("0.0.0.0", TUNNEL));
    let application = pod.run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let _stream = outside.run(|| TcpStream::connect((pod.v4, TUNNEL)).unwrap());
    tunnel.accept().unwrap();
    for ip in [pod.v4, Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9)] {
        let _stream = pod.run(|| TcpStream::connect((ip, 8080)).unwrap());
        application.accept().unwrap();
    }
    // The proxy's last hop to the pod's address, from a loopback source.
    let _stream = pod.as_proxy(|| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&at(Ipv4Addr::new(127, 5, 6, 7), 0).into())
            .unwrap();
        socket.connect(&at(pod.v4, 8080).into()).unwrap();
        socket
    });
    application.accept().unwrap();
}

#[test]
fn a_direct_connection_between_captured_pods_goes_straight_to_the_application() {
    let rig = Rig::new("direct");
    let datapath = rig.open();
    let (client, server) = (rig.pod(), rig.pod());
    let _client_listeners = rig.capture(&datapath, &client);
    let server_listeners = rig.capture(&datapath, &server);
    let table = KernelTable {
        frontends: vec![crate::outbound::frontend(
            "172.20.1.1:80",
            tulle_model::Protocol::Tcp,
            &[(at(server.v4, 8080), Path::Direct)],
        )],
        workloads: vec![
            WorkloadRoute {
                address: server.v4.into(),
                path: Path::Direct,
            },
            WorkloadRoute {
                address: server.v6.into(),
                path: Path::Direct,
            },
        ],
    };
    datapath.reconcile(&table).unwrap();
    let v4 = server.run(|| listen("0.0.0.0", 8080));
    let v6 = server.run(|| listen("::", 8080));
    for (target, listener) in [
        (at(Ipv4Addr::new(172, 20, 1, 1), 80), &v4),
        (at(server.v4, 8080), &v4),
        (at(server.v6, 8080), &v6),
    ] {
        let stream = client.run(|| TcpStream::connect(target).unwrap());
        assert_eq!(stream.peer_addr().unwrap(), target);
        let (_accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }
    // The proxy's own connection from the client's namespace is not registered as direct.
    let _stream = client.as_proxy(|| TcpStream::connect((server.v4, 8080)).unwrap());
    server_listeners.inbound_v4.accept().unwrap();
    assert_eq!(count(&datapath, "sk_lookup", "direct"), 3);
}

#[test]
fn without_its_proxy_a_pod_refuses_plaintext_at_once() {
    let rig = Rig::new("fail_closed");
    let datapath = rig.open();
    let (outside, pod) = (rig.pod(), rig.pod());
    let listeners = rig.capture(&datapath, &pod);
    let _application = pod.run(|| listen("0.0.0.0", 8080));
    drop(listeners);
    let err = outside
        .run(|| TcpStream::connect((pod.v4, 8080)))
        .unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(count(&datapath, "sk_lookup", "no_listener"), 1);
}
