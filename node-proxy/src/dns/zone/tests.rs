mod ejected;

use std::sync::Arc;

use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;
use tulle_balance::{Ejected, Viewpoint};
use tulle_model::{Change, Directory, Health, Locality, PortMapping, Text, Workload};

use super::{Lookup, Zone, search_list};
use crate::testing::{Fixture, pod, service};

/// A mesh with one of everything.
fn mesh() -> Directory {
    let mut mesh = Fixture::default();
    let mut rebel = service("default", "rebel-base", &["172.20.1.7", "fd00:20:1::7"]);
    rebel.ports[0].name = "http".to_owned();
    mesh.add_service(rebel);
    mesh.add_service(service("default", "only-v4", &["172.20.1.8"]));
    for (name, target) in [
        ("inside", "rebel-base.default.svc.cluster.local"),
        ("outside", "db.example.org"),
        ("twice", "outside.default.svc.cluster.local"),
        ("nowhere", "nobody.default.svc.cluster.local"),
        ("circle", "circle.default.svc.cluster.local"),
    ] {
        let mut alias = service("default", name, &[]);
        alias.external_name = Some(target.to_owned());
        mesh.add_service(alias);
    }
    let mut headless = service("data", "db", &[]);
    headless.ports[0].name = "sql".to_owned();
    headless.ports[0].target_port = 0;
    let key = headless.key();
    mesh.add_service(headless.clone());
    mesh.add_service(service("data", "empty", &[]));
    let mut late = service("data", "late", &[]);
    late.publish_not_ready = true;
    mesh.add_service(late.clone());
    for (name, address, cluster) in [
        ("db-0", "10.1.1.5", "koornacht"),
        ("db-1", "10.2.1.5", "tion"),
        ("db-2", "10.1.1.6", "koornacht"),
    ] {
        let mut workload = pod(cluster, "data", name, &[address]);
        workload.hostname = if name == "db-2" {
            Text::default()
        } else {
            name.into()
        };
        let port = PortMapping {
            service_port: 80,
            target_port: 5432,
            ..PortMapping::default()
        };
        workload.services.insert(key.clone(), vec![port]);
        mesh.add_pod(workload);
    }
    let mut sick = pod("koornacht", "data", "db-3", &["10.1.1.7"]);
    sick.hostname = "db-3".into();
    sick.health = Health::Unhealthy;
    sick.services.insert(key, Vec::new());
    sick.services.insert(late.key(), Vec::new());
    mesh.add_pod(sick);
    mesh.directory()
}

fn look_up(directory: &Directory, name: &str, kind: RecordType) -> Lookup {
    look_up_without(&Ejected::none(), directory, name, kind)
}

fn look_up_without(
    ejected: &Ejected,
    directory: &Directory,
    name: &str,
    kind: RecordType,
) -> Lookup {
    let cluster = "koornacht".parse().unwrap();
    let locality = Locality::default();
    let search = search_list(&[], "default");
    let zone = Zone {
        directory,
        viewpoint: Viewpoint {
            cluster: &cluster,
            node: "koornacht-worker",
            locality: &locality,
        },
        ejected,
        search: &search,
        rotation: 0,
    };
    zone.look_up(&Name::from_ascii(name).unwrap(), kind)
}

/// The answer as text: sorted records, or what else was said.
fn check(name: &str, kind: RecordType, expected: &[&str]) {
    let found = match look_up(&mesh(), name, kind) {
        Lookup::Records { answers, .. } => {
            assert!(answers.iter().all(|record| record.ttl == 5));
            let mut texts: Vec<String> = answers.iter().map(|r| r.data.to_string()).collect();
            texts.sort();
            texts
        }
        Lookup::NoData => vec!["nodata".to_owned()],
        Lookup::NoSuchName => vec!["nxdomain".to_owned()],
        Lookup::NotOurs => vec!["forward".to_owned()],
        Lookup::Elsewhere { aliases, target } => {
            let aliases = aliases.iter().map(|r| r.data.to_string());
            aliases.chain([format!("forward {target}")]).collect()
        }
    };
    assert_eq!(found, expected, "{name} {kind}");
}

#[test]
fn a_service_is_found_by_every_form_of_its_name() {
    for name in [
        "rebel-base.",
        "rebel-base.default.",
        "rebel-base.default.svc.",
        "rebel-base.default.svc.cluster.local.",
        "Rebel-Base.DEFAULT.svc.Cluster.Local.",
    ] {
        check(name, RecordType::A, &["172.20.1.7"]);
        check(name, RecordType::AAAA, &["fd00:20:1::7"]);
        check(name, RecordType::ANY, &["172.20.1.7", "fd00:20:1::7"]);
    }
}

#[test]
fn the_owner_name_is_spelled_as_it_was_asked() {
    let Lookup::Records { answers, .. } = look_up(&mesh(), "Rebel-Base.default.", RecordType::A)
    else {
        panic!("an answer is expected");
    };
    assert_eq!(answers[0].name.to_string(), "Rebel-Base.default.");
}

#[test]
fn what_exists_without_such_records_is_nodata() {
    check(
        "only-v4.default.svc.cluster.local.",
        RecordType::AAAA,
        &["nodata"],
    );
    check("only-v4.", RecordType::AAAA, &["nodata"]);
    check(
        "rebel-base.default.svc.cluster.local.",
        RecordType::TXT,
        &["nodata"],
    );
    check(
        "rebel-base.default.svc.cluster.local.",
        RecordType::MX,
        &["nodata"],
    );
    check("default.svc.cluster.local.", RecordType::A, &["nodata"]);
    check("data.pod.cluster.local.", RecordType::A, &["nodata"]);
    check("svc.cluster.local.", RecordType::A, &["nodata"]);
    check("cluster.local.", RecordType::A, &["nodata"]);
    check(
        "_tcp.rebel-base.default.svc.cluster.local.",
        RecordType::SRV,
        &["nodata"],
    );
    check(
        "_http._tcp.rebel-base.default.svc.cluster.local.",
        RecordType::A,
        &["nodata"],
    );
    check("db.data.svc.cluster.local.", RecordType::AAAA, &["nodata"]);
}

