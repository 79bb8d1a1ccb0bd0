//! Packets that no judged call sent: raw sockets, forged addresses, processes outside of the pod's cgroup, and the world outside.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tulle_datapath::{
    Datapath, DestroyReport, Enforcement, KernelTable, PORT_SET_ALLOW, PORT_SET_DENY, Path,
    PolicyDirection, PolicyPeer, PolicySubject, PolicyTable, PolicyVerdict, PortRule, Seen,
    SubjectFlags, WorkloadRoute,
};
use tulle_model::AddressRange;

use crate::{
    outbound::at,
    policy_table::{peer, port},
    support::{PATIENCE, Pod, ProxyListeners, Rig, count, listen, wait_for},
};

const POD: u32 = 11;
const OTHER: u32 = 12;
const WORLD: u32 = 20;
const EGRESS: PolicyDirection = PolicyDirection::Egress;
const INGRESS: PolicyDirection = PolicyDirection::Ingress;
/// How long something is waited for that must not come.
const SHORT: Duration = Duration::from_millis(150);

/// Two captured pods, and one that is not: the world outside.
struct Stage {
    datapath: Datapath,
    pod: Pod,
    other: Pod,
    outside: Pod,
    listeners: ProxyListeners,
    _others: ProxyListeners,
    rig: Rig,
}

impl Stage {
    /// The gates hang on the host's side if the pods are captured from there.
    fn new(name: &str, on_host: bool) -> Self {
        let mut rig = Rig::new(name);
        rig.enforcement = Enforcement::Drop;
        let datapath = rig.open();
        let (pod, other, outside) = (rig.pod(), rig.pod(), rig.pod());
        let capture = |pod: &Pod| match on_host {
            true => rig.on_host(|| rig.capture(&datapath, pod)),
            false => rig.capture(&datapath, pod),
        };
        let (listeners, others) = (capture(&pod), capture(&other));
        let table = KernelTable {
            frontends: Vec::new(),
            workloads: [pod.v4, other.v4]
                .map(|ip| WorkloadRoute {
                    address: ip.into(),
                    path: Path::Direct,
                })
                .to_vec(),
        };
        datapath.reconcile(&table).unwrap();
        Stage {
            datapath,
            pod,
            other,
            outside,
            listeners,
            _others: others,
            rig,
        }
    }

    fn set(&self, peers: &[(PolicyPeer, u32)], sets: &[(u32, Vec<PortRule>)]) {
        let flags = SubjectFlags {
            egress_enforced: true,
            ingress_enforced: true,
            ..SubjectFlags::default()
        };
        self.set_with(flags, peers, sets);
    }

    fn set_with(
        &self,
        flags: SubjectFlags,
        peers: &[(PolicyPeer, u32)],
        sets: &[(u32, Vec<PortRule>)],
    ) {
        let subject = |pod: &Pod, identity| PolicySubject {
            uid: pod.uid.clone(),
            identity,
            flags,
        };
        let all = |address: &str| AddressRange {
            address: address.parse().unwrap(),
            prefix_len: 0,
        };
        let table = PolicyTable {
            identities: [(&self.pod, POD), (&self.other, OTHER)]
                .iter()
                .flat_map(|(pod, id)| [(pod.v4.into(), *id), (IpAddr::from(pod.v6), *id)])
                .collect(),
            blocks: vec![(all("0.0.0.0"), WORLD), (all("::"), WORLD)],
            peers: peers.to_vec(),
            port_sets: sets.to_vec(),
            subjects: vec![subject(&self.pod, POD), subject(&self.other, OTHER)],
        };
        self.datapath.reconcile_policy(&table).unwrap();
    }

    fn count(&self, program: &str, reason: &str) -> u64 {
        count(&self.datapath, program, reason)
    }

