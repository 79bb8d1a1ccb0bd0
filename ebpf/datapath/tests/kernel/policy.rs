//! Who may talk to whom, judged when an application calls: real connects and datagrams against tables.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tulle_datapath::{
    Datapath, Enforcement, KernelTable, PORT_SET_ALLOW, PORT_SET_DENY, Path, PolicyChanges,
    PolicyDirection, PolicyPeer, PolicySubject, PolicyTable, PolicyVerdict, PortRule, Seen,
    SubjectFlags, VerdictEvents, WorkloadRoute,
};
use tulle_model::AddressRange;

use crate::{
    outbound::{at, frontend},
    policy_table::{peer, port},
    support::{
        BLACK_HOLE, DNS, INBOUND, OUTBOUND, Pod, ProxyListeners, Rig, TUNNEL, count, listen,
        wait_for,
    },
    traffic::Random,
};

/// The identities of the pods of a stage.
const CLIENT: u32 = 11;
const SERVER: u32 = 12;
/// Everybody else.
const WORLD: u32 = 20;

const EGRESS: PolicyDirection = PolicyDirection::Egress;
const INGRESS: PolicyDirection = PolicyDirection::Ingress;

/// Two captured pods of a node that enforces.
struct Stage {
    datapath: Datapath,
    client: Pod,
    server: Pod,
    client_listeners: ProxyListeners,
    _server_listeners: ProxyListeners,
    rig: Rig,
}

impl Stage {
    fn new(name: &str, enforcement: Enforcement) -> Self {
        let mut rig = Rig::new(name);
        rig.enforcement = enforcement;
        rig.settings.dns_capture = true;
        let datapath = rig.open();
        let (client, server) = (rig.pod(), rig.pod());
        let client_listeners = rig.capture(&datapath, &client);
        let server_listeners = rig.capture(&datapath, &server);
        let routes = [IpAddr::from(server.v4), IpAddr::from(server.v6)];
        let table = KernelTable {
            frontends: vec![frontend(
                SERVICE,
                tulle_model::Protocol::Udp,
                &[(at(server.v4, 7000), Path::Direct)],
            )],
            workloads: routes
                .map(|address| WorkloadRoute {
                    address,
                    path: Path::Direct,
                })
                .to_vec(),
        };
        datapath.reconcile(&table).unwrap();
        Stage {
            datapath,
            client,
            server,
            client_listeners,
            _server_listeners: server_listeners,
            rig,
        }
    }

    /// A table that knows both pods, and the rest of the world.
    fn table(&self, peers: &[(PolicyPeer, u32)], sets: &[(u32, Vec<PortRule>)]) -> PolicyTable {
        let subject = |pod: &Pod, identity| PolicySubject {
            uid: pod.uid.clone(),
            identity,
            flags: SubjectFlags {
                egress_enforced: true,
                ingress_enforced: true,
                ..SubjectFlags::default()
            },
        };
        PolicyTable {
            identities: vec![
                (self.client.v4.into(), CLIENT),
                (self.client.v6.into(), CLIENT),
                (self.server.v4.into(), SERVER),
                (self.server.v6.into(), SERVER),
            ],
            blocks: vec![(range("0.0.0.0/0"), WORLD), (range("::/0"), WORLD)],
            peers: peers.to_vec(),
            port_sets: sets.to_vec(),
            subjects: vec![subject(&self.client, CLIENT), subject(&self.server, SERVER)],
        }
    }

    fn set(&self, peers: &[(PolicyPeer, u32)], sets: &[(u32, Vec<PortRule>)]) {
        self.datapath
            .reconcile_policy(&self.table(peers, sets))
            .unwrap();
    }

    /// What becomes of a TCP connect of the client.
    fn tcp(&self, to: SocketAddr) -> Fate {
        self.client.run(|| tcp_fate(to))
    }

