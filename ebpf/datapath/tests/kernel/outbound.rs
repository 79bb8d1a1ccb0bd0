//! Connections of applications: load-balanced, captured, and answered for.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
};

use tulle_datapath::{Backend, Datapath, Frontend, KernelTable, Path, SocketCookie, WorkloadRoute};
use tulle_model::{Algorithm, Protocol, ServiceAddress};

use crate::support::{Pod, Rig, count};

/// A service of the table.
pub(crate) fn frontend(
    address: &str,
    protocol: Protocol,
    backends: &[(SocketAddr, Path)],
) -> Frontend {
    Frontend {
        address: ServiceAddress {
            socket: address.parse().unwrap(),
            protocol,
        },
        backends: backends
            .iter()
            .map(|(address, path)| Backend {
                address: *address,
                path: *path,
                weight: 1,
            })
            .collect(),
        session_affinity: 0,
        algorithm: Algorithm::Random,
    }
}

pub(crate) fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// Accepts one connection and answers with a word.
fn serve_once(
    pod: &Pod,
    listener: TcpListener,
    word: &'static str,
) -> std::thread::JoinHandle<(SocketAddr, SocketAddr)> {
    pod.spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(word.as_bytes()).unwrap();
        (peer, stream.local_addr().unwrap())
    })
}

fn read_word(mut stream: TcpStream) -> String {
    let mut word = String::new();
    stream.read_to_string(&mut word).unwrap();
    word
}

#[test]
fn a_plain_service_is_balanced_over_its_backends_and_shows_its_own_address() {
    let rig = Rig::new("plain_service");
    let datapath = rig.open();
    let (client, server) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &client);
    let backends = [
        (at(server.v4, 8001), Path::Plain),
        (at(server.v4, 8002), Path::Plain),
    ];
    let table = KernelTable {
        frontends: vec![frontend("172.20.1.1:80", Protocol::Tcp, &backends)],
        workloads: Vec::new(),
    };
    datapath.reconcile(&table).unwrap();
    let listeners =
        server.run(|| [8001, 8002].map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()));
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    let mut seen = [0, 0];
    for _ in 0..64 {
        let stream = client.run(|| TcpStream::connect("172.20.1.1:80").unwrap());
        assert_eq!(stream.peer_addr().unwrap().to_string(), "172.20.1.1:80");
        let index = listeners
            .iter()
            .position(|listener| listener.accept().is_ok())
            .unwrap();
        seen[index] += 1;
    }
    assert!(seen[0] > 8 && seen[1] > 8, "{seen:?}");
    assert_eq!(count(&datapath, "connect4", "translated"), 64);
}

#[test]
fn a_service_without_backends_refuses_at_once_and_is_counted() {
    let rig = Rig::new("no_backend");
    let datapath = rig.open();
    let client = rig.pod();
    let _listeners = rig.capture(&datapath, &client);
    let table = KernelTable {
        frontends: vec![
            frontend("172.20.1.1:80", Protocol::Tcp, &[]),
            frontend("[fd00:20:1::1]:80", Protocol::Tcp, &[]),
        ],
        workloads: Vec::new(),
    };
    datapath.reconcile(&table).unwrap();
    for address in [
        "172.20.1.1:80",
        "[fd00:20:1::1]:80",
        "[::ffff:172.20.1.1]:80",
    ] {
        let err = client.run(|| TcpStream::connect(address)).unwrap_err();
        assert_eq!(
            err.kind(),
            std::io::ErrorKind::HostUnreachable,
            "{address}: {err}"
        );
    }
    assert_eq!(count(&datapath, "connect4", "no_backend"), 1);
    assert_eq!(count(&datapath, "connect6", "no_backend"), 2);
}

#[test]
fn a_proxied_connection_reaches_the_capture_listener_which_learns_its_destination() {
    let rig = Rig::new("proxied");
    let datapath = rig.open();
    let client = rig.pod();
    let listeners = rig.capture(&datapath, &client);
    let far_v4 = at(Ipv4Addr::new(10, 2, 1, 5), 8080);
    let far_v6: SocketAddr = "[fd00:10:2:1::5]:8080".parse().unwrap();
    let table = KernelTable {
        frontends: vec![
            frontend("172.20.1.1:80", Protocol::Tcp, &[(far_v4, Path::Proxy)]),
            frontend("[fd00:20:1::1]:80", Protocol::Tcp, &[(far_v6, Path::Proxy)]),
        ],
        workloads: [far_v4.ip(), far_v6.ip()]
            .map(|address| WorkloadRoute {
                address,
                path: Path::Proxy,
            })
            .to_vec(),
    };
    datapath.reconcile(&table).unwrap();
    let cases = [
        ("172.20.1.1:80", far_v4),
        ("[fd00:20:1::1]:80", far_v6),
        ("10.2.1.5:9999", at(far_v4.ip(), 9999)),
        ("[fd00:10:2:1::5]:9999", at(far_v6.ip(), 9999)),
        ("[::ffff:172.20.1.1]:80", far_v4),
    ];
    for (asked, backend) in cases {
        check_proxied(&datapath, &client, &listeners, asked, backend);
    }
    assert_eq!(count(&datapath, "connect4", "proxied"), 2);
    assert_eq!(count(&datapath, "connect6", "proxied"), 3);
}

