//! UDP services and name servers.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread::JoinHandle,
};

use tulle_datapath::{Datapath, KernelTable, Path};
use tulle_model::Protocol;

use crate::{
    outbound::{at, frontend},
    support::{DNS, PATIENCE, Pod, ProxyListeners, Rig, count, listen},
};

/// Answers each datagram with the port that it listens on and the datagram; stops when dropped.
struct Echo {
    address: SocketAddr,
    socket: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(pod: &Pod, address: SocketAddr) -> Self {
        let socket = pod.run(|| UdpSocket::bind(address).unwrap());
        let own = socket.try_clone().unwrap();
        let address = socket.local_addr().unwrap();
        let thread = pod.spawn(move || {
            let mut buffer = [0; 64];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                if from == address {
                    return;
                }
                let answer = format!(
                    "{} {}",
                    address.port(),
                    String::from_utf8_lossy(&buffer[..len])
                );
                socket.send_to(answer.as_bytes(), from).unwrap();
            }
        });
        Echo {
            address,
            socket: own,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // A datagram from itself is the sign to stop.
        let _sent = self.socket.send_to(b"stop", self.address);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

fn udp_socket(pod: &Pod, bind: &str) -> UdpSocket {
    let socket = pod.run(|| UdpSocket::bind(bind).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 64];
    let (len, from) = loop {
        match socket.recv_from(&mut buffer) {
            // A wait with a deadline is not resumed by the kernel after a signal.
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    (String::from_utf8_lossy(&buffer[..len]).into_owned(), from)
}

/// A client's pod and a server's with three echoes of each family behind two services.
struct Stage {
    datapath: Datapath,
    client: Pod,
    v4: Vec<Echo>,
    v6: Vec<Echo>,
    _listeners: ProxyListeners,
    _rig: Rig,
}

impl Stage {
    fn new(name: &str) -> Self {
        let rig = Rig::new(name);
        let datapath = rig.open();
        let (client, server) = (rig.pod(), rig.pod());
        let listeners = rig.capture(&datapath, &client);
        let stage = Stage {
            datapath,
            client,
            v4: (0..3)
                .map(|_| Echo::start(&server, at(server.v4, 0)))
                .collect(),
            v6: (0..3)
                .map(|_| Echo::start(&server, at(server.v6, 0)))
                .collect(),
            _listeners: listeners,
            _rig: rig,
        };
        stage.serve(3);
        stage
    }

    /// Makes the first `count` echoes of each family the backends.
    fn serve(&self, count: usize) {
        let backends = |echoes: &[Echo]| -> Vec<_> {
            echoes[..count]
                .iter()
                .map(|echo| (echo.address, Path::Proxy))
                .collect()
        };
        let table = KernelTable {
            frontends: vec![
                frontend(SERVICE_V4, Protocol::Udp, &backends(&self.v4)),
                frontend(SERVICE_V6, Protocol::Udp, &backends(&self.v6)),
            ],
            workloads: Vec::new(),
        };
        self.datapath.reconcile(&table).unwrap();
    }
}

#[test]
fn a_udp_service_answers_from_its_own_address_and_each_socket_keeps_its_backend() {
    let stage = Stage::new("udp");
    for (service, bind) in [
        (SERVICE_V4, "0.0.0.0:0"),
        (SERVICE_V6, "[::]:0"),
        ("[::ffff:172.20.1.9]:5000", "[::]:0"),
    ] {
        let service: SocketAddr = service.parse().unwrap();
        let mut chosen = HashSet::new();
        for _ in 0..24 {
            let socket = udp_socket(&stage.client, bind);
            let answers: HashSet<String> = (0..5)
                .map(|_| {
                    socket.send_to(b"x", service).unwrap();
                    let (answer, from) = receive(&socket);
                    assert_eq!(from, service);
                    answer
                })
                .collect();
            assert_eq!(answers.len(), 1, "one socket, one backend: {answers:?}");
            chosen.extend(answers);
        }
        assert_eq!(chosen.len(), 3, "{chosen:?}");
    }
}

#[test]
fn a_connected_udp_socket_names_the_service_as_its_peer() {
    let stage = Stage::new("udp_connected");
    for (service, bind) in [(SERVICE_V4, "0.0.0.0:0"), (SERVICE_V6, "[::]:0")] {
        let service: SocketAddr = service.parse().unwrap();
        let socket = udp_socket(&stage.client, bind);
        socket.connect(service).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), service);
        socket.send(b"x").unwrap();
        assert_eq!(receive(&socket).1, service);
    }
}

#[test]
fn a_socket_gets_another_backend_when_its_own_goes_and_an_error_when_none_is_left() {
    let stage = Stage::new("udp_gone");
    let service: SocketAddr = SERVICE_V4.parse().unwrap();
    let socket = udp_socket(&stage.client, "0.0.0.0:0");
    for count in [3, 2, 1] {
        stage.serve(count);
        socket.send_to(b"x", service).unwrap();
        let (answer, _) = receive(&socket);
        let serving = stage.v4[..count]
            .iter()
            .map(|echo| format!("{} x", echo.address.port()));
        assert!(
            serving.clone().any(|expected| expected == answer),
            "{answer}"
        );
    }
    stage.serve(0);
    let err = socket.send_to(b"x", service).unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::HostUnreachable, "{err}");
    assert_eq!(count(&stage.datapath, "sendmsg4", "no_backend"), 1);
}

#[test]
fn every_name_server_is_the_proxys_and_seems_to_be_itself() {
    let mut rig = Rig::new("dns");
    rig.settings.dns_capture = true;
    let datapath = rig.open();
    let (client, stranger) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &client);
    let (v4, v6) = client.as_proxy(|| {
        (
            UdpSocket::bind(("127.0.0.1", DNS)).unwrap(),
            UdpSocket::bind(("::1", DNS)).unwrap(),
        )
    });
    for (server, bind, name_server) in [
        (&v4, "0.0.0.0:0", "172.20.1.10:53"),
        (&v4, "0.0.0.0:0", "8.8.8.8:53"),
        (&v6, "[::]:0", "[fd00:20:1::10]:53"),
        (&v4, "[::]:0", "[::ffff:8.8.8.8]:53"),
    ] {
        let name_server: SocketAddr = name_server.parse().unwrap();
        for is_connected in [false, true] {
            let socket = udp_socket(&client, bind);
            if is_connected {
                socket.connect(name_server).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), name_server);
                socket.send(b"query").unwrap();
            } else {
                socket.send_to(b"query", name_server).unwrap();
            }
            let (query, from) = receive(server);
            assert_eq!(query, "query");
            server.send_to(b"answer", from).unwrap();
            assert_eq!(receive(&socket), ("answer".to_owned(), name_server));
        }
    }
    let tcp = client.as_proxy(|| listen("127.0.0.1", DNS));
    let mut stream = client.run(|| TcpStream::connect("8.8.8.8:53").unwrap());
    assert_eq!(stream.peer_addr().unwrap(), "8.8.8.8:53".parse().unwrap());
    tcp.accept().unwrap().0.write_all(b"answer").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert_eq!(count(&datapath, "sendmsg4", "dns"), 3);
    assert_eq!(count(&datapath, "sendmsg6", "dns"), 1);

    // Neither loopback nor a pod that is not captured, nor the proxy asking its own resolver.
    let local = client.run(|| UdpSocket::bind("127.0.0.53:53").unwrap());
    let socket = udp_socket(&client, "0.0.0.0:0");
    socket.send_to(b"local", "127.0.0.53:53").unwrap();
    assert_eq!(receive(&local).0, "local");
    let outside = stranger.run(|| UdpSocket::bind((stranger.v4, 53)).unwrap());
    for socket in [
        client.as_proxy(|| UdpSocket::bind("0.0.0.0:0").unwrap()),
        stranger.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()),
    ] {
        client.as_proxy(|| socket.send_to(b"upstream", (stranger.v4, 53)).unwrap());
        assert_eq!(receive(&outside).0, "upstream");
    }
}