    /// What becomes of a connected UDP socket of the client.
    fn udp(&self, to: SocketAddr) -> Fate {
        self.client.run(|| udp_fate(to))
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It leads to where it was to lead.
    Straight,
    /// It leads to the proxy.
    Proxy,
    /// It leads into the black hole.
    Hole,
    /// It failed with `EPERM`.
    Refused,
}

/// Begins to connect, and looks where to.
fn tcp_fate(to: SocketAddr) -> Fate {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    match socket.connect(&to.into()) {
        Err(err) if err.kind() == ErrorKind::PermissionDenied => return Fate::Refused,
        Err(err) if err.raw_os_error() == Some(libc::EINPROGRESS) => {}
        done => done.unwrap(),
    }
    let local = socket.local_addr().unwrap().as_socket().unwrap();
    if !local.ip().is_loopback() {
        return Fate::Straight;
    }
    match far_port(local.port()) {
        BLACK_HOLE => Fate::Hole,
        OUTBOUND => Fate::Proxy,
        other => panic!("led to port {other}"),
    }
}

/// The far port of the connection that has this local port, from the kernel's own list.
fn far_port(local: u16) -> u16 {
    let lists = ["tcp", "tcp6"].map(|family| format!("/proc/thread-self/net/{family}"));
    let lines = lists
        .iter()
        .map(|list| std::fs::read_to_string(list).unwrap())
        .collect::<String>();
    let port = |text: &str| u16::from_str_radix(text.rsplit(':').next().unwrap(), 16).unwrap();
    lines
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (near, far) = (fields.next()?, fields.next()?);
            (near.contains(':') && port(near) == local && port(far) != 0).then(|| port(far))
        })
        .next()
        .unwrap()
}

fn udp_fate(to: SocketAddr) -> Fate {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    match socket.connect(to) {
        Err(err) if err.kind() == ErrorKind::PermissionDenied => return Fate::Refused,
        done => done.unwrap(),
    }
    assert_eq!(
        socket.peer_addr().unwrap(),
        to,
        "what was asked for is shown"
    );
    if socket.local_addr().unwrap().ip().is_loopback() {
        Fate::Hole
    } else {
        Fate::Straight
    }
}

fn range(text: &str) -> AddressRange {
    let (address, prefix_len) = text.split_once('/').unwrap();
    AddressRange {
        address: address.parse().unwrap(),
        prefix_len: prefix_len.parse().unwrap(),
    }
}

/// A service by UDP that leads to the server.
const SERVICE: &str = "172.20.1.1:53000";

#[test]
fn a_denied_connection_is_not_answered_and_leaves_no_trace_at_the_other_end() {
    let stage = Stage::new("denied_drop", Enforcement::Drop);
    stage.set(&[(peer(CLIENT, EGRESS, 0), PORT_SET_DENY)], &[]);
    let (v4, v6) = (at(stage.server.v4, 8080), at(stage.server.v6, 8080));
    let listeners = stage
        .server
        .run(|| [listen("0.0.0.0", 8080), listen("::", 8080)]);
    for to in [v4, v6, "192.0.2.1:80".parse().unwrap()] {
        let patience = Duration::from_millis(200);
        let err = stage
            .client
            .run(|| TcpStream::connect_timeout(&to, patience))
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut, "{to}: {err}");
        assert_eq!(stage.tcp(to), Fate::Hole, "{to}");
        assert_eq!(stage.udp(to), Fate::Hole, "{to}");
    }
    for listener in listeners {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    assert_eq!(count(&stage.datapath, "connect4", "egress_denied"), 6);
    assert_eq!(count(&stage.datapath, "connect6", "egress_denied"), 3);
}

#[test]
fn a_denied_datagram_gets_no_answer_and_no_error() {
    let stage = Stage::new("denied_datagram", Enforcement::Drop);
    stage.set(&[(peer(CLIENT, EGRESS, 0), PORT_SET_DENY)], &[]);
    for (any, to, program) in [
        ("0.0.0.0:0", at(stage.server.v4, 7000), "sendmsg4"),
        ("[::]:0", at(stage.server.v6, 7000), "sendmsg6"),
        ("0.0.0.0:0", SERVICE.parse().unwrap(), "sendmsg4"),
    ] {
        let server = stage
            .server
            .run(|| UdpSocket::bind((to.ip().to_canonical(), to.port())));
        let before = count(&stage.datapath, program, "egress_denied");
        stage.client.run(|| {
            let socket = UdpSocket::bind(any).unwrap();
            // An ICMP error for the first would fail the second.
            for _ in 0..3 {
                socket.send_to(b"x", to).unwrap();
            }
        });
        assert_eq!(count(&stage.datapath, program, "egress_denied"), before + 3);
        if let Ok(server) = server {
            server.set_nonblocking(true).unwrap();
            assert!(server.recv(&mut [0]).is_err());
        }
    }
}

