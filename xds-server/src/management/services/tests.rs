use std::{sync::Arc, time::Duration};

use serde_json::json;
use tulle_model::{Change, TrustDomain};

use super::*;
use crate::merge::{Merge, SILENT_AFTER};

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn service(sharing: (bool, bool), affinity: &str) -> Service {
    let (global, shared) = sharing;
    let service = json!({
        "name": "web", "namespace": "shop", "hostname": "web.shop.svc.cluster.local",
        "addresses": ["172.20.1.5", "fd00:20:1::5"],
        "ports": [{"name": "http", "port": 80, "target_port": 8080}],
        "sharing": {"global": global, "shared": shared, "affinity": affinity},
    });
    serde_json::from_value(service).unwrap()
}

fn workload(of: &str, name: &str, node: &str, health: &str) -> Workload {
    let host = 1 + name.bytes().next().unwrap() % 32;
    let workload = json!({
        "uid": format!("{of}//Pod/shop/{name}"), "name": name, "namespace": "shop",
        "service_account": "default", "trust_domain": format!("{of}.tulle"),
        "cluster": of, "node": node, "health": health,
        "addresses": [format!("10.{}.1.{host}", of.len())],
        "services": {"shop/web.shop.svc.cluster.local": [{"service_port": 80, "target_port": 8080}]},
    });
    serde_json::from_value(workload).unwrap()
}

/// Koornacht with the pods a (node n1) and b (n2), and tion with c.
struct Mesh {
    merge: Merge,
    own: ClusterName,
}

impl Mesh {
    fn new(own: Service, remote: Option<Service>) -> Mesh {
        let mut merge = Merge::new(cluster("koornacht"));
        for pod in [
            workload("koornacht", "a", "n1", "Healthy"),
            workload("koornacht", "b", "n2", "Healthy"),
        ] {
            merge.handle_local(Change::Workload(Arc::new(pod)));
        }
        merge.handle_local(Change::Service(Arc::new(own)));
        let domain: TrustDomain = "tion.tulle".parse().unwrap();
        merge.add_remote(cluster("tion"), domain);
        let pod = workload("tion", "c", "n1", "Healthy");
        let service = remote.map(|service| Change::Service(Arc::new(service)));
        for change in service.into_iter().chain([Change::Workload(Arc::new(pod))]) {
            merge.handle_remote(&cluster("tion"), change).unwrap();
        }
        merge.handle_heartbeat(&cluster("tion"), 1, Duration::ZERO);
        Mesh {
            merge,
            own: cluster("koornacht"),
        }
    }

