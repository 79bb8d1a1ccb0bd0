//! Histories of several clusters, and the view after them.

mod clusters;
mod histories;
mod increments;
mod shared;
mod truth;

use tulle_model::{
    Affinity, AppProtocol, Authorization, AuthorizationAction, AuthorizationScope, Health,
    Locality, PortMapping, Protocol, Service, ServicePort, Sharing, SmallMap, Text, TunnelProtocol,
    WorkloadKind,
};

use super::*;

const OWN: &str = "koornacht";

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn domain(name: &str) -> TrustDomain {
    format!("{name}.tulle").parse().unwrap()
}

fn key(service: &str) -> NamespacedName {
    NamespacedName::new("shop", format!("{service}.shop.svc.cluster.local"))
}

fn service(name: &str, global: bool, shared: bool) -> Service {
    Service {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        hostname: format!("{name}.shop.svc.cluster.local"),
        addresses: vec!["172.20.1.5".parse().unwrap()],
        ports: vec![port("", 80, 8080)],
        subject_alt_names: Vec::new(),
        sharing: Sharing {
            global,
            shared,
            affinity: Affinity::None,
        },
        ..Service::default()
    }
}

fn port(name: &str, port: u16, target_port: u16) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        port,
        target_port,
        protocol: Protocol::Tcp,
        app_protocol: AppProtocol::Unknown,
    }
}

fn workload(of: &str, name: &str, services: &[(&str, u16, u16)]) -> Workload {
    Workload {
        uid: WorkloadUid::of_pod(&cluster(of), "shop", name),
        name: name.to_owned(),
        namespace: "shop".into(),
        service_account: "default".into(),
        trust_domain: domain(of),
        cluster: cluster(of),
        node: format!("{of}-worker").into(),
        addresses: vec!["10.2.1.5".parse().unwrap()],
        hostname: Text::default(),
        labels: SmallMap::new(),
        locality: Locality::default(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        owner_name: name.into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        host_network: false,
        services: services
            .iter()
            .map(|(s, service_port, target_port)| {
                let mapping = PortMapping {
                    service_port: *service_port,
                    target_port: *target_port,
                    ..PortMapping::default()
                };
                (key(s), vec![mapping])
            })
            .collect(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: Arc::default(),
        named_ports: SmallMap::new(),
        demoted: false,
    }
}

fn bundle(of: &str, roots: &str) -> TrustBundle {
    TrustBundle {
        trust_domain: domain(of),
        roots_pem: roots.to_owned(),
    }
}

fn policy(name: &str) -> Authorization {
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: AuthorizationScope::Namespace,
        action: AuthorizationAction::Deny,
        rules: Vec::new(),
        dry_run: false,
    }
}

fn put(value: Workload) -> Change {
    Change::Workload(Arc::new(value))
}

fn put_service(value: Service) -> Change {
    Change::Service(Arc::new(value))
}

/// A mesh of koornacht and tion, tion alive, both with the service `web`.
fn mesh(local: Sharing, remote: Sharing) -> Merge {
    let mut merge = Merge::new(cluster(OWN));
    merge.handle_local(Change::Bundle(Arc::new(bundle(OWN, "k"))));
    merge.handle_local(put_service(Service {
        sharing: local,
        ..service("web", true, true)
    }));
    merge.handle_local(put(workload(OWN, "a", &[("web", 80, 8080)])));
    merge.add_remote(cluster("tion"), domain("tion"));
    merge.handle_heartbeat(&cluster("tion"), 1, Duration::ZERO);
    let tion = cluster("tion");
    let remote = Service {
        sharing: remote,
        ..service("web", true, true)
    };
    merge.handle_remote(&tion, put_service(remote)).unwrap();
    merge
        .handle_remote(&tion, put(workload("tion", "b", &[("web", 80, 8080)])))
        .unwrap();
    merge
        .handle_remote(&tion, Change::Bundle(Arc::new(bundle("tion", "t"))))
        .unwrap();
    merge
}

fn sharing(global: bool, shared: bool) -> Sharing {
    Sharing {
        global,
        shared,
        affinity: Affinity::None,
    }
}

/// Names of the workloads that serve `web` in the view.
fn endpoints(merge: &Merge) -> Vec<String> {
    merge
        .view()
        .endpoints(&key("web"))
        .map(|w| w.name.clone())
        .collect()
}

fn remote_workload(merge: &Merge) -> Arc<Workload> {
    let uid = WorkloadUid::of_pod(&cluster("tion"), "shop", "b");
    merge
        .view()
        .workload(&uid)
        .cloned()
        .expect("the remote workload is in the view")
}

/// A pod of the services whose bits are set.
fn pod(of: &str, number: u8, services: u8) -> Workload {
    let names = ["s0", "s1", "s2"];
    let served: Vec<(&str, u16, u16)> = names
        .iter()
        .enumerate()
        .filter(|(n, _)| services & (1 << n) != 0)
        .map(|(_, s)| (*s, 80, 8080))
        .collect();
    workload(of, &format!("p{number}"), &served)
}

/// The view by name, so that two directories can be compared.
fn flat(view: &Directory) -> BTreeMap<String, String> {
    let workloads = view
        .workloads()
        .map(|w| (w.uid.0.to_string(), format!("{w:?}")));
    let services = view
        .services()
        .map(|s| (s.key().to_string(), format!("{s:?}")));
    let bundles = view
        .bundles()
        .map(|b| (b.trust_domain.to_string(), format!("{b:?}")));
    workloads.chain(services).chain(bundles).collect()
}