#[test]
fn a_denial_can_be_seen_at_once() {
    let stage = Stage::new("denied_reject", Enforcement::Reject);
    stage.set(&[(peer(CLIENT, EGRESS, 0), PORT_SET_DENY)], &[]);
    for to in [at(stage.server.v4, 8080), at(stage.server.v6, 8080)] {
        assert_eq!(stage.tcp(to), Fate::Refused);
        assert_eq!(stage.udp(to), Fate::Refused);
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sent: io::Result<usize> = stage
            .client
            .run(|| UdpSocket::bind(any).unwrap().send_to(b"x", to));
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    // Its own addresses are always the pod's.
    let _own = stage
        .client
        .run(|| TcpListener::bind("0.0.0.0:7100").unwrap());
    for ip in [stage.client.v4, Ipv4Addr::LOCALHOST] {
        stage.client.run(|| TcpStream::connect((ip, 7100)).unwrap());
    }
}

#[test]
fn a_pod_without_rules_yet_talks_through_the_proxy_or_not_at_all() {
    let stage = Stage::new("pending", Enforcement::Drop);
    for to in [
        at(stage.server.v4, 8080),
        at(stage.server.v6, 8080),
        "192.0.2.1:80".parse().unwrap(),
    ] {
        assert_eq!(stage.tcp(to), Fate::Proxy, "{to}");
        assert_eq!(stage.udp(to), Fate::Hole, "{to}");
    }
    // The proxy learns where to.
    let stream = stage
        .client
        .run(|| TcpStream::connect("192.0.2.1:81").unwrap());
    let original = loop {
        let (_accepted, from) = stage.client_listeners.outbound_v4.accept().unwrap();
        if from == stream.local_addr().unwrap() {
            break stage
                .datapath
                .original_destination(stage.client.cookie, from);
        }
    };
    assert_eq!(original.unwrap().backend, "192.0.2.1:81".parse().unwrap());
    // With rules for the client alone, the server is what is waited for.
    let mut table = stage.table(&[(peer(CLIENT, EGRESS, 0), PORT_SET_ALLOW)], &[]);
    table.subjects.truncate(1);
    stage.datapath.reconcile_policy(&table).unwrap();
    assert_eq!(stage.tcp(at(stage.server.v4, 8080)), Fate::Proxy);
    assert_eq!(stage.udp(at(stage.server.v4, 8080)), Fate::Hole);
    assert_eq!(stage.udp("192.0.2.1:80".parse().unwrap()), Fate::Straight);
    assert!(count(&stage.datapath, "connect4", "pending") > 0);
}

#[test]
fn both_ends_of_a_direct_connection_are_asked() {
    let stage = Stage::new("both_ends", Enforcement::Reject);
    let to = [at(stage.server.v4, 8080), at(stage.server.v6, 8080)];
    let udp_service: SocketAddr = SERVICE.parse().unwrap();
    let l7 = |verdict| vec![port(0, 0, verdict, 1)];
    let sets = [(3, l7(PolicyVerdict::Proxy))];
    let cases = [
        (
            PORT_SET_ALLOW,
            PORT_SET_ALLOW,
            Fate::Straight,
            Fate::Straight,
        ),
        (PORT_SET_ALLOW, PORT_SET_DENY, Fate::Refused, Fate::Refused),
        (PORT_SET_DENY, PORT_SET_ALLOW, Fate::Refused, Fate::Refused),
        (3, PORT_SET_ALLOW, Fate::Proxy, Fate::Refused),
        (PORT_SET_ALLOW, 3, Fate::Proxy, Fate::Refused),
        (3, PORT_SET_DENY, Fate::Refused, Fate::Refused),
    ];
    for (egress, ingress, tcp, udp) in cases {
        stage.set(
            &[
                (peer(CLIENT, EGRESS, SERVER), egress),
                (peer(SERVER, INGRESS, CLIENT), ingress),
            ],
            &sets,
        );
        for to in to {
            assert_eq!(stage.tcp(to), tcp, "{egress} {ingress} {to}");
            assert_eq!(stage.udp(to), udp, "{egress} {ingress} {to}");
        }
        assert_eq!(stage.udp(udp_service), udp, "{egress} {ingress}");
    }
    assert!(count(&stage.datapath, "connect4", "proxy_only") > 0);
    // A pod that wants the proxy gets it, whatever the tables say.
    let peers = [(peer(CLIENT, EGRESS, 0), PORT_SET_ALLOW)];
    for (begins, ends) in [(true, false), (false, true)] {
        let mut table = stage.table(&peers, &[]);
        table.subjects[0].flags.egress_proxied = begins;
        table.subjects[1].flags.ingress_enforced = false;
        table.subjects[1].flags.ingress_proxied = ends;
        stage.datapath.reconcile_policy(&table).unwrap();
        assert_eq!(stage.tcp(to[0]), Fate::Proxy);
        let outside = stage.tcp("192.0.2.1:80".parse().unwrap());
        assert_eq!(outside, if begins { Fate::Proxy } else { Fate::Straight });
    }
}

#[test]
fn nobody_but_the_proxy_reaches_the_proxys_ports() {
    let stage = Stage::new("own_ports", Enforcement::Reject);
    let peers = [
        (peer(CLIENT, EGRESS, 0), PORT_SET_ALLOW),
        (peer(SERVER, INGRESS, 0), PORT_SET_ALLOW),
    ];
    stage.set(&peers, &[]);
    let ips: [IpAddr; 6] = [
        Ipv4Addr::LOCALHOST.into(),
        std::net::Ipv6Addr::LOCALHOST.into(),
        stage.client.v4.into(),
        stage.server.v4.into(),
        stage.server.v6.into(),
        "192.0.2.1".parse().unwrap(),
    ];
    for ip in ips {
        for port in [OUTBOUND, INBOUND, TUNNEL, DNS, BLACK_HOLE] {
            assert_eq!(stage.tcp(at(ip, port)), Fate::Refused, "{ip} {port}");
            assert_eq!(stage.udp(at(ip, port)), Fate::Refused, "{ip} {port}");
        }
    }
    let sent = stage.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", ("127.0.0.1", DNS))
    });
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(count(&stage.datapath, "sendmsg4", "proxy_port"), 1);
    // The proxy itself goes on as before.
    let _tunnel = stage.server.as_proxy(|| listen("0.0.0.0", TUNNEL));
    let to = at(stage.server.v4, TUNNEL);
    stage.client.as_proxy(|| TcpStream::connect(to).unwrap());
}