    fn view(&self) -> MeshView {
        let remotes = self.merge.remotes().iter();
        MeshView {
            own: self.merge.local().clone(),
            remotes: remotes
                .map(|(name, remote)| {
                    let (state, silent) = (remote.state().clone(), remote.is_silent());
                    (name.clone(), RemoteView { state, silent })
                })
                .collect(),
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&Services<'_>) -> T) -> T {
        let view = self.view();
        ask(&Services {
            cluster: &self.own,
            mesh: &view,
            given: self.merge.view(),
        })
    }

    /// Each backend's name, whether it is in use, and why.
    fn explained(&self, node: Option<&str>) -> Vec<(String, bool, String)> {
        let detail = self.with(|s| s.detail("shop", "web", node, Vec::new()).unwrap());
        let backends = detail.backends.into_iter();
        backends.map(|b| (b.name, b.included, b.reason)).collect()
    }
}

#[track_caller]
fn check(mesh: &Mesh, node: Option<&str>, expected: [(bool, &str); 3]) {
    let explained = mesh.explained(node);
    let names: Vec<&str> = explained.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for ((name, included, reason), (wanted, text)) in explained.iter().zip(expected) {
        assert_eq!((*included, reason.as_str()), (wanted, text), "{name}");
    }
}

const SHARED: (bool, bool) = (true, true);

#[test]
fn every_exclusion_has_its_reason() {
    let not_global = "the service is not global in koornacht";
    let mesh = Mesh::new(
        service((false, true), "none"),
        Some(service(SHARED, "none")),
    );
    check(
        &mesh,
        None,
        [(true, "in use"), (true, "in use"), (false, not_global)],
    );

    let not_there = "the service is not global in tion";
    let mesh = Mesh::new(service(SHARED, "none"), None);
    check(
        &mesh,
        None,
        [(true, "in use"), (true, "in use"), (false, not_there)],
    );

    let not_shared = "tion does not share the service";
    let other = service((true, false), "none");
    let mesh = Mesh::new(service(SHARED, "none"), Some(other));
    check(
        &mesh,
        None,
        [(true, "in use"), (true, "in use"), (false, not_shared)],
    );

    let mesh = Mesh::new(service(SHARED, "none"), Some(service(SHARED, "none")));
    check(&mesh, None, [(true, "in use"); 3]);
}

#[test]
fn affinity_is_the_reason() {
    let shared = || Some(service(SHARED, "none"));
    let local = "in use: affinity local prefers this cluster";
    let mesh = Mesh::new(service(SHARED, "local"), shared());
    check(
        &mesh,
        None,
        [
            (true, local),
            (true, local),
            (false, "affinity local prefers others"),
        ],
    );
    let remote = "affinity remote prefers others";
    let mesh = Mesh::new(service(SHARED, "remote"), shared());
    check(
        &mesh,
        None,
        [
            (false, remote),
            (false, remote),
            (true, "in use: affinity remote prefers other clusters"),
        ],
    );
    let node = "affinity local-node prefers others";
    let mesh = Mesh::new(service(SHARED, "local-node"), shared());
    check(
        &mesh,
        Some("n2"),
        [
            (false, node),
            (true, "in use: affinity local-node prefers this node"),
            (false, node),
        ],
    );
}

#[test]
fn silence_and_unreadiness_are_told() {
    let mut mesh = Mesh::new(service(SHARED, "none"), Some(service(SHARED, "none")));
    mesh.merge.handle_tick(SILENT_AFTER * 2);
    let silent = "cluster tion is silent: used only when nothing else is left";
    check(
        &mesh,
        None,
        [(true, "in use"), (true, "in use"), (false, silent)],
    );
    for name in ["a", "b"] {
        let pod = workload("koornacht", name, "n1", "Unhealthy");
        mesh.merge.handle_local(Change::Workload(Arc::new(pod)));
    }
    let last = "used although cluster tion is silent: nothing else is left";
    check(
        &mesh,
        None,
        [
            (false, "it is not ready"),
            (false, "it is not ready"),
            (true, last),
        ],
    );
}

#[test]
fn lines_and_counts() {
    let mesh = Mesh::new(service(SHARED, "local"), Some(service(SHARED, "none")));
    let list = mesh.with(|s| s.list());
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].ports, ["80/TCP"]);
    assert_eq!(
        list[0].included,
        BTreeMap::from([("koornacht".to_owned(), 2)])
    );
    assert_eq!((list[0].excluded, list[0].affinity.as_str()), (1, "local"));
    assert_eq!(mesh.with(|s| s.global_len()), 1);
    let detail = mesh.with(|s| s.detail("shop", "web", None, Vec::new()).unwrap());
    let addresses: Vec<&str> = detail
        .frontends
        .iter()
        .map(|f| f.address.as_str())
        .collect();
    assert_eq!(addresses, ["172.20.1.5:80", "[fd00:20:1::5]:80"]);
    assert_eq!(detail.clusters.len(), 2);
    assert!(mesh.with(|s| s.detail("shop", "nope", None, Vec::new()).is_none()));

    let alone = Mesh::new(service(SHARED, "none"), None);
    assert_eq!(alone.with(|s| s.global_len()), 0);
}
