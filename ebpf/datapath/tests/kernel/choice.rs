//! Which backend a client gets: kept, by weight, by table.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use tulle_datapath::{Datapath, Frontend, KernelTable, Path};
use tulle_model::{Algorithm, Protocol};

use crate::{
    outbound::{at, frontend},
    support::{PATIENCE, Pod, ProxyListeners, Rig, count, listen, wait_for},
};

/// Two clients, and a server whose ports are the backends.
struct Stage {
    datapath: Datapath,
    clients: [Pod; 2],
    server: Pod,
    tcp: Vec<(SocketAddr, TcpListener)>,
    udp: Vec<(SocketAddr, UdpSocket)>,
    _proxies: [ProxyListeners; 2],
    rig: Rig,
}

impl Stage {
    fn new(name: &str, backends: u16) -> Self {
        let rig = Rig::new(name);
        let datapath = rig.open();
        let clients = [rig.pod(), rig.pod()];
        let server = rig.pod();
        let proxies = [0, 1].map(|client| rig.capture(&datapath, &clients[client]));
        let addresses = |ip: IpAddr| (9000..9000 + backends).map(move |port| at(ip, port));
        let all = || addresses(server.v4.into()).chain(addresses(server.v6.into()));
        let tcp = all().map(|address| {
            let listener = server.run(|| listen(&address.ip().to_string(), address.port()));
            listener.set_nonblocking(true).unwrap();
            (address, listener)
        });
        let tcp = tcp.collect();
        let udp = all().map(|address| {
            let socket = server.run(|| UdpSocket::bind(address).unwrap());
            socket.set_nonblocking(true).unwrap();
            (address, socket)
        });
        let udp = udp.collect();
        Stage {
            datapath,
            clients,
            server,
            tcp,
            udp,
            _proxies: proxies,
            rig,
        }
    }

    /// The four services, led to these ports with these weights.
    fn serve(&self, ports: &[(u16, u32)], change: impl Fn(&mut Frontend)) {
        let service = |address: &str, protocol, ip: IpAddr| {
            let backends: Vec<_> = ports
                .iter()
                .map(|(port, _)| (at(ip, *port), Path::Plain))
                .collect();
            let mut service = frontend(address, protocol, &backends);
            for (backend, (_, weight)) in service.backends.iter_mut().zip(ports) {
                backend.weight = *weight;
            }
            change(&mut service);
            service
        };
        let (v4, v6) = (self.server.v4.into(), self.server.v6.into());
        let table = KernelTable {
            frontends: vec![
                service(V4, Protocol::Tcp, v4),
                service(V4, Protocol::Udp, v4),
                service(V6, Protocol::Tcp, v6),
                service(V6, Protocol::Udp, v6),
            ],
            workloads: Vec::new(),
        };
        self.datapath.reconcile(&table).unwrap();
    }

    /// The port that a new connection of the client gets.
    fn connect(&self, client: usize, service: &str) -> u16 {
        let _stream = self.clients[client].run(|| TcpStream::connect(service).unwrap());
        let mut accepted = None;
        wait_for("the connection at a backend", || {
            let mut backends = self.tcp.iter();
            accepted = backends.find(|(_, listener)| listener.accept().is_ok());
            accepted.is_some()
        });
        accepted.unwrap().0.port()
    }

    /// The port that a datagram of a new socket gets.
    fn send(&self, client: usize, service: &str, is_connected: bool) -> u16 {
        let any = if service == V4 { "0.0.0.0:0" } else { "[::]:0" };
        self.clients[client].run(|| {
            let socket = UdpSocket::bind(any).unwrap();
            if is_connected {
                socket.connect(service).unwrap();
                socket.send(b"hello").unwrap();
            } else {
                socket.send_to(b"hello", service).unwrap();
            }
        });
        let mut received = None;
        wait_for("the datagram at a backend", || {
            let mut backends = self.udp.iter();
            received = backends.find(|(_, socket)| socket.recv_from(&mut [0; 16]).is_ok());
            received.is_some()
        });
        received.unwrap().0.port()
    }