#[test]
fn a_name_server_that_policy_denies_is_not_asked() {
    let stage = Stage::new("name_server", Enforcement::Reject);
    let server: SocketAddr = "192.0.2.53:53".parse().unwrap();
    let _dns = stage
        .client
        .as_proxy(|| UdpSocket::bind(("127.0.0.1", DNS)).unwrap());
    let rules = |verdict| [(3, vec![port(17, 53, verdict, 1)])];
    let peers = [(peer(CLIENT, EGRESS, WORLD), 3)];
    stage.set(&peers, &rules(PolicyVerdict::Deny));
    assert_eq!(stage.udp(server), Fate::Refused);
    for verdict in [PolicyVerdict::Allow, PolicyVerdict::Proxy] {
        stage.set(&peers, &rules(verdict));
        // It leads to the loopback: to the proxy's name server, which decides about names.
        let before = count(&stage.datapath, "connect4", "dns");
        assert_eq!(stage.udp(server), Fate::Hole);
        assert_eq!(count(&stage.datapath, "connect4", "dns"), before + 1);
    }
    stage.set(&peers, &[(3, vec![port(6, 53, PolicyVerdict::Allow, 1)])]);
    assert_eq!(stage.udp(server), Fate::Refused);
}

#[test]
fn what_is_denied_is_told_with_its_rule() {
    let stage = Stage::new("told", Enforcement::Drop);
    let mut events = stage.datapath.take_verdict_events().unwrap();
    assert!(stage.datapath.take_verdict_events().is_none());
    let to = at(stage.server.v4, 8080);
    let mut audited = port(6, 8080, PolicyVerdict::Allow, 5);
    audited.audit = 77;
    let sets = [
        (3, vec![audited]),
        (4, vec![port(6, 0, PolicyVerdict::Deny, 42)]),
    ];
    let peers = [
        (peer(CLIENT, EGRESS, SERVER), 3),
        (peer(SERVER, INGRESS, CLIENT), 4),
    ];
    stage.set(&peers, &sets);
    assert_eq!(stage.tcp(to), Fate::Hole);
    let told = next_event(&mut events);
    assert_eq!((told.verdict, told.rule), (PolicyVerdict::Allow, 77));
    assert_eq!(
        (told.subject, told.peer, told.direction),
        (CLIENT, SERVER, EGRESS)
    );
    let told = next_event(&mut events);
    assert_eq!((told.verdict, told.rule), (PolicyVerdict::Deny, 42));
    assert_eq!(
        (told.subject, told.peer, told.direction),
        (SERVER, CLIENT, INGRESS)
    );
    assert_eq!(
        (told.source, told.destination),
        (at(stage.client.v4, 0), to)
    );
    assert_eq!((told.protocol, told.seen), (6, Seen::AtCall));
    // A flood is told in part, and counted whole.
    stage.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..5_000 {
            socket.send_to(b"x", "192.0.2.1:9").unwrap();
        }
    });
    assert_eq!(count(&stage.datapath, "sendmsg4", "egress_denied"), 5_000);
    let told = count(&stage.datapath, "sendmsg4", "event_told");
    let limited = count(&stage.datapath, "sendmsg4", "event_limited");
    assert_eq!(told + limited, 5_000);
    assert!(limited > 0, "{told} told");
}

