//! SRV records: where the ports of services are.

use super::*;

#[test]
fn ports_have_srv_records() {
    let vip = "0 100 80 rebel-base.default.svc.cluster.local.";
    check(
        "_http._tcp.rebel-base.default.svc.cluster.local.",
        RecordType::SRV,
        &[vip],
    );
    check("_HTTP._TCP.rebel-base.", RecordType::SRV, &[vip]);
    check(
        "rebel-base.default.svc.cluster.local.",
        RecordType::SRV,
        &[vip],
    );
    // Unnamed ports have none.
    check(
        "only-v4.default.svc.cluster.local.",
        RecordType::SRV,
        &["nodata"],
    );
    check(
        "_sql._tcp.db.data.svc.cluster.local.",
        RecordType::SRV,
        &[
            "0 33 5432 10-1-1-6.db.data.svc.cluster.local.",
            "0 33 5432 db-0.db.data.svc.cluster.local.",
            // Of another cluster: its name says so, and so is its own.
            "0 33 5432 db-1.tion.db.data.svc.cluster.local.",
        ],
    );
    check(
        "_sql._tcp.tion.db.data.svc.cluster.local.",
        RecordType::SRV,
        &["0 100 5432 db-1.tion.db.data.svc.cluster.local."],
    );
    check(
        "koornacht.db.data.svc.cluster.local.",
        RecordType::SRV,
        &[
            "0 50 5432 10-1-1-6.db.data.svc.cluster.local.",
            "0 50 5432 db-0.db.data.svc.cluster.local.",
        ],
    );
}

#[test]
fn targets_come_with_their_addresses() {
    let name = "_http._tcp.rebel-base.default.svc.cluster.local.";
    let Lookup::Records { additionals, .. } = look_up(&mesh(), name, RecordType::SRV) else {
        panic!("an answer is expected");
    };
    let addresses: Vec<_> = additionals
        .iter()
        .filter_map(|r| r.data.ip_addr())
        .collect();
    assert_eq!(addresses.len(), 2);
    assert!(
        additionals
            .iter()
            .all(|r| r.name.to_string() == "rebel-base.default.svc.cluster.local.")
    );
}

/// A port by name that a pod does not have: there is no location to tell.
#[test]
fn a_pod_without_the_port_has_no_location() {
    let mut directory = mesh();
    let mut other = pod("koornacht", "data", "db-9", &["10.1.1.99"]);
    let db = "data/db.data.svc.cluster.local".parse().unwrap();
    other.services.insert(db, Vec::new());
    directory.apply(Change::Workload(Arc::new(other)));
    let name = "_sql._tcp.koornacht.db.data.svc.cluster.local.";
    let Lookup::Records { answers, .. } = look_up(&directory, name, RecordType::SRV) else {
        panic!("an answer is expected");
    };
    let mut texts: Vec<_> = answers.iter().map(|r| r.data.to_string()).collect();
    texts.sort();
    assert_eq!(
        texts,
        [
            "0 50 5432 10-1-1-6.db.data.svc.cluster.local.",
            "0 50 5432 db-0.db.data.svc.cluster.local.",
        ]
    );
}
