//! What policy costs: a verdict at connect, and a packet at the gate. Printed; the assertions are wide, since machines differ.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use aya::sys::{Stats, enable_stats};
use tulle_datapath::{
    Enforcement, PORT_SET_ALLOW, PolicyDirection, PolicySubject, PolicyTable, PolicyVerdict,
    PortRule, SubjectFlags,
};
use tulle_model::AddressRange;

use crate::{
    figures::{cost, runs},
    policy_table::{peer, port},
    support::{Pod, Rig, listen},
};

const POD: u32 = 11;
const WORLD: u32 = 20;

/// A table in which each of so many peers, address blocks and ports has a rule of its own.
fn table(pod: &Pod, rules: u32) -> PolicyTable {
    let number = |index: u32| u16::try_from(index % 60_000).unwrap();
    let block = |address: Ipv4Addr, prefix_len| AddressRange {
        address: address.into(),
        prefix_len,
    };
    let others = (0..rules).map(|index| (Ipv4Addr::from(0x0b00_0000 + index * 8), 1_000 + index));
    let own = peer(POD, PolicyDirection::Egress, WORLD);
    let peers = others.clone().map(|(_, identity)| {
        let key = peer(POD, PolicyDirection::Egress, identity);
        (key, PORT_SET_ALLOW)
    });
    let rest = PortRule {
        prefix_len: 0,
        ..port(6, 0, PolicyVerdict::Allow, 1)
    };
    let ports = (0..rules).map(|index| PortRule {
        prefix_len: 16,
        ..port(6, 100 + number(index), PolicyVerdict::Allow, 1)
    });
    PolicyTable {
        identities: others
            .clone()
            .map(|(address, identity)| (IpAddr::from(address), identity))
            .collect(),
        blocks: others
            .map(|(address, identity)| (block(address, 29), identity))
            .chain([(block(Ipv4Addr::UNSPECIFIED, 0), WORLD)])
            .collect(),
        peers: peers.chain([(own, 3)]).collect(),
        port_sets: vec![(3, ports.chain([rest]).collect())],
        subjects: vec![PolicySubject {
            uid: pod.uid.clone(),
            identity: POD,
            flags: SubjectFlags {
                egress_enforced: true,
                ..SubjectFlags::default()
            },
        }],
    }
}

#[test]
fn a_verdict_at_connect_costs_the_same_for_ten_thousand_rules() {
    let _stats = enable_stats(Stats::RunTime).unwrap();
    let mut figures = Vec::new();
    for enforcement in [Enforcement::Off, Enforcement::Drop] {
        let mut rig = Rig::new("verdict_cost");
        rig.enforcement = enforcement;
        let datapath = rig.open();
        let (client, server) = (rig.pod(), rig.pod());
        let _listeners = rig.capture(&datapath, &client);
        let listener = server.run(|| listen("0.0.0.0", 9000));
        listener.set_nonblocking(true).unwrap();
        for rules in [0, 1, 100, 10_000] {
            datapath.reconcile_policy(&table(&client, rules)).unwrap();
            let mut costs: Vec<u128> = client.run(|| {
                let batches = (0..40).map(|_| {
                    let before = runs("connect4");
                    for _ in 0..50 {
                        let _stream = TcpStream::connect((server.v4, 9000)).unwrap();
                        listener.accept().unwrap();
                    }
                    cost("connect4", &before)
                });
                batches.collect()
            });
            costs.sort_unstable();
            println!(
                "{enforcement:?}, {rules} rules: connect4 takes {} ns at best, {} ns in the middle",
                costs[0], costs[20]
            );
            figures.push(costs[0]);
        }
    }
    assert!(figures.iter().all(|cost| *cost < 20_000), "{figures:?}");
    let (one, many) = (figures[5], figures[7]);
    assert!(
        many < 3 * one + 500,
        "{one} ns for one rule, {many} ns for ten thousand"
    );
}

#[test]
fn a_packet_at_the_gate_costs_little() {
    let _stats = enable_stats(Stats::RunTime).unwrap();
    let mut rig = Rig::new("gate_cost");
    rig.enforcement = Enforcement::Drop;
    let datapath = rig.open();
    let (client, server) = (rig.pod(), rig.pod());
    let _listeners = rig.on_host(|| rig.capture(&datapath, &client));
    datapath.reconcile_policy(&table(&client, 100)).unwrap();
    let far = server.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    let near = client.escaped(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let to = SocketAddr::new(server.v4.into(), 9000);
    let allowed = tulle_datapath::PolicyChanges {
        peers: vec![(peer(POD, PolicyDirection::Egress, WORLD), PORT_SET_ALLOW)],
        ..tulle_datapath::PolicyChanges::default()
    };
    datapath.apply_policy(&allowed).unwrap();
    for program in ["from_pod", "to_pod"] {
        let mut costs: Vec<u128> = (0..40)
            .map(|_| {
                let before = runs(program);
                for _ in 0..100 {
                    near.send_to(b"x", to).unwrap();
                    let (_, from) = far.recv_from(&mut [0; 8]).unwrap();
                    far.send_to(b"y", from).unwrap();
                    near.recv(&mut [0; 8]).unwrap();
                }
                cost(program, &before)
            })
            .collect();
        costs.sort_unstable();
        println!(
            "a packet of a known flow at {program}: {} ns at best, {} ns in the middle",
            costs[0], costs[20]
        );
        assert!(costs[0] < 10_000);
    }
}
