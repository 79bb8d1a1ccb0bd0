//! Connections to addresses where nobody is any more.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use tulle_datapath::{Datapath, DestroyReport, KernelTable, Path};
use tulle_model::Protocol;

use crate::{
    outbound::{at, frontend},
    support::{PATIENCE, Pod, ProxyListeners, Rig},
};

struct Stage {
    datapath: Datapath,
    client: Pod,
    dying: Pod,
    living: Pod,
    _listeners: ProxyListeners,
    _rig: Rig,
}

impl Stage {
    /// A service for each path, family and protocol leads to the dying pod.
    fn new(name: &str) -> Self {
        let rig = Rig::new(name);
        let datapath = rig.open();
        let (client, dying, living) = (rig.pod(), rig.pod(), rig.pod());
        let listeners = rig.capture(&datapath, &client);
        let service = |address: &str, protocol, ip: IpAddr, path| {
            frontend(address, protocol, &[(at(ip, 9000), path)])
        };
        let (v4, v6) = (dying.v4.into(), dying.v6.into());
        let table = KernelTable {
            frontends: vec![
                service(PLAIN_V4, Protocol::Tcp, v4, Path::Plain),
                service(DIRECT_V4, Protocol::Tcp, v4, Path::Direct),
                service(PLAIN_V6, Protocol::Tcp, v6, Path::Plain),
                service(PLAIN_V4, Protocol::Udp, v4, Path::Plain),
                service(PLAIN_V6, Protocol::Udp, v6, Path::Plain),
            ],
            workloads: Vec::new(),
        };
        datapath.reconcile(&table).unwrap();
        Stage {
            datapath,
            client,
            dying,
            living,
            _listeners: listeners,
            _rig: rig,
        }
    }

    fn connect(&self, listener: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
        let ours = self.client.run(|| TcpStream::connect(to).unwrap());
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    fn destroy(&self, ips: &[IpAddr], limit: usize) -> DestroyReport {
        let dead: HashSet<IpAddr> = ips.iter().copied().collect();
        self.datapath.destroy_connections(&dead, limit).unwrap()
    }
}

fn is_aborted(stream: &mut TcpStream) -> bool {
    let end = stream.read_exact(&mut [0]);
    end.is_err_and(|err| err.kind() == ErrorKind::ConnectionAborted)
}

#[test]
fn connections_to_a_dead_address_end_at_once_and_others_stay() {
    let stage = Stage::new("destroy_tcp");
    let dying_v4 = stage
        .dying
        .run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    let dying_v6 = stage.dying.run(|| crate::support::listen("::", 9000));
    let living = stage
        .living
        .run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    let mut doomed = [
        stage.connect(&dying_v4, PLAIN_V4),
        stage.connect(&dying_v4, DIRECT_V4),
        stage.connect(&dying_v6, PLAIN_V6),
        // Asked for by its own address, and by a dual-stack socket.
        stage.connect(&dying_v4, &at(stage.dying.v4, 9000).to_string()),
        stage.connect(&dying_v4, "[::ffff:172.20.1.1]:80"),
    ];
    let (mut other, mut other_end) = stage.connect(&living, &at(stage.living.v4, 9000).to_string());
    let report = stage.destroy(&[stage.dying.v4.into(), stage.dying.v6.into()], 100);
    assert_eq!(
        report,
        DestroyReport {
            destroyed: 5,
            failed: 0,
            is_limited: false
        }
    );
    for (ours, _) in &mut doomed {
        assert!(is_aborted(ours));
    }
    other.write_all(b"x").unwrap();
    other_end.read_exact(&mut [0]).unwrap();
    assert_eq!(stage.destroy(&[stage.dying.v4.into()], 100).destroyed, 0);
}

#[test]
fn a_connection_that_waits_for_an_answer_ends_too() {
    let stage = Stage::new("destroy_waiting");
    let absent: SocketAddr = "10.77.0.200:9000".parse().unwrap();
    let dialer = stage.client.spawn(move || TcpStream::connect(absent));
    crate::support::wait_for("the connection to be destroyed", || {
        stage.destroy(&[absent.ip()], 100).destroyed == 1
    });
    let err = dialer.join().unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn a_connected_udp_socket_to_a_dead_address_gets_an_error() {
    let stage = Stage::new("destroy_udp");
    for (service, any) in [(PLAIN_V4, "0.0.0.0:0"), (PLAIN_V6, "[::]:0")] {
        let connect = |to: SocketAddr| {
            let socket = stage.client.run(|| UdpSocket::bind(any).unwrap());
            stage.client.run(|| socket.connect(to).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let doomed = connect(service.parse().unwrap());
        let stays = connect(match any {
            "0.0.0.0:0" => at(stage.living.v4, 9000),
            _ => at(stage.living.v6, 9000),
        });
        let waiter = doomed.try_clone().unwrap();
        let waiter = stage.client.spawn(move || waiter.recv(&mut [0]));
        let dead = [stage.dying.v4.into(), stage.dying.v6.into()];
        assert_eq!(stage.destroy(&dead, 100).destroyed, 1);
        let err = waiter.join().unwrap().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ConnectionAborted);
        stays.peer_addr().unwrap();
        assert!(doomed.peer_addr().is_err(), "it leads nowhere now");
    }
}

#[test]
fn no_more_than_the_limit_ends_and_other_pods_are_left_alone() {
    let stage = Stage::new("destroy_limit");
    let listener = stage
        .dying
        .run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    let pairs: Vec<_> = (0..8).map(|_| stage.connect(&listener, PLAIN_V4)).collect();
    // A pod that is not captured is not ours to touch.
    let mut foreign = stage
        .living
        .run(|| TcpStream::connect(at(stage.dying.v4, 9000)).unwrap());
    let (mut foreign_end, _) = listener.accept().unwrap();
    let dead = [stage.dying.v4.into()];
    let first = stage.destroy(&dead, 5);
    assert_eq!((first.destroyed, first.is_limited), (5, true));
    let second = stage.destroy(&dead, 5);
    assert_eq!((second.destroyed, second.is_limited), (3, false));
    assert_eq!(stage.destroy(&[], 5), DestroyReport::default());
    foreign.write_all(b"x").unwrap();
    foreign_end.read_exact(&mut [0]).unwrap();
    drop(pairs);
}

const PLAIN_V4: &str = "172.20.1.1:80";
const DIRECT_V4: &str = "172.20.1.2:80";
const PLAIN_V6: &str = "[fd00:20:1::1]:80";