fn next_event(events: &mut VerdictEvents) -> tulle_datapath::VerdictEvent {
    let mut event = None;
    wait_for("an event", || {
        event = event.or_else(|| events.take_next());
        event.is_some()
    });
    event.unwrap()
}

/// The tables, looked up in the slow and obvious way.
fn expected(
    table: &PolicyTable,
    direction: PolicyDirection,
    (subject, other): (u32, u32),
    protocol: u8,
    to: u16,
) -> PolicyVerdict {
    let set_of = |other| {
        let wanted = peer(subject, direction, other);
        let found = table.peers.iter().rev().find(|(key, _)| *key == wanted);
        found.map(|(_, set)| *set)
    };
    let set = match set_of(other).or_else(|| set_of(0)) {
        None | Some(PORT_SET_DENY) => return PolicyVerdict::Deny,
        Some(PORT_SET_ALLOW) => return PolicyVerdict::Allow,
        Some(set) => set,
    };
    let rules = table
        .port_sets
        .iter()
        .rev()
        .find(|(known, _)| *known == set);
    let rules = rules.map(|(_, rules)| rules.as_slice()).unwrap_or_default();
    let matches = rules.iter().filter(|rule| {
        let shift = 16 - u32::from(rule.prefix_len);
        let same_port = u32::from(rule.port) >> shift == u32::from(to) >> shift;
        same_port && (rule.protocol == protocol || rule.protocol == 0)
    });
    let best = matches.max_by_key(|rule| (rule.prefix_len, rule.protocol != 0));
    best.map_or(PolicyVerdict::Deny, |rule| rule.verdict)
}

fn identity_in(table: &PolicyTable, ip: IpAddr) -> u32 {
    let exact = table.identities.iter().find(|(known, _)| *known == ip);
    if let Some((_, identity)) = exact {
        return *identity;
    }
    let blocks = table.blocks.iter().filter(|(block, _)| block.contains(ip));
    blocks
        .max_by_key(|(block, _)| block.prefix_len)
        .map_or(0, |(_, identity)| *identity)
}