#[test]
fn what_does_not_exist_under_the_cluster_domain_is_nxdomain() {
    for name in [
        "nobody.default.svc.cluster.local.",
        "rebel-base.elsewhere.svc.cluster.local.",
        "elsewhere.svc.cluster.local.",
        "rebel-base.cluster.local.",
        "a.b.c.d.e.svc.cluster.local.",
        "example.com.default.svc.cluster.local.",
        "_none._tcp.rebel-base.default.svc.cluster.local.",
        "_http._udp.rebel-base.default.svc.cluster.local.",
        "_udp.rebel-base.default.svc.cluster.local.",
        "http._tcp.rebel-base.default.svc.cluster.local.",
        "host.rebel-base.default.svc.cluster.local.",
        "9-9-9-9.data.pod.cluster.local.",
        "10-1-1-5.default.pod.cluster.local.",
        // No ready endpoint: Kubernetes DNS specification, 2.4.1.
        "empty.data.svc.cluster.local.",
        "db-3.db.data.svc.cluster.local.",
    ] {
        check(name, RecordType::A, &["nxdomain"]);
        check(name, RecordType::SRV, &["nxdomain"]);
    }
}

#[test]
fn other_names_are_forwarded() {
    for name in [
        "example.com.",
        "default.",
        "svc.",
        "nobody.",
        ".",
        "local.",
        "notcluster.local.",
    ] {
        check(name, RecordType::A, &["forward"]);
    }
    check("8.8.8.8.in-addr.arpa.", RecordType::PTR, &["forward"]);
    check("1.20.172.in-addr.arpa.", RecordType::PTR, &["forward"]);
}

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
fn external_names_are_aliases() {
    let alias = "rebel-base.default.svc.cluster.local.";
    let name = |name: &str| format!("{name}.default.svc.cluster.local.");
    let (a, aaaa) = (RecordType::A, RecordType::AAAA);
    check(&name("inside"), a, &["172.20.1.7", alias]);
    check("inside.", a, &["172.20.1.7", alias]);
    check(&name("inside"), aaaa, &["fd00:20:1::7", alias]);
    check(&name("inside"), RecordType::CNAME, &[alias]);
    let outside = "db.example.org.";
    let forward = format!("forward {outside}");
    check(&name("outside"), a, &[outside, &forward]);
    check(&name("outside"), RecordType::TXT, &[outside, &forward]);
    check(&name("outside"), RecordType::CNAME, &[outside]);
    // Through two names to a third.
    let first = name("outside");
    check(&name("twice"), a, &[&first, outside, &forward]);
    // What is not there, and what leads in a circle: the alias alone.
    let nobody = name("nobody");
    check(&name("nowhere"), a, &[&nobody]);
    let circle = name("circle");
    check(&circle, a, &[circle.as_str(); 8]);
    // Nothing is served there, so nothing is below it.
    check(&name("_http._tcp.outside"), RecordType::SRV, &["nxdomain"]);
    check(&name("host.outside"), a, &["nxdomain"]);
    check(&name("host.koornacht.outside"), a, &["nxdomain"]);
}

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

#[test]
fn addresses_have_names() {
    check(
        "7.1.20.172.in-addr.arpa.",
        RecordType::PTR,
        &["rebel-base.default.svc.cluster.local."],
    );
    check(
        "5.1.1.10.in-addr.arpa.",
        RecordType::PTR,
        &["db-0.db.data.svc.cluster.local."],
    );
    check(
        "6.1.1.10.in-addr.arpa.",
        RecordType::PTR,
        &["10-1-1-6.db.data.svc.cluster.local."],
    );
    check("5.1.1.10.in-addr.arpa.", RecordType::A, &["nodata"]);
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.";
    check(
        v6,
        RecordType::PTR,
        &["rebel-base.default.svc.cluster.local."],
    );
}

#[test]
fn the_schema_version_is_told() {
    check("dns-version.cluster.local.", RecordType::TXT, &["1.1.0"]);
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
fn search_lists_of_pods_are_followed() {
    let list = |domains: &[&str]| {
        let domains: Vec<String> = domains.iter().map(|d| (*d).to_owned()).collect();
        search_list(&domains, "default")
            .iter()
            .map(|labels| labels.join("."))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["default.svc", "svc", ""]);
    assert_eq!(
        list(&["Data.svc.cluster.local.", "example.com", "cluster.local"]),
        ["data.svc", ""]
    );
    assert_eq!(list(&["example.com"]), Vec::<String>::new());
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

proptest! {
    #[test]
    fn no_name_makes_it_panic(labels in prop::collection::vec("[_a-z0-9-]{1,20}", 0..8), suffix in 0_usize..4) {
        let suffix = ["", "svc.cluster.local.", "in-addr.arpa.", "ip6.arpa."][suffix];
        let text = format!("{}.{suffix}", labels.join("."));
        if let Ok(name) = Name::from_ascii(&text) {
            let mesh = mesh();
            let cluster = "koornacht".parse().unwrap();
            let locality = Locality::default();
            let viewpoint = Viewpoint { cluster: &cluster, node: "n", locality: &locality };
            let search = search_list(&[], "default");
            let zone = Zone { directory: &mesh, viewpoint, ejected: &Ejected::none(), search: &search, rotation: 7 };
            for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR, RecordType::ANY] {
                let _lookup = zone.look_up(&name, kind);
            }
        }
    }
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