    fn sent_by(&self, client: usize, way: Way, service: &str) -> u16 {
        match way {
            Way::Tcp => self.connect(client, service),
            Way::UdpConnected => self.send(client, service, true),
            Way::Udp => self.send(client, service, false),
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    Tcp,
    UdpConnected,
    Udp,
}

fn equal(ports: impl IntoIterator<Item = u16>) -> Vec<(u16, u32)> {
    ports.into_iter().map(|port| (port, 1)).collect()
}

fn keep(seconds: u32) -> impl Fn(&mut Frontend) {
    move |service| service.session_affinity = seconds
}

fn by_table(service: &mut Frontend) {
    service.algorithm = Algorithm::Maglev;
}

#[test]
fn a_client_keeps_its_backend_while_that_serves() {
    let stage = Stage::new("affinity", 12);
    for service in [V4, V6] {
        for way in [Way::Tcp, Way::UdpConnected, Way::Udp] {
            stage.serve(&equal(9000..9012), keep(3600));
            let first = stage.sent_by(0, way, service);
            for _ in 0..24 {
                assert_eq!(stage.sent_by(0, way, service), first);
            }
            // Others move slots, also into the one that it had.
            stage.serve(
                &equal((9000..9012).rev().step_by(2).chain([first])),
                keep(3600),
            );
            assert_eq!(stage.sent_by(0, way, service), first);
            let others = || (9000..9012).filter(|port| *port != first);
            stage.serve(&equal(others()), keep(3600));
            let second = stage.sent_by(0, way, service);
            assert_ne!(second, first);
            // The old one is back, and the new choice holds.
            stage.serve(&equal(9000..9012), keep(3600));
            for _ in 0..24 {
                assert_eq!(stage.sent_by(0, way, service), second);
            }
            // Without affinity the choice is free again.
            stage.serve(&equal(9000..9012), keep(0));
            let seen: HashSet<u16> = (0..64).map(|_| stage.sent_by(0, way, service)).collect();
            assert!(seen.len() > 3, "{seen:?}");
        }
    }
}

#[test]
fn each_client_has_its_own_backend_and_a_restart_forgets_none() {
    let mut stage = Stage::new("affinity_clients", 32);
    stage.serve(&equal(9000..9032), keep(3600));
    let chosen = [0, 1].map(|client| stage.connect(client, V4));
    let Stage { datapath, .. } = stage;
    drop(datapath);
    stage.datapath = stage.rig.open();
    stage.serve(&equal(9000..9032), keep(3600));
    for _ in 0..24 {
        assert_eq!([0, 1].map(|client| stage.connect(client, V4)), chosen);
    }
}

#[test]
fn a_client_that_stays_away_for_too_long_chooses_anew() {
    let stage = Stage::new("affinity_timeout", 16);
    stage.serve(&equal(9000..9016), keep(1));
    let first = stage.connect(0, V4);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = Instant::now();
        wait_for("the timeout to pass", || {
            left.elapsed() > Duration::from_millis(1_050)
        });
        // One in sixteen times it is the same one by chance.
        if stage.connect(0, V4) != first {
            return;
        }
        assert!(Instant::now() < deadline, "it is kept for ever");
    }
}

#[test]
fn weights_are_shares() {
    let stage = Stage::new("weights", 10);
    // More slots than a service's own entry holds.
    let weights: Vec<(u16, u32)> = (9000..9010).zip([1, 0, 3, 1, 1, 1, 1, 1, 1, 10]).collect();
    stage.serve(&weights, |_| {});
    let mut seen: HashMap<u16, u32> = HashMap::new();
    for _ in 0..800 {
        *seen.entry(stage.connect(0, V4)).or_default() += 1;
    }
    let of = |port: u16| seen.get(&port).copied().unwrap_or(0);
    assert_eq!(of(9001), 0, "{seen:?}");
    assert!((90..=150).contains(&of(9002)), "{seen:?}");
    assert!((340..=460).contains(&of(9009)), "{seen:?}");
    assert!(seen.values().all(|count| *count >= 15), "{seen:?}");
    // All alike again: the shares go with the weights.
    stage.serve(&equal(9000..9010), |_| {});
    let seen: HashSet<u16> = (0..200).map(|_| stage.connect(0, V4)).collect();
    assert_eq!(seen.len(), 10);
    assert_eq!(count(&stage.datapath, "connect4", "missing_slot"), 0);
}

#[test]
fn a_table_gives_a_client_the_same_backend_every_time() {
    let mut stage = Stage::new("maglev", 12);
    stage.serve(&equal(9000..9012), by_table);
    let chosen = [0, 1].map(|client| {
        let first = stage.connect(client, V4);
        for way in [Way::Tcp, Way::UdpConnected, Way::Udp] {
            for _ in 0..8 {
                assert_eq!(stage.sent_by(client, way, V4), first);
            }
        }
        first
    });
    // Nobody is remembered: a table says it, also to the next process.
    let Stage { datapath, .. } = stage;
    drop(datapath);
    stage.datapath = stage.rig.open();
    stage.serve(&equal(9000..9012), by_table);
    assert_eq!([0, 1].map(|client| stage.connect(client, V4)), chosen);
    // Somebody else goes, whichever slot that frees.
    let gone = (9000..9012).find(|port| !chosen.contains(port)).unwrap();
    stage.serve(&equal((9000..9012).filter(|port| *port != gone)), by_table);
    let same = [0, 1].map(|client| stage.connect(client, V4) == chosen[client]);
    assert!(
        same.contains(&true),
        "a change among others moves nearly nobody"
    );
    // Its own goes, and comes back.
    stage.serve(
        &equal((9000..9012).filter(|port| *port != chosen[0])),
        by_table,
    );
    assert_ne!(stage.connect(0, V4), chosen[0]);
    stage.serve(&equal(9000..9012), by_table);
    assert_eq!([0, 1].map(|client| stage.connect(client, V4)), chosen);
    stage.serve(&equal(9000..9012), |_| {});
    let seen: HashSet<u16> = (0..64).map(|_| stage.connect(0, V4)).collect();
    assert!(seen.len() > 3, "{seen:?}");
}

#[test]
fn beyond_the_limit_of_tables_services_choose_at_random_and_are_counted() {
    let rig = Rig::new("maglev_limit");
    let datapath = rig.open();
    let services = |count: u16| KernelTable {
        frontends: (0..count)
            .map(|number| {
                let [high, low] = number.to_be_bytes();
                let address = format!("172.21.{high}.{low}:80");
                let backend = (at([10, 9, 0, 1], 80), Path::Plain);
                let mut service = frontend(&address, Protocol::Tcp, &[backend]);
                by_table(&mut service);
                service
            })
            .collect(),
        workloads: Vec::new(),
    };
    assert_eq!(
        datapath.reconcile(&services(1_024)).unwrap().without_table,
        0
    );
    assert_eq!(
        datapath.reconcile(&services(1_030)).unwrap().without_table,
        6
    );
    assert_eq!(datapath.reconcile(&services(0)).unwrap().without_table, 0);
    assert_eq!(
        datapath.reconcile(&services(1_000)).unwrap().without_table,
        0
    );
}

const V4: &str = "172.20.1.1:80";
const V6: &str = "[fd00:20:1::1]:80";
