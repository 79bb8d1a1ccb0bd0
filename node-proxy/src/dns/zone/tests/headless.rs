//! Services without an address of their own: their pods, in all clusters.

use hickory_proto::rr::RData;

use super::*;

#[test]
fn a_headless_service_answers_its_ready_pods_of_all_clusters() {
    let name = "db.data.svc.cluster.local.";
    check(name, RecordType::A, &["10.1.1.5", "10.1.1.6", "10.2.1.5"]);
    check(
        "db.data.",
        RecordType::A,
        &["10.1.1.5", "10.1.1.6", "10.2.1.5"],
    );
    check("late.data.svc.cluster.local.", RecordType::A, &["10.1.1.7"]);
}

#[test]
fn a_pod_of_a_headless_service_has_a_name() {
    check(
        "db-0.db.data.svc.cluster.local.",
        RecordType::A,
        &["10.1.1.5"],
    );
    check(
        "DB-1.db.data.svc.cluster.local.",
        RecordType::A,
        &["10.2.1.5"],
    );
    check("db-1.db.data.", RecordType::A, &["10.2.1.5"]);
    check(
        "10-1-1-6.db.data.svc.cluster.local.",
        RecordType::A,
        &["10.1.1.6"],
    );
    check(
        "db-3.late.data.svc.cluster.local.",
        RecordType::A,
        &["10.1.1.7"],
    );
    check(
        "10-1-1-5.data.pod.cluster.local.",
        RecordType::A,
        &["10.1.1.5"],
    );
}

#[test]
fn clusters_have_names_below_headless_services() {
    let (a, nxdomain) = (RecordType::A, &["nxdomain"]);
    let check = |name: &str, expected: &[&str]| {
        check(&format!("{name}.svc.cluster.local."), a, expected);
    };
    check("koornacht.db.data", &["10.1.1.5", "10.1.1.6"]);
    check("tion.db.data", &["10.2.1.5"]);
    check("db-1.tion.db.data", &["10.2.1.5"]);
    check("db-0.koornacht.db.data", &["10.1.1.5"]);
    check("10-1-1-6.koornacht.db.data", &["10.1.1.6"]);
    check("db-0.tion.db.data", nxdomain);
    check("yavin.db.data", nxdomain);
    check("db-0.yavin.db.data", nxdomain);
    check("_sql._tcp.yavin.db.data", nxdomain);
    // A service with an address of its own is one thing, wherever it is served.
    check("koornacht.rebel-base.default", nxdomain);
    check("a.koornacht.rebel-base.default", nxdomain);
}

/// Two clusters run the same StatefulSet: one name for both, and one for each.
#[test]
fn one_hostname_in_two_clusters_is_two_pods() {
    let mut mesh = mesh();
    let mut twin = pod("tion", "data", "db-0", &["10.2.1.9"]);
    twin.hostname = "db-0".into();
    twin.services.insert(
        "data/db.data.svc.cluster.local".parse().unwrap(),
        Vec::new(),
    );
    mesh.apply(Change::Workload(Arc::new(twin)));
    let found = |name: &str| {
        let name = format!("{name}.db.data.svc.cluster.local.");
        match look_up(&mesh, &name, RecordType::A) {
            Lookup::Records { answers, .. } => {
                let mut texts: Vec<_> = answers.iter().map(|r| r.data.to_string()).collect();
                texts.sort();
                texts.join(" ")
            }
            other => format!("{other:?}"),
        }
    };
    assert_eq!(found("db-0"), "10.1.1.5 10.2.1.9");
    assert_eq!(found("db-0.koornacht"), "10.1.1.5");
    assert_eq!(found("db-0.tion"), "10.2.1.9");
    let name = "9.1.2.10.in-addr.arpa.";
    let Lookup::Records { answers, .. } = look_up(&mesh, name, RecordType::PTR) else {
        panic!("an answer is expected");
    };
    let target = answers[0].data.to_string();
    assert_eq!(target, "db-0.tion.db.data.svc.cluster.local.");
}

#[test]
fn affinity_decides_about_headless_services_too() {
    let mut mesh = Fixture::default();
    let mut db = service("data", "db", &[]);
    db.sharing.global = true;
    db.sharing.affinity = tulle_model::Affinity::Local;
    let key = db.key();
    mesh.add_service(db);
    for (cluster, address) in [("koornacht", "10.1.1.5"), ("tion", "10.2.1.5")] {
        let mut workload: Workload = pod(cluster, "data", "db-0", &[address]);
        workload.services.insert(key.clone(), Vec::new());
        mesh.add_pod(workload);
    }
    let found = look_up(
        &mesh.directory(),
        "db.data.svc.cluster.local.",
        RecordType::A,
    );
    let Lookup::Records { answers, .. } = found else {
        panic!("an answer is expected")
    };
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].data.to_string(), "10.1.1.5");
}

#[test]
fn answers_turn_with_the_rotation() {
    let directory = mesh();
    let cluster = "koornacht".parse().unwrap();
    let locality = Locality::default();
    let first = |rotation| {
        let viewpoint = Viewpoint {
            cluster: &cluster,
            node: "n",
            locality: &locality,
        };
        let zone = Zone {
            directory: &directory,
            viewpoint,
            ejected: &Ejected::none(),
            search: &[],
            rotation,
        };
        let name = Name::from_ascii("db.data.svc.cluster.local.").unwrap();
        match zone.look_up(&name, RecordType::A) {
            Lookup::Records { answers, .. } => answers[0].data.clone(),
            other => panic!("{other:?}"),
        }
    };
    let seen: std::collections::HashSet<RData> = (0..3).map(first).collect();
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_silent_clusters_pod_is_named_only_when_no_other_is() {
    let mut directory = mesh();
    let found = |directory: &Directory| match look_up(
        directory,
        "db-1.db.data.svc.cluster.local.",
        RecordType::A,
    ) {
        Lookup::Records { answers, .. } => answers.iter().map(|r| r.data.to_string()).collect(),
        other => vec![format!("{other:?}")],
    };
    let mut demoted = (**directory.workloads().find(|w| w.name == "db-1").unwrap()).clone();
    demoted.demoted = true;
    directory.apply(Change::Workload(Arc::new(demoted)));
    assert_eq!(found(&directory), ["10.2.1.5"]);
    let mut twin = pod("koornacht", "data", "db-1", &["10.1.1.9"]);
    twin.hostname = "db-1".into();
    twin.services.insert(
        "data/db.data.svc.cluster.local".parse().unwrap(),
        Vec::new(),
    );
    directory.apply(Change::Workload(Arc::new(twin)));
    assert_eq!(found(&directory), ["10.1.1.9"]);
}

/// Its name with the cluster in it means nobody else, so nobody else makes it unknown.
#[test]
fn a_silent_clusters_pod_keeps_the_name_that_says_its_cluster() {
    let mut directory = mesh();
    let mut twin = pod("tion", "data", "db-0", &["10.2.1.9"]);
    twin.hostname = "db-0".into();
    twin.demoted = true;
    let db = "data/db.data.svc.cluster.local".parse().unwrap();
    twin.services.insert(db, Vec::new());
    directory.apply(Change::Workload(Arc::new(twin)));
    let name = "db-0.tion.db.data.svc.cluster.local.";
    let found = look_up(&directory, name, RecordType::A);
    let Lookup::Records { answers, .. } = found else {
        panic!("an answer is expected: {found:?}");
    };
    assert_eq!(answers[0].data.to_string(), "10.2.1.9");
}