fn check_proxied(
    datapath: &Datapath,
    client: &Pod,
    listeners: &crate::support::ProxyListeners,
    asked: &str,
    backend: SocketAddr,
) {
    let asked: SocketAddr = asked.parse().unwrap();
    let stream = client.run(|| TcpStream::connect(asked).unwrap());
    assert_eq!(stream.peer_addr().unwrap(), asked);
    let listener = match backend {
        SocketAddr::V4(_) => &listeners.outbound_v4,
        SocketAddr::V6(_) => &listeners.outbound_v6,
    };
    let (mut accepted, downstream) = listener.accept().unwrap();
    assert_eq!(accepted.peer_addr().unwrap(), downstream);
    let original = datapath
        .original_destination(client.cookie, downstream)
        .unwrap();
    assert_eq!(
        original.requested.ip().to_canonical(),
        asked.ip().to_canonical()
    );
    assert_eq!(original.requested.port(), asked.port());
    assert_eq!(original.backend, backend);
    accepted.write_all(b"proxy").unwrap();
    drop(accepted);
    assert_eq!(read_word(stream), "proxy");
}

#[test]
fn the_record_of_a_destination_outlives_a_client_that_left_early_and_goes_with_the_proxys_end() {
    let rig = Rig::new("original_lifetime");
    let datapath = rig.open();
    let client = rig.pod();
    let listeners = rig.capture(&datapath, &client);
    let far = at(Ipv4Addr::new(10, 2, 1, 5), 80);
    let table = KernelTable {
        frontends: Vec::new(),
        workloads: vec![WorkloadRoute {
            address: far.ip(),
            path: Path::Proxy,
        }],
    };
    datapath.reconcile(&table).unwrap();
    client.run(|| {
        let mut stream = TcpStream::connect(far).unwrap();
        stream.write_all(b"fire and forget").unwrap();
    });
    let (mut accepted, downstream) = listeners.outbound_v4.accept().unwrap();
    assert_eq!(
        datapath
            .original_destination(client.cookie, downstream)
            .unwrap()
            .backend,
        far
    );
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "fire and forget");
    drop(accepted);
    crate::support::wait_for("the record to go", || {
        datapath
            .original_destination(client.cookie, downstream)
            .is_none()
    });
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let rig = Rig::new("left_alone");
    let datapath = rig.open();
    let (captured, stranger) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &captured);
    let table = KernelTable {
        frontends: Vec::new(),
        workloads: [captured.v4, stranger.v4]
            .map(|ip| WorkloadRoute {
                address: ip.into(),
                path: Path::Proxy,
            })
            .to_vec(),
    };
    datapath.reconcile(&table).unwrap();
    let own = captured.run(|| TcpListener::bind("0.0.0.0:7000").unwrap());
    let other = stranger.run(|| TcpListener::bind("0.0.0.0:7000").unwrap());
    // Its own address and loopback, from inside.
    for ip in [captured.v4, Ipv4Addr::LOCALHOST] {
        let stream = captured.run(|| TcpStream::connect((ip, 7000)).unwrap());
        let (_accepted, peer) = own.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }
    // A pod that is not captured, to a workload.
    let _stream = stranger.run(|| TcpStream::connect((stranger.v4, 7000)).unwrap());
    other.accept().unwrap();
    // The proxy itself, in the captured pod's namespace.
    let _stream = captured.as_proxy(|| TcpStream::connect((stranger.v4, 7000)).unwrap());
    let (_accepted, peer) = other.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::V4(captured.v4));
    assert_eq!(count(&datapath, "connect4", "proxied"), 0);
}

#[test]
fn a_service_that_leads_back_to_the_pod_itself_stays_inside() {
    let rig = Rig::new("hairpin");
    let datapath = rig.open();
    let pod = rig.pod();
    let _listeners = rig.capture(&datapath, &pod);
    let backends = [
        (at(pod.v4, 7000), Path::Proxy),
        (at(pod.v4, 7000), Path::Direct),
    ];
    let table = KernelTable {
        frontends: vec![
            frontend("172.20.1.1:80", Protocol::Tcp, &backends[..1]),
            frontend("172.20.1.2:80", Protocol::Tcp, &backends[1..]),
        ],
        workloads: vec![WorkloadRoute {
            address: pod.v4.into(),
            path: Path::Direct,
        }],
    };
    datapath.reconcile(&table).unwrap();
    let own = pod.run(|| TcpListener::bind("0.0.0.0:7000").unwrap());
    for service in ["172.20.1.1:80", "172.20.1.2:80"] {
        let stream = pod.run(|| TcpStream::connect(service).unwrap());
        assert_eq!(stream.peer_addr().unwrap().to_string(), service);
        own.accept().unwrap();
    }
}

