//! Questions about one mesh, and what is said.

mod ejected;
mod headless;
mod locations;
mod names;

use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};
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
