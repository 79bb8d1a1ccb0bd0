//! Resources by name, key and cluster.

use tulle_model::{
    Health, Locality, PortMapping, Sharing, SmallMap, Text, TrustBundle, TunnelProtocol,
    WorkloadKind,
};
use tulle_wire::{DecodedAddress, decode_address};

use super::*;

pub(crate) fn workload(name: &str, ip: &str, service: Option<&str>) -> Workload {
    let cluster: ClusterName = "koornacht".parse().unwrap();
    let ports = vec![PortMapping {
        service_port: 80,
        target_port: 8080,
        ..PortMapping::default()
    }];
    let services = service.map(|s| {
        (
            NamespacedName::new("shop", format!("{s}.shop.svc.cluster.local")),
            ports,
        )
    });
    Workload {
        uid: WorkloadUid::of_pod(&cluster, "shop", name),
        name: name.to_owned(),
        namespace: "shop".into(),
        service_account: "default".into(),
        trust_domain: "koornacht.tulle".parse().unwrap(),
        cluster,
        node: "n1".into(),
        addresses: vec![ip.parse().unwrap()],
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
        services: services.into_iter().collect(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: Arc::default(),
        named_ports: SmallMap::new(),
        demoted: false,
    }
}

pub(crate) fn service(name: &str, vip: &str) -> Service {
    Service {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        hostname: format!("{name}.shop.svc.cluster.local"),
        addresses: vec![vip.parse().unwrap()],
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        sharing: Sharing::default(),
        ..Service::default()
    }
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for workload in [
        workload("a", "10.1.1.1", Some("web")),
        workload("b", "10.1.1.2", Some("web")),
        workload("c", "10.1.1.3", None),
    ] {
        snapshot.apply(Change::Workload(Arc::new(workload)));
    }
    snapshot.apply(Change::Service(Arc::new(service("web", "172.20.1.5"))));
    let bundle = TrustBundle {
        trust_domain: "t".parse().unwrap(),
        roots_pem: "r".to_owned(),
    };
    snapshot.apply(Change::Bundle(Arc::new(bundle)));
    snapshot
}

fn names(found: &[Arc<Encoded>]) -> Vec<&str> {
    found
        .iter()
        .map(|e| e.name.rsplit('/').next().unwrap_or_default())
        .collect()
}

#[test]
fn keys_of_every_form_are_resolved() {
    let snapshot = snapshot();
    let check = |key: &str, expected: &[&str]| {
        let found = snapshot.resolve(ResourceType::Address, key);
        assert_eq!(names(&found), expected, "{key}");
    };
    check("koornacht//Pod/shop/a", &["a"]);
    check("/10.1.1.2", &["b"]);
    check("some-network/10.1.1.2", &["b"]);
    check(
        "shop/web.shop.svc.cluster.local",
        &["web.shop.svc.cluster.local", "a", "b"],
    );
    check("/172.20.1.5", &["web.shop.svc.cluster.local", "a", "b"]);
    for unknown in [
        "",
        "/",
        "*",
        "/10.9.9.9",
        "shop/none",
        "koornacht//Pod/shop/z",
        "a/b/c/d",
        "/10.1.1.2/32",
    ] {
        check(unknown, &[]);
    }
    assert_eq!(snapshot.resolve(ResourceType::TrustBundle, "t").len(), 1);
    assert_eq!(snapshot.resolve(ResourceType::Authorization, "t").len(), 0);
}

#[test]
fn resource_carries_name_version_aliases_and_content() {
    let snapshot = snapshot();
    let encoded = &snapshot.resolve(ResourceType::Address, "/10.1.1.1")[0];
    let resource = xds::Resource::decode(encoded.bytes.clone()).unwrap();
    assert_eq!(resource.name, "koornacht//Pod/shop/a");
    assert_eq!(resource.aliases, ["/10.1.1.1"]);
    assert_eq!(resource.version, encoded.version);
    let content = resource.resource.unwrap();
    assert_eq!(content.type_url, ResourceType::Address.url());
    assert_eq!(resource.version, resource_version(&content.value));
    let DecodedAddress::Workload(decoded) = decode_address(&content.value).unwrap() else {
        panic!("not a workload");
    };
    assert_eq!(decoded, workload("a", "10.1.1.1", Some("web")));
}

#[test]
fn equal_content_keeps_the_shared_map() {
    let mut snapshot = snapshot();
    let before = snapshot.resources(ResourceType::Address).clone();
    snapshot.apply(Change::Workload(Arc::new(workload(
        "a",
        "10.1.1.1",
        Some("web"),
    ))));
    assert!(snapshot.resources(ResourceType::Address).ptr_eq(&before));
}

#[test]
fn only_what_unheard_clusters_own_may_still_come() {
    let mut snapshot = snapshot();
    let check = |snapshot: &Snapshot, kind, name: &str, expected: bool| {
        assert_eq!(snapshot.may_still_come(kind, name), expected, "{name}");
    };
    check(&snapshot, ResourceType::Address, "tion//Pod/shop/x", false);
    snapshot.unheard.insert("tion".parse().unwrap());
    check(&snapshot, ResourceType::Address, "tion//Pod/shop/x", true);
    check(
        &snapshot,
        ResourceType::Address,
        "tion/discovery.k8s.io/EndpointSlice/a/b/1",
        true,
    );
    check(&snapshot, ResourceType::Address, "yavin//Pod/shop/x", false);
    // A service of the namespace `tion` is the own cluster's.
    check(
        &snapshot,
        ResourceType::Address,
        "tion/web.tion.svc.cluster.local",
        false,
    );
    check(&snapshot, ResourceType::TrustBundle, "tion.tulle", true);
    check(&snapshot, ResourceType::Authorization, "tion/x", false);
}