#[test]
fn a_socket_that_is_connected_again_forgets_its_first_destination() {
    let rig = Rig::new("reconnect");
    let datapath = rig.open();
    let (client, server) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &client);
    let table = KernelTable {
        frontends: vec![frontend(
            "172.20.1.1:80",
            Protocol::Udp,
            &[(at(server.v4, 7000), Path::Plain)],
        )],
        workloads: Vec::new(),
    };
    datapath.reconcile(&table).unwrap();
    let socket = client.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("172.20.1.1:80").unwrap();
        assert_eq!(socket.peer_addr().unwrap().to_string(), "172.20.1.1:80");
        socket.connect((server.v4, 9)).unwrap();
        socket
    });
    assert_eq!(socket.peer_addr().unwrap(), at(server.v4, 9));
}

#[test]
fn an_announced_peer_is_what_the_application_sees() {
    let rig = Rig::new("announced");
    let datapath = rig.open();
    let pod = rig.pod();
    let _listeners = rig.capture(&datapath, &pod);
    let cases = [
        (at(pod.v4, 7000), "10.2.1.5:41000"),
        (at(pod.v6, 7000), "[fd00:10:2:1::5]:41000"),
        (at(Ipv4Addr::LOCALHOST, 7000), "10.2.1.6:41001"),
    ];
    let listeners = pod.run(|| {
        [
            crate::support::listen("0.0.0.0", 7000),
            crate::support::listen("::", 7000),
        ]
    });
    for (target, shown) in cases {
        let shown: SocketAddr = shown.parse().unwrap();
        let listener = &listeners[usize::from(target.is_ipv6())];
        let stream = connect_announcing(&datapath, &pod, target, shown);
        let server = serve_once(&pod, listener.try_clone().unwrap(), "hello");
        assert_eq!(read_word(stream), "hello");
        let (peer, local) = server.join().unwrap();
        assert_eq!(peer, shown, "accept");
        assert_eq!(local, target);
    }
    assert_eq!(count(&datapath, "sockops", "peer_recorded"), 3);
}

/// Connects as the proxy does.
pub(crate) fn connect_announcing(
    datapath: &Datapath,
    pod: &Pod,
    target: SocketAddr,
    shown: SocketAddr,
) -> TcpStream {
    pod.as_proxy(|| {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(target),
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )
        .unwrap();
        let cookie = SocketCookie::of_socket(socket.as_fd()).unwrap();
        datapath.announce_peer(cookie, shown).unwrap();
        socket.connect(&target.into()).unwrap();
        socket.into()
    })
}

#[test]
fn a_dual_stack_listener_sees_an_announced_v4_peer_in_mapped_form() {
    let rig = Rig::new("announced_mapped");
    let datapath = rig.open();
    let pod = rig.pod();
    let _listeners = rig.capture(&datapath, &pod);
    let listener = pod.run(|| TcpListener::bind("[::]:7000").unwrap());
    let _stream = connect_announcing(
        &datapath,
        &pod,
        at(pod.v4, 7000),
        "10.2.1.5:41000".parse().unwrap(),
    );
    let (accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer, "[::ffff:10.2.1.5]:41000".parse().unwrap());
    assert_eq!(accepted.peer_addr().unwrap(), peer);
}

#[test]
fn a_multipath_socket_is_captured_like_any_other() {
    let rig = Rig::new("mptcp");
    let datapath = rig.open();
    let client = rig.pod();
    let listeners = rig.capture(&datapath, &client);
    let far = at(Ipv4Addr::new(10, 2, 1, 5), 80);
    let table = KernelTable {
        frontends: Vec::new(),
        workloads: vec![WorkloadRoute {
            address: far.ip(),
            path: Path::Proxy,
        }],
    };
    datapath.reconcile(&table).unwrap();
    let stream = client.run(|| {
        let socket = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM,
            Some(socket2::Protocol::MPTCP),
        )
        .unwrap();
        socket.connect(&far.into()).unwrap();
        socket
    });
    assert_eq!(stream.peer_addr().unwrap().as_socket().unwrap(), far);
    let (_accepted, downstream) = listeners.outbound_v4.accept().unwrap();
    assert_eq!(
        datapath
            .original_destination(client.cookie, downstream)
            .unwrap()
            .requested,
        far
    );
}

#[test]
fn a_connection_that_is_reset_before_the_proxy_accepts_keeps_its_destination() {
    let rig = Rig::new("early_reset");
    let datapath = rig.open();
    let pod = rig.pod();
    let listeners = rig.capture(&datapath, &pod);
    let far = at(Ipv4Addr::new(10, 2, 1, 5), 80);
    let table = KernelTable {
        frontends: Vec::new(),
        workloads: vec![WorkloadRoute {
            address: far.ip(),
            path: Path::Proxy,
        }],
    };
    datapath.reconcile(&table).unwrap();
    for _ in 0..50 {
        pod.run(|| {
            let mut stream = TcpStream::connect(far).unwrap();
            stream.write_all(b"hello").unwrap();
            socket2::SockRef::from(&stream)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
        });
        let (mut accepted, downstream) = listeners.outbound_v4.accept().unwrap();
        let original = datapath.original_destination(pod.cookie, downstream);
        assert_eq!(original.unwrap().requested, far);
        // What the kernel does on its own loopback: first the bytes, then the reset.
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        let end = accepted.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