    /// A UDP socket of a pod at port 7000 that waits a little.
    fn receiver(&self, pod: &Pod, ip: IpAddr) -> UdpSocket {
        let socket = pod.run(|| UdpSocket::bind((ip, 7000)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SHORT)).unwrap();
    let silent = socket.recv(&mut [0; 8]).is_err();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    silent
}

/// Sends a UDP packet whose IP header is written here.
fn send_raw(source: Ipv4Addr, to: Ipv4Addr) {
    let mut packet = vec![0x45, 0, 0, 29, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(7001_u16.to_be_bytes());
    packet.extend(7000_u16.to_be_bytes());
    packet.extend([0, 9, 0, 0, b'x']);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    socket
        .send_to(&packet, &SocketAddr::new(to.into(), 0).into())
        .unwrap();
}

fn connect(to: SocketAddr) -> Result<TcpStream, ErrorKind> {
    TcpStream::connect_timeout(&to, SHORT).map_err(|err| err.kind())
}

#[test]
fn a_pod_cannot_send_as_another() {
    for on_host in [true, false] {
        let stage = Stage::new("spoof", on_host);
        stage.set(&[(peer(POD, EGRESS, 0), PORT_SET_ALLOW)], &[]);
        let server = stage.receiver(&stage.outside, stage.outside.v4.into());
        let to = stage.outside.v4;
        stage.pod.run(|| send_raw(stage.pod.v4, to));
        assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1, "its own address");
        for source in [stage.other.v4, Ipv4Addr::new(192, 0, 2, 1)] {
            stage.pod.run(|| send_raw(source, to));
        }
        assert!(is_silent(&server));
        assert_eq!(stage.count("from_pod", "spoofed"), 2);
        // A pod without any rules cannot either.
        let mut free = stage.rig.pod();
        free.uid = "free".to_owned();
        let _listeners = stage.rig.capture(&stage.datapath, &free);
        free.run(|| send_raw(stage.pod.v4, to));
        assert!(is_silent(&server));
        assert_eq!(stage.count("from_pod", "spoofed"), 3);
    }
}

#[test]
fn a_raw_socket_is_judged_like_a_call() {
    let stage = Stage::new("raw", true);
    let mut events = stage.datapath.take_verdict_events().unwrap();
    let server = stage.receiver(&stage.outside, stage.outside.v4.into());
    let sets = [(3, vec![port(17, 7000, PolicyVerdict::Deny, 9)])];
    stage.set(&[(peer(POD, EGRESS, WORLD), 3)], &sets);
    stage.pod.run(|| send_raw(stage.pod.v4, stage.outside.v4));
    assert!(is_silent(&server));
    assert_eq!(stage.count("from_pod", "egress_denied"), 1);
    let told = events.take_next().unwrap();
    assert_eq!((told.rule, told.seen), (9, Seen::OnWire));
    assert_eq!(told.source, at(stage.pod.v4, 7001));
    assert_eq!(told.destination, at(stage.outside.v4, 7000));
    // A rule under audit lets it pass, and is told once for all packets of the flow.
    let mut audited = port(17, 7000, PolicyVerdict::Allow, 9);
    audited.audit = 77;
    stage.set(&[(peer(POD, EGRESS, WORLD), 3)], &[(3, vec![audited])]);
    for _ in 0..2 {
        stage.pod.run(|| send_raw(stage.pod.v4, stage.outside.v4));
        server.recv(&mut [0; 8]).unwrap();
    }
    let told = events.take_next().unwrap();
    assert_eq!((told.verdict, told.rule), (PolicyVerdict::Allow, 77));
    assert_eq!(told.seen, Seen::OnWire);
    assert_eq!(events.take_next(), None);
}

/// Else an answer that is under way when the first rule comes is taken for the first word, and what the pod sends on for answers.
#[test]
fn who_began_a_flow_is_known_from_before_there_were_rules() {
    let stage = Stage::new("begun", true);
    stage.set_with(SubjectFlags::default(), &[], &[]);
    let server = stage.receiver(&stage.outside, stage.outside.v4.into());
    let client = stage
        .pod
        .run(|| UdpSocket::bind((stage.pod.v4, 7001)).unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    stage.pod.run(|| send_raw(stage.pod.v4, stage.outside.v4));
    server.recv(&mut [0; 8]).unwrap();
    server.send_to(b"y", at(stage.pod.v4, 7001)).unwrap();
    client.recv(&mut [0; 8]).unwrap();
    // From outside to the client's port all may come; nothing may go out.
    let sets = [(3, vec![port(17, 7001, PolicyVerdict::Allow, 1)])];
    stage.set(&[(peer(POD, INGRESS, WORLD), 3)], &sets);
    server.send_to(b"z", at(stage.pod.v4, 7001)).unwrap();
    assert!(is_silent(&client), "an answer to what is denied now");
    stage.pod.run(|| send_raw(stage.pod.v4, stage.outside.v4));
    assert!(is_silent(&server), "the pod goes on");
    assert!(stage.count("from_pod", "egress_denied") >= 1);
}

#[test]
fn who_leaves_the_cgroup_is_judged_on_the_wire() {
    for on_host in [true, false] {
        let stage = Stage::new("escape", on_host);
        let listeners = stage
            .outside
            .run(|| [listen("0.0.0.0", 80), listen("::", 80)]);
        let targets = [at(stage.outside.v4, 80), at(stage.outside.v6, 80)];
        let rules = |verdict| [(3, vec![port(6, 80, verdict, 1)])];
        let peers = [(peer(POD, EGRESS, WORLD), 3)];
        for (verdict, reason) in [
            (PolicyVerdict::Deny, "egress_denied"),
            (PolicyVerdict::Proxy, "proxy_only"),
        ] {
            stage.set(&peers, &rules(verdict));
            for to in targets {
                let err = stage.pod.escaped(|| connect(to)).unwrap_err();
                assert_eq!(err, ErrorKind::TimedOut);
            }
            assert!(stage.count("from_pod", reason) >= 2, "{reason}");
        }
        stage.set(&peers, &rules(PolicyVerdict::Allow));
        for (to, listener) in targets.into_iter().zip(&listeners) {
            let mut stream = stage.pod.escaped(|| TcpStream::connect(to)).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            stream.write_all(b"x").unwrap();
            accepted.read_exact(&mut [0]).unwrap();
        }
        // Nobody but the proxy begins a tunnel.
        let _tunnel = stage
            .other
            .as_proxy(|| listen("0.0.0.0", crate::support::TUNNEL));
        let tunnel = at(stage.other.v4, crate::support::TUNNEL);
        assert!(stage.pod.escaped(|| connect(tunnel)).is_err());
        stage.pod.as_proxy(|| TcpStream::connect(tunnel)).unwrap();
        assert!(stage.count("from_pod", "vouched") > 0);
    }
}

#[test]
fn what_comes_from_outside_is_judged_and_answers_pass() {
    for on_host in [true, false] {
        let stage = Stage::new("inbound_gate", on_host);
        let ips = [
            (IpAddr::from(stage.pod.v4), "0.0.0.0:0"),
            (stage.pod.v6.into(), "[::]:0"),
        ];
        for (ip, any) in ips {
            let server = stage.receiver(&stage.pod, ip);
            let client = stage.outside.run(|| UdpSocket::bind(any).unwrap());
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            // The pod may be asked, and may ask nobody.
            let peers = [(peer(POD, INGRESS, WORLD), PORT_SET_ALLOW)];
            stage.set(&peers, &[]);
            client.send_to(b"x", at(ip, 7000)).unwrap();
            let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
            stage.pod.run(|| server.send_to(b"y", from)).unwrap();
            client.recv(&mut [0; 8]).unwrap();
            let stranger = stage.outside.run(|| UdpSocket::bind(any).unwrap());
            let strangers = at(from.ip(), stranger.local_addr().unwrap().port());
            stage.pod.escaped(|| {
                let socket = UdpSocket::bind(any).unwrap();
                socket.send_to(b"y", strangers).unwrap();
            });
            assert!(is_silent(&stranger));
            // A flow that was judged is judged anew when the tables change.
            stage.set(&[(peer(POD, INGRESS, WORLD), PORT_SET_DENY)], &[]);
            client.send_to(b"x", at(ip, 7000)).unwrap();
            assert!(is_silent(&server));
            assert_eq!(
                stage.outside.run(|| connect(at(ip, 80))).unwrap_err(),
                ErrorKind::TimedOut
            );
        }
        assert!(stage.count("to_pod", "ingress_denied") >= 4);
        // By TCP the proxy has the last word, and answers.
        let proxied = [(3, vec![port(0, 0, PolicyVerdict::Proxy, 1)])];
        stage.set(&[(peer(POD, INGRESS, WORLD), 3)], &proxied);
        let mut stream = stage
            .outside
            .run(|| TcpStream::connect((stage.pod.v4, 80)))
            .unwrap();
        let (mut accepted, _) = stage.listeners.inbound_v4.accept().unwrap();
        accepted.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn the_node_itself_and_the_proxy_always_pass() {
    for on_host in [true, false] {
        let stage = Stage::new("trusted", on_host);
        let node = Ipv4Addr::new(10, 77, 0, 254);
        stage.rig.give_node(node);
        if !on_host {
            stage
                .datapath
                .set_node_addresses(&HashSet::from([node.into()]))
                .unwrap();
        }
        stage.set(&[], &[]);
        let _probe = stage
            .rig
            .on_host(|| TcpStream::connect((stage.pod.v4, 80)))
            .unwrap();
        stage.listeners.inbound_v4.accept().unwrap();
        // The proxy's own questions to name servers, and the answers.
        let server = stage.receiver(&stage.outside, stage.outside.v4.into());
        let client = stage.pod.as_proxy(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..2 {
            client.send_to(b"x", at(stage.outside.v4, 7000)).unwrap();
            let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"y", from).unwrap();
            client.recv(&mut [0; 8]).unwrap();
        }
    }
}

#[test]
fn a_direct_connection_that_policy_no_longer_allows_ends() {
    let stage = Stage::new("recheck", true);
    let peers = [
        (peer(POD, EGRESS, 0), PORT_SET_ALLOW),
        (peer(OTHER, INGRESS, POD), PORT_SET_ALLOW),
    ];
    stage.set(&peers, &[]);
    let direct = stage
        .other
        .run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let plain = stage
        .outside
        .run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let pair = |listener: &TcpListener, to: SocketAddr| {
        let stream = stage.pod.run(|| TcpStream::connect(to).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (stream, listener.accept().unwrap().0)
    };
    let (mut doomed, _end) = pair(&direct, at(stage.other.v4, 8080));
    let (mut stays, mut far) = pair(&plain, at(stage.outside.v4, 80));
    let asked = std::sync::Mutex::new(Vec::new());
    let first = stage.datapath.recheck(100, |connection| {
        let seen = (connection.direction, connection.far);
        asked.lock().unwrap().push(seen);
        true
    });
    assert_eq!(first.unwrap(), DestroyReport::default());
    let mut asked = asked.into_inner().unwrap();
    asked.sort_unstable();
    let expected = [
        (INGRESS, doomed.local_addr().unwrap()),
        (EGRESS, at(stage.other.v4, 8080)),
        (EGRESS, at(stage.outside.v4, 80)),
    ];
    assert_eq!(
        asked, expected,
        "the acceptor's end, and both of the connector"
    );
    let second = stage
        .datapath
        .recheck(100, |connection| connection.far.port() != 8080);
    let expected = DestroyReport {
        destroyed: 1,
        failed: 0,
        is_limited: false,
    };
    assert_eq!(second.unwrap(), expected);
    let end = doomed.read_exact(&mut [0]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionAborted);
    stays.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    // The gate stops what goes on after the tables have changed, also before anybody has looked.
    stage.set(&[(peer(POD, EGRESS, 0), PORT_SET_DENY)], &[]);
    stays.write_all(b"y").unwrap();
    far.set_read_timeout(Some(SHORT)).unwrap();
    assert!(far.read(&mut [0]).is_err());
    wait_for("the gate to count", || {
        stage.count("from_pod", "egress_denied") > 0
    });
}

#[test]
fn an_answer_reaches_a_pod_that_lets_nobody_in() {
    for on_host in [true, false] {
        let stage = Stage::new("answer", on_host);
        let peers = [
            (peer(POD, EGRESS, OTHER), PORT_SET_ALLOW),
            (peer(OTHER, INGRESS, POD), PORT_SET_ALLOW),
        ];
        stage.set(&peers, &[]);
        let server = stage.receiver(&stage.other, stage.other.v4.into());
        let client = stage.pod.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..2 {
            client.send_to(b"x", at(stage.other.v4, 7000)).unwrap();
            let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"y", from).unwrap();
            client.recv(&mut [0; 8]).unwrap();
            // Also when the tables have changed since the question.
            stage.set(
                &[&peers[..], &[(peer(POD, INGRESS, WORLD), PORT_SET_DENY)]].concat(),
                &[],
            );
        }
        // From another socket nobody asked for anything.
        let port = client.local_addr().unwrap().port();
        stage.other.run(|| {
            let other = UdpSocket::bind("0.0.0.0:0").unwrap();
            other.send_to(b"z", at(stage.pod.v4, port)).unwrap();
        });
        assert!(is_silent(&client));
    }
}

#[test]
fn a_pod_is_to_others_what_its_address_is() {
    const SEEN: u32 = 31;
    let stage = Stage::new("seen_as", true);
    stage.set(&[(peer(POD, EGRESS, OTHER), PORT_SET_ALLOW)], &[]);
    let changes = tulle_datapath::PolicyChanges {
        identities: vec![(stage.pod.v4.into(), SEEN)],
        peers: vec![(peer(OTHER, INGRESS, SEEN), PORT_SET_ALLOW)],
        ..tulle_datapath::PolicyChanges::default()
    };
    stage.datapath.apply_policy(&changes).unwrap();
    let listener = stage
        .other
        .run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let to = at(stage.other.v4, 8080);
    let _stream = stage.pod.run(|| TcpStream::connect(to).unwrap());
    listener.accept().unwrap();
    // And on the wire, where no call was judged.
    let server = stage.receiver(&stage.other, stage.other.v4.into());
    stage.pod.escaped(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", at(stage.other.v4, 7000)).unwrap();
    });
    server.recv(&mut [0; 8]).unwrap();
}

#[test]
fn a_connected_udp_socket_is_judged_by_who_began() {
    let stage = Stage::new("recheck_udp", true);
    let peers = [
        (peer(POD, EGRESS, WORLD), PORT_SET_ALLOW),
        (peer(POD, INGRESS, WORLD), PORT_SET_ALLOW),
    ];
    stage.set(&peers, &[]);
    let server = stage.receiver(&stage.pod, stage.pod.v4.into());
    let client = stage.receiver(&stage.outside, stage.outside.v4.into());
    client.send_to(b"x", at(stage.pod.v4, 7000)).unwrap();
    let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
    server.connect(from).unwrap();
    let asking = stage.pod.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(at(stage.outside.v4, 7000)).unwrap();
        socket
    });
    asking.send(b"x").unwrap();
    client.recv(&mut [0; 8]).unwrap();
    let asker = asking.local_addr().unwrap().port();
    let asked = std::sync::Mutex::new(Vec::new());
    let report = stage.datapath.recheck(100, |connection| {
        let seen = (connection.direction, connection.local.port());
        asked.lock().unwrap().push(seen);
        connection.direction == INGRESS
    });
    assert_eq!(report.unwrap().destroyed, 1);
    let mut asked = asked.into_inner().unwrap();
    asked.sort_unstable();
    assert_eq!(asked, [(INGRESS, 7000), (EGRESS, asker)]);
    let end = asking.recv(&mut [0]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionAborted);
    server.send(b"y").unwrap();
    client.recv(&mut [0; 8]).unwrap();
}