#[test]
fn two_services_through_one_socket_are_told_apart() {
    let rig = Rig::new("udp_two");
    let datapath = rig.open();
    let (client, server) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &client);
    let echoes = [
        Echo::start(&server, at(server.v4, 0)),
        Echo::start(&server, at(server.v4, 0)),
    ];
    let services = ["172.20.1.1:5000", "172.20.1.2:5000"];
    let frontends = services.iter().zip(&echoes);
    let table = KernelTable {
        frontends: frontends
            .map(|(service, echo)| frontend(service, Protocol::Udp, &[(echo.address, Path::Plain)]))
            .collect(),
        workloads: Vec::new(),
    };
    datapath.reconcile(&table).unwrap();
    let socket = udp_socket(&client, "0.0.0.0:0");
    for service in services {
        socket.send_to(b"a", service).unwrap();
    }
    let answers: HashSet<(String, SocketAddr)> = [receive(&socket), receive(&socket)].into();
    let expected = services.iter().zip(&echoes).map(|(service, echo)| {
        (
            format!("{} a", echo.address.port()),
            service.parse().unwrap(),
        )
    });
    assert_eq!(answers, expected.collect());
}

/// The services of the stage.
const SERVICE_V4: &str = "172.20.1.9:5000";
/// Likewise.
const SERVICE_V6: &str = "[fd00:20:1::9]:5000";