/// A table of the stage with blocks, port sets and peers by chance.
fn random_table(stage: &Stage, random: &mut Random) -> PolicyTable {
    let mut number = |below| u32::try_from(random.below(below)).unwrap();
    let mut table = stage.table(&[], &[]);
    table.blocks.clear();
    for block in BLOCKS {
        if number(4) != 0 {
            table.blocks.push((range(block), 20 + number(5)));
        }
    }
    for set in 3..6 {
        let mut rules: Vec<PortRule> = Vec::new();
        for _ in 0..number(8) {
            let prefix_len = [0, 0, 9, 12, 14, 16, 16][usize::try_from(number(7)).unwrap()];
            let shift = 16 - u32::from(prefix_len);
            let rule = PortRule {
                protocol: [0, 6, 17][usize::try_from(number(3)).unwrap()],
                // The first port of the block: two rules for one block would be a matter of order.
                port: u16::try_from(number(200) >> shift << shift).unwrap(),
                prefix_len,
                verdict: VERDICTS[usize::try_from(number(3)).unwrap()],
                rule: 1,
                audit: 0,
            };
            let key = |rule: &PortRule| (rule.protocol, rule.prefix_len, rule.port);
            if rules.iter().all(|known| key(known) != key(&rule)) {
                rules.push(rule);
            }
        }
        table.port_sets.push((set, rules));
    }
    let ends = [0, 20, 21, 22, 23, 24, SERVER].map(|other| peer(CLIENT, EGRESS, other));
    let begins = [0, CLIENT].map(|other| peer(SERVER, INGRESS, other));
    for key in ends.into_iter().chain(begins) {
        if number(3) != 0 {
            table.peers.push((key, 1 + number(5)));
        }
    }
    table
}

/// What the model says of a call of the client.
fn expected_fate(stage: &Stage, table: &PolicyTable, protocol: u8, to: SocketAddr) -> Fate {
    let other = identity_in(table, to.ip());
    let mut verdict = expected(table, EGRESS, (CLIENT, other), protocol, to.port());
    let is_servers = to.ip() == stage.server.v4 || to.ip() == stage.server.v6;
    if is_servers && verdict != PolicyVerdict::Deny {
        let ends = expected(table, INGRESS, (SERVER, CLIENT), protocol, to.port());
        if ends != PolicyVerdict::Allow {
            verdict = ends;
        }
    }
    match (verdict, protocol) {
        (PolicyVerdict::Allow, _) => Fate::Straight,
        (PolicyVerdict::Proxy, 6) => Fate::Proxy,
        _ => Fate::Refused,
    }
}

#[test]
fn verdicts_agree_with_an_obvious_look_up() {
    let stage = Stage::new("model", Enforcement::Reject);
    let seed = std::env::var("TULLE_SEED").map_or(2_024, |seed| seed.parse().unwrap());
    println!("TULLE_SEED={seed}");
    let mut random = Random(seed);
    let servers = [IpAddr::from(stage.server.v4), stage.server.v6.into()];
    let targets: Vec<IpAddr> = TARGETS
        .iter()
        .map(|ip| ip.parse().unwrap())
        .chain(servers)
        .collect();
    let mut seen: Vec<Fate> = Vec::new();
    for _ in 0..60 {
        let table = random_table(&stage, &mut random);
        stage.datapath.reconcile_policy(&table).unwrap();
        stage.client.run(|| {
            for _ in 0..40 {
                let port = u16::try_from(54 + random.below(146)).unwrap();
                let to = at(targets[random.below(9)], port);
                let protocol = [6, 17][random.below(2)];
                let fate = match protocol {
                    6 => tcp_fate(to),
                    _ => udp_fate(to),
                };
                let wanted = expected_fate(&stage, &table, protocol, to);
                assert_eq!(fate, wanted, "{to} by {protocol}: {table:#?}");
                seen.push(fate);
            }
        });
    }
    for fate in [Fate::Straight, Fate::Proxy, Fate::Refused] {
        let len = seen.iter().filter(|known| **known == fate).count();
        assert!(len > 100, "{fate:?} {len} times");
    }
}

