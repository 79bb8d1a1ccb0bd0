//! What the policy maps hold: reconciled by difference, adopted after a restart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tulle_datapath::{
    Datapath, PORT_SET_ALLOW, PORT_SET_DENY, PolicyChanges, PolicyDirection, PolicyPeer,
    PolicyReport, PolicySubject, PolicyTable, PolicyVerdict, PortRule, ReconcileError,
    SubjectFlags,
};
use tulle_model::AddressRange;

use crate::support::Rig;

pub(crate) fn peer(subject: u32, direction: PolicyDirection, peer: u32) -> PolicyPeer {
    PolicyPeer {
        subject,
        direction,
        peer,
    }
}

pub(crate) fn port(protocol: u8, port: u16, verdict: PolicyVerdict, rule: u32) -> PortRule {
    PortRule {
        protocol,
        port,
        prefix_len: if port == 0 { 0 } else { 16 },
        verdict,
        rule,
        audit: 0,
    }
}

fn table() -> PolicyTable {
    let block = |address: IpAddr, prefix_len| AddressRange {
        address,
        prefix_len,
    };
    PolicyTable {
        identities: vec![
            (Ipv4Addr::new(10, 1, 0, 1).into(), 100),
            (Ipv6Addr::LOCALHOST.into(), 101),
        ],
        blocks: vec![
            (block(Ipv4Addr::UNSPECIFIED.into(), 0), 200),
            (block(Ipv6Addr::UNSPECIFIED.into(), 0), 201),
            (block(Ipv4Addr::new(10, 9, 8, 7).into(), 8), 202),
        ],
        peers: vec![
            (peer(1, PolicyDirection::Egress, 0), PORT_SET_DENY),
            (peer(1, PolicyDirection::Egress, 100), PORT_SET_ALLOW),
            (peer(1, PolicyDirection::Ingress, 200), 3),
        ],
        port_sets: vec![(
            3,
            vec![
                port(6, 80, PolicyVerdict::Allow, 7),
                port(0, 0, PolicyVerdict::Deny, 8),
            ],
        )],
        subjects: Vec::new(),
    }
}

fn check(datapath: &Datapath, table: &PolicyTable, added: usize, changed: usize, removed: usize) {
    let report = PolicyReport {
        added,
        changed,
        removed,
    };
    assert_eq!(datapath.reconcile_policy(table).unwrap(), report);
    assert_eq!(
        datapath.reconcile_policy(table).unwrap(),
        PolicyReport::default(),
        "a second time nothing is to be done"
    );
}

#[test]
fn only_differences_of_policy_are_written_also_by_the_next_process() {
    let rig = Rig::new("policy_reconcile");
    let datapath = rig.open();
    let early = datapath.apply_policy(&PolicyChanges::default());
    assert!(matches!(early, Err(ReconcileError::Unknown)), "{early:?}");
    check(&datapath, &table(), 10, 0, 0);
    drop(datapath);

    let datapath = rig.open();
    check(&datapath, &table(), 0, 0, 0);
    // The same block by another of its addresses.
    let mut other = table();
    other.blocks[2].0.address = Ipv4Addr::new(10, 0, 0, 1).into();
    check(&datapath, &other, 0, 0, 0);
    other.blocks.remove(0);
    other.identities[0].1 = 105;
    other.port_sets[0]
        .1
        .push(port(17, 53, PolicyVerdict::Proxy, 9));
    check(&datapath, &other, 1, 1, 1);
    let changes = PolicyChanges {
        port_sets: vec![(4, vec![port(6, 443, PolicyVerdict::Allow, 1)])],
        port_sets_gone: vec![3],
        peers: vec![(peer(1, PolicyDirection::Ingress, 200), 4)],
        peers_gone: vec![peer(1, PolicyDirection::Egress, 100)],
        identities_gone: vec![Ipv4Addr::new(10, 1, 0, 1).into()],
        ..PolicyChanges::default()
    };
    let report = datapath.apply_policy(&changes).unwrap();
    let expected = PolicyReport {
        added: 1,
        changed: 1,
        removed: 5,
    };
    assert_eq!(report, expected);
    let fill: Vec<(&str, usize)> = datapath
        .policy_fill()
        .iter()
        .map(|fill| (fill.map, fill.entries))
        .collect();
    let expected = [
        ("IDENTITIES", 1),
        ("BLOCKS", 2),
        ("POLICY", 2),
        ("PORTS", 1),
    ];
    assert_eq!(fill, expected);
    check(&datapath, &PolicyTable::default(), 0, 0, 6);
}

#[test]
fn a_policy_that_cannot_be_is_refused_whole() {
    let rig = Rig::new("policy_refused");
    let datapath = rig.open();
    let mut fixed = table();
    fixed.port_sets[0].0 = PORT_SET_DENY;
    let refused = datapath.reconcile_policy(&fixed);
    assert!(matches!(refused, Err(ReconcileError::PortSet { set: 2 })));
    let mut large = table();
    large.port_sets[0].1 = (0..=u16::MAX)
        .flat_map(|number| [6, 17, 132, 0, 1].map(|protocol| (protocol, number)))
        .map(|(protocol, number)| PortRule {
            prefix_len: 16,
            ..port(protocol, number, PolicyVerdict::Allow, 0)
        })
        .collect();
    match datapath.reconcile_policy(&large) {
        Err(ReconcileError::TooLarge { map, wanted, limit }) => {
            assert_eq!((map, wanted, limit), ("PORTS", 327_680, 262_144));
        }
        other => panic!("{other:?}"),
    }
    check(&datapath, &PolicyTable::default(), 0, 0, 0);
}

#[test]
fn what_is_said_of_a_pod_holds_before_it_is_captured_and_over_a_restart() {
    let rig = Rig::new("policy_subjects");
    let datapath = rig.open();
    let pod = rig.pod();
    let subject = PolicySubject {
        uid: pod.uid.clone(),
        identity: 1,
        flags: SubjectFlags {
            egress_enforced: true,
            ..SubjectFlags::default()
        },
    };
    let with_pod = PolicyTable {
        subjects: vec![subject.clone()],
        ..table()
    };
    // Nobody is captured yet, so nothing is written but the tables.
    check(&datapath, &with_pod, 10, 0, 0);
    let listeners = rig.capture(&datapath, &pod);
    check(&datapath, &with_pod, 0, 0, 0);
    drop(datapath);
    let datapath = rig.open();
    pod.register(&datapath, &listeners);
    check(&datapath, &with_pod, 0, 0, 0);
    let gone = PolicyChanges {
        subjects_gone: vec![pod.uid],
        ..PolicyChanges::default()
    };
    assert_eq!(datapath.apply_policy(&gone).unwrap().changed, 1);
    let back = PolicyChanges {
        subjects: vec![subject],
        ..PolicyChanges::default()
    };
    assert_eq!(datapath.apply_policy(&back).unwrap().changed, 1);
}
