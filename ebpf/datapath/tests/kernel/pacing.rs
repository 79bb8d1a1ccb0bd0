//! Connections inside the node do not pace, at any of their ends; whoever chose for itself keeps its choice.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tulle_datapath::{Datapath, KernelTable, Pacing, Path, SocketCookie, WorkloadRoute};

use crate::{
    outbound::at,
    support::{Pod, ProxyListeners, Rig, count},
};

/// The ends of the three kinds of connection that begin and end on a node.
struct Ends {
    /// A pod's connection to another pod, and what that accepted.
    direct: (TcpStream, TcpStream),
    /// A pod's connection to the proxy, and what the proxy accepted.
    captured: (TcpStream, TcpStream),
    /// The proxy's connection to a pod's application, and what that accepted.
    announced: (TcpStream, TcpStream),
}

impl Ends {
    fn congestion(&self) -> Vec<String> {
        let Ends {
            direct,
            captured,
            announced,
        } = self;
        [direct, captured, announced]
            .into_iter()
            .flat_map(|(first, second)| [first, second])
            .map(congestion)
            .collect()
    }
}

struct Stage<'a> {
    datapath: &'a Datapath,
    client: Pod,
    server: Pod,
    listeners: ProxyListeners,
    _others: ProxyListeners,
}

impl<'a> Stage<'a> {
    fn new(rig: &Rig, datapath: &'a Datapath) -> Self {
        let (client, server) = (rig.pod(), rig.pod());
        let listeners = rig.capture(datapath, &client);
        let others = rig.capture(datapath, &server);
        let route = |address: SocketAddr, path| WorkloadRoute {
            address: address.ip(),
            path,
        };
        let table = KernelTable {
            frontends: Vec::new(),
            workloads: vec![
                route(at(server.v4, 0), Path::Direct),
                route(at(server.v6, 0), Path::Direct),
                route(FAR.parse().unwrap(), Path::Proxy),
            ],
        };
        datapath.reconcile(&table).unwrap();
        Stage {
            datapath,
            client,
            server,
            listeners,
            _others: others,
        }
    }

    /// Connects once in each way; every socket has `name` before it connects or listens.
    fn connect(&self, name: &str, server: SocketAddr) -> Ends {
        let choose = |socket: &Socket| socket.set_tcp_congestion(name.as_bytes()).unwrap();
        let listener: TcpListener = self.server.run(|| {
            let socket = stream_socket(server);
            choose(&socket);
            socket.bind(&server.into()).unwrap();
            socket.listen(8).unwrap();
            socket.into()
        });
        choose(&SockRef::from(&self.listeners.outbound_v4));
        let application = |pod: &Pod, target: SocketAddr| -> TcpStream {
            pod.run(|| {
                let socket = stream_socket(target);
                choose(&socket);
                socket.connect(&target.into()).unwrap();
                socket.into()
            })
        };
        let target = listener.local_addr().unwrap();
        let direct = application(&self.client, target);
        let direct = (direct, listener.accept().unwrap().0);
        let captured = application(&self.client, FAR.parse().unwrap());
        let captured = (captured, self.listeners.outbound_v4.accept().unwrap().0);
        let announced: TcpStream = self.server.as_proxy(|| {
            let socket = stream_socket(target);
            choose(&socket);
            let cookie = SocketCookie::of_socket(socket.as_fd()).unwrap();
            let client = "10.2.1.9:4000".parse().unwrap();
            self.datapath.announce_peer(cookie, client).unwrap();
            socket.connect(&target.into()).unwrap();
            socket.into()
        });
        let announced = (announced, listener.accept().unwrap().0);
        Ends {
            direct,
            captured,
            announced,
        }
    }
}

#[test]
fn connections_inside_the_node_are_not_paced() {
    let rig = Rig::new("unpaced");
    let datapath = rig.open();
    let stage = Stage::new(&rig, &datapath);
    for server in [at(stage.server.v4, 0), at(stage.server.v6, 0)] {
        let ends = stage.connect("bbr", server);
        assert_eq!(ends.congestion(), ["reno"; 6], "{server}");
    }
    assert_eq!(count(&datapath, "sockops", "unpaced"), 12);
    assert_eq!(count(&datapath, "sockops", "unpace_failed"), 0);
}

#[test]
fn who_does_not_pace_keeps_its_choice() {
    let rig = Rig::new("unpaced_choice");
    let datapath = rig.open();
    let stage = Stage::new(&rig, &datapath);
    let ends = stage.connect("cubic", at(stage.server.v4, 0));
    assert_eq!(ends.congestion(), ["cubic"; 6]);
    assert_eq!(count(&datapath, "sockops", "unpaced"), 0);
}

#[test]
fn the_systems_default_stays_where_that_is_wanted() {
    let mut rig = Rig::new("paced");
    rig.settings.pacing = Pacing::System;
    let datapath = rig.open();
    let stage = Stage::new(&rig, &datapath);
    let ends = stage.connect("bbr", at(stage.server.v4, 0));
    assert_eq!(ends.congestion(), ["bbr"; 6]);
}

#[test]
fn what_leaves_the_node_is_paced_as_the_system_has_it() {
    let rig = Rig::new("paced_outside");
    let datapath = rig.open();
    let (client, outside) = (rig.pod(), rig.pod());
    let _listeners = rig.capture(&datapath, &client);
    let listener = outside.run(|| TcpListener::bind("0.0.0.0:0").unwrap());
    let target = at(outside.v4, listener.local_addr().unwrap().port());
    let stream: TcpStream = client.run(|| {
        let socket = stream_socket(target);
        socket.set_tcp_congestion(b"bbr").unwrap();
        socket.connect(&target.into()).unwrap();
        socket.into()
    });
    assert_eq!(congestion(&stream), "bbr");
    assert_eq!(count(&datapath, "sockops", "unpaced"), 0);
}

fn stream_socket(address: SocketAddr) -> Socket {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .unwrap()
}

fn congestion(stream: &TcpStream) -> String {
    let name = SockRef::from(stream).tcp_congestion().unwrap();
    String::from_utf8(name)
        .unwrap()
        .trim_end_matches('\0')
        .to_owned()
}

/// A workload of another node.
const FAR: &str = "10.2.1.5:8080";