const VERDICTS: [PolicyVerdict; 3] = [
    PolicyVerdict::Allow,
    PolicyVerdict::Deny,
    PolicyVerdict::Proxy,
];
const BLOCKS: [&str; 7] = [
    "0.0.0.0/0",
    "192.0.2.0/24",
    "192.0.2.64/26",
    "198.51.100.0/24",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
];
const TARGETS: [&str; 7] = [
    "192.0.2.1",
    "192.0.2.70",
    "198.51.100.9",
    "203.0.113.5",
    "2001:db8::7",
    "2001:db8:1::7",
    "fd00::9",
];

#[test]
fn while_tables_change_every_verdict_is_the_old_one_or_the_new_one() {
    let stage = Stage::new("no_gap", Enforcement::Reject);
    let deny = |number, prefix_len| PortRule {
        prefix_len,
        ..port(17, number, PolicyVerdict::Deny, 1)
    };
    let allow = |prefix_len| PortRule {
        prefix_len,
        ..port(17, 0, PolicyVerdict::Allow, 1)
    };
    let (near, far) = (range("192.0.2.0/24"), range("192.0.0.0/16"));
    // In both states port 80 of 192.0.2.1 is denied, by other entries.
    let mut one = stage.table(
        &[
            (peer(CLIENT, EGRESS, 0), PORT_SET_ALLOW),
            (peer(CLIENT, EGRESS, 30), PORT_SET_DENY),
            (peer(CLIENT, EGRESS, 31), 3),
        ],
        &[(3, vec![deny(80, 16), allow(0)])],
    );
    let mut two = stage.table(
        &[
            (peer(CLIENT, EGRESS, 0), PORT_SET_DENY),
            (peer(CLIENT, EGRESS, 31), 3),
        ],
        &[(3, vec![allow(8), deny(80, 12)])],
    );
    one.blocks = vec![(near, 30), (far, 40)];
    two.blocks = vec![(far, 31)];
    two.identities.push(("192.0.3.1".parse().unwrap(), 31));
    stage.datapath.reconcile_policy(&one).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| {
            stage.client.run(|| {
                let mut probes = 0;
                while !done.load(Ordering::Relaxed) {
                    for ip in ["192.0.2.1:80", "192.0.2.9:80"] {
                        assert_eq!(udp_fate(ip.parse().unwrap()), Fate::Refused);
                    }
                    probes += 2;
                }
                probes
            })
        });
        for _ in 0..300 {
            stage.datapath.reconcile_policy(&two).unwrap();
            stage.datapath.reconcile_policy(&one).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(prober.join().unwrap() > 300);
    });
    let changes = PolicyChanges {
        peers: vec![(peer(CLIENT, EGRESS, 30), PORT_SET_ALLOW)],
        ..PolicyChanges::default()
    };
    stage.datapath.apply_policy(&changes).unwrap();
    assert_eq!(stage.udp("192.0.2.1:80".parse().unwrap()), Fate::Straight);
}

#[test]
fn a_restart_keeps_what_was_enforced_and_takes_new_numbers() {
    let mut stage = Stage::new("policy_restart", Enforcement::Reject);
    let to: SocketAddr = "192.0.2.1:80".parse().unwrap();
    stage.set(&[(peer(CLIENT, EGRESS, WORLD), PORT_SET_ALLOW)], &[]);
    assert_eq!(stage.udp(to), Fate::Straight);
    stage.datapath = stage.rig.open();
    assert_eq!(stage.udp(to), Fate::Straight);
    stage
        .client
        .register(&stage.datapath, &stage.client_listeners);
    assert_eq!(
        stage.udp(to),
        Fate::Straight,
        "its identity outlives the process"
    );
    let mut other = stage.table(&[(peer(911, EGRESS, 920), PORT_SET_DENY)], &[]);
    other.subjects[0].identity = 911;
    other.blocks[0].1 = 920;
    stage.datapath.reconcile_policy(&other).unwrap();
    assert_eq!(stage.udp(to), Fate::Refused);
    stage
        .client
        .register(&stage.datapath, &stage.client_listeners);
    assert_eq!(stage.udp(to), Fate::Refused);
}
