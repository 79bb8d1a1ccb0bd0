//! What failures of endpoints do to answers.

use super::*;

/// Pods of two clusters behind two services: `db` with one port, `both` with two.
fn mesh() -> Directory {
    let mut mesh = Fixture::default();
    let mut db = service("data", "db", &[]);
    db.ports[0].name = "sql".to_owned();
    let mut both = service("data", "both", &[]);
    both.ports[0].name = "sql".to_owned();
    both.ports.push(both.ports[0].clone());
    both.ports[1].name = "metrics".to_owned();
    both.ports[1].port = 9100;
    both.ports[1].target_port = 9100;
    let keys = [db.key(), both.key()];
    mesh.add_service(db);
    mesh.add_service(both);
    for (cluster, name, addresses) in [
        ("koornacht", "db-0", ["10.1.1.5", "fd00:1::5"]),
        ("koornacht", "db-1", ["10.1.1.6", "fd00:1::6"]),
        ("tion", "db-0", ["10.2.1.5", "fd00:2::5"]),
    ] {
        let mut workload = pod(cluster, "data", name, &addresses);
        workload.hostname = name.into();
        for key in &keys {
            workload.services.insert(key.clone(), Vec::new());
        }
        mesh.add_pod(workload);
    }
    mesh.directory()
}

/// The node's book when connections to `failed` did.
fn without(failed: &str) -> Ejected {
    let addresses = failed.split_whitespace().map(|text| text.parse().unwrap());
    Ejected::new(addresses, 80)
}

/// What the name stands for, sorted.
fn found(ejected: &Ejected, name: &str, kind: RecordType) -> String {
    let name = format!("{name}.data.svc.cluster.local.");
    match look_up_without(ejected, &mesh(), &name, kind) {
        Lookup::Records { answers, .. } => {
            let mut texts: Vec<String> = answers.iter().map(|r| r.data.to_string()).collect();
            texts.sort();
            texts.join(", ")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn an_endpoint_that_failed_is_left_out_and_comes_back() {
    let all = "10.1.1.5, 10.1.1.6, 10.2.1.5";
    for (failed, expected) in [
        ("", all),
        ("10.1.1.5:8080", "10.1.1.6, 10.2.1.5"),
        ("10.2.1.5:8080", "10.1.1.5, 10.1.1.6"),
        ("10.1.1.5:8080 10.2.1.5:8080", "10.1.1.6"),
        // Another port is nobody's business here.
        ("10.1.1.5:9090", all),
        // With everybody out, the cause is not theirs.
        ("10.1.1.5:8080 10.1.1.6:8080 10.2.1.5:8080", all),
    ] {
        assert_eq!(
            found(&without(failed), "db", RecordType::A),
            expected,
            "{failed}"
        );
    }
}

#[test]
fn too_many_failures_are_not_believed() {
    let two = ["10.1.1.5:8080", "10.2.1.5:8080"].map(|text| text.parse().unwrap());
    let threshold = |percent| found(&Ejected::new(two, percent), "db", RecordType::A);
    assert_eq!(threshold(67), "10.1.1.6");
    assert_eq!(threshold(66), "10.1.1.5, 10.1.1.6, 10.2.1.5");
}

#[test]
fn a_cluster_out_of_reach_is_left_out_while_another_serves() {
    let ejected = Ejected::none().with_clusters(["tion".parse().unwrap()]);
    let a = RecordType::A;
    assert_eq!(found(&ejected, "db", a), "10.1.1.5, 10.1.1.6");
    assert_eq!(found(&ejected, "db-0.db", a), "10.1.1.5");
    // Who asks for that cluster gets it.
    assert_eq!(found(&ejected, "tion.db", a), "10.2.1.5");
    assert_eq!(found(&ejected, "db-0.tion.db", a), "10.2.1.5");
}

/// An answer of addresses does not know for which port it is asked.
#[test]
fn a_pod_with_a_port_that_is_well_stays_in_answers_of_addresses() {
    let (one, whole) = (
        without("10.1.1.5:9100"),
        without("10.1.1.5:9100 10.1.1.5:8080"),
    );
    let all = "10.1.1.5, 10.1.1.6, 10.2.1.5";
    assert_eq!(found(&one, "both", RecordType::A), all);
    assert_eq!(found(&whole, "both", RecordType::A), "10.1.1.6, 10.2.1.5");
    // Of the other family nobody found out anything.
    let aaaa = found(&whole, "both", RecordType::AAAA);
    assert_eq!(aaaa, "fd00:1::5, fd00:1::6, fd00:2::5");
}

#[test]
fn locations_of_a_port_are_without_those_that_failed_at_it() {
    let failed = without("10.1.1.5:9100 [fd00:1::5]:9100");
    let (sql, metrics) = ("_sql._tcp.both", "_metrics._tcp.both");
    let domain = "both.data.svc.cluster.local.";
    assert_eq!(
        found(&failed, metrics, RecordType::SRV),
        format!("0 50 9100 db-0.tion.{domain}, 0 50 9100 db-1.{domain}")
    );
    assert_eq!(
        found(&failed, sql, RecordType::SRV),
        format!("0 33 8080 db-0.{domain}, 0 33 8080 db-0.tion.{domain}, 0 33 8080 db-1.{domain}")
    );
    // One of its addresses is enough to be reached.
    let half = without("10.1.1.5:9100");
    assert_eq!(
        found(&half, metrics, RecordType::SRV)
            .matches("db-0")
            .count(),
        2
    );
}

#[test]
fn who_names_a_pod_gets_it_unless_another_bears_the_name() {
    let a = RecordType::A;
    let book = "10.1.1.5:8080 [fd00:1::5]:8080 10.1.1.6:8080 [fd00:1::6]:8080";
    let failed = without(book);
    assert_eq!(found(&failed, "db-1.db", a), "10.1.1.6");
    assert_eq!(found(&failed, "db-0.db", a), "10.2.1.5");
    assert_eq!(found(&failed, "db-0.koornacht.db", a), "10.1.1.5");
    let both = without(&format!("{book} 10.2.1.5:8080 [fd00:2::5]:8080"));
    assert_eq!(found(&both, "db-0.db", a), "10.1.1.5, 10.2.1.5");
}

#[test]
fn an_address_keeps_its_name_while_it_fails() {
    let failed = without("10.1.1.5:8080 [fd00:1::5]:8080 10.1.1.5:9100 [fd00:1::5]:9100");
    let asked = "5.1.1.10.in-addr.arpa.";
    let found = look_up_without(&failed, &mesh(), asked, RecordType::PTR);
    assert_eq!(found, look_up(&mesh(), asked, RecordType::PTR));
    assert!(matches!(found, Lookup::Records { .. }));
}
