//! What is published, and that it is read back as the same.

use std::sync::Arc;

use serde_json::json;
use tulle_model::{Affinity, ServicePort, Sharing, TunnelProtocol};

use super::*;
use crate::{
    cilium::CiliumKeys,
    remotes::Said,
    snapshot::tests::{service, workload},
};

/// A cluster and what it has published.
struct Published {
    export: CiliumExport,
    local: Directory,
    keys: BTreeMap<String, Bytes>,
}

impl Published {
    fn new() -> Self {
        Published {
            export: CiliumExport::new(&"koornacht".parse().unwrap(), 1),
            local: Directory::default(),
            keys: BTreeMap::new(),
        }
    }

    fn apply(&mut self, change: Change) {
        self.export.handle(&change, &self.local);
        self.local.apply(change);
        self.take();
    }

    fn take(&mut self) {
        for (key, value) in self.export.take_changed(&self.local) {
            match value {
                Some(value) => self.keys.insert(key, value),
                None => self.keys.remove(&key),
            };
        }
    }

    fn text(&self, key: &str) -> &str {
        std::str::from_utf8(&self.keys[key]).unwrap()
    }
}

fn global() -> Service {
    let mut web = service("web", "172.20.1.5");
    web.sharing = Sharing {
        global: true,
        shared: true,
        affinity: Affinity::None,
    };
    web.ports = vec![ServicePort {
        name: "http".to_owned(),
        port: 80,
        target_port: 8080,
        protocol: Protocol::Tcp,
        app_protocol: tulle_model::AppProtocol::Unknown,
    }];
    web
}

fn node() -> NodeFacts {
    let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "spec": {"podCIDRs": ["10.1.1.0/24", "fd00:10:1:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.18.1.11"}, {"type": "Hostname", "address": "n1"}]}});
    NodeFacts::of(&serde_json::from_value(node).unwrap())
}

fn whole() -> Published {
    let mut published = Published::new();
    let (export, local) = (&mut published.export, &published.local);
    export.handle_node("n1", Some(node()), local);
    published.apply(Change::Service(Arc::new(global())));
    published.apply(Change::Workload(Arc::new(workload(
        "a",
        "10.1.1.1",
        Some("web"),
    ))));
    published
}

#[test]
fn values_have_the_bytes_that_go_would_write() {
    let published = whole();
    assert_eq!(
        published.text("cilium/cluster-config/koornacht"),
        r#"{"id":1,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false}}"#
    );
    assert_eq!(
        published.text("cilium/state/services/v1/koornacht/shop/web"),
        r#"{"cluster":"koornacht","namespace":"shop","name":"web","frontends":{"172.20.1.5":{"http":{"Protocol":"TCP","Port":80}}},"backends":{"10.1.1.1":{"http":{"Protocol":"TCP","Port":8080}}},"labels":{},"selector":{},"includeExternal":true,"shared":true,"clusterID":1}"#
    );
    let numbers: Vec<&String> = published
        .keys
        .keys()
        .filter(|k| k.contains("/identities/"))
        .collect();
    let number = numbers[0].rsplit('/').next().unwrap();
    assert_eq!(number.parse::<u32>().unwrap() >> 16, 1);
    assert_eq!(
        published.text("cilium/state/ip/v1/default/10.1.1.1"),
        format!(
            r#"{{"IP":"10.1.1.1","Mask":null,"HostIP":"172.18.1.11","ID":{number},"Key":0,"Metadata":"","K8sNamespace":"shop","K8sPodName":"a","K8sServiceAccount":"default"}}"#
        )
    );
    let node = published.text("cilium/state/nodes/v1/koornacht/n1");
    assert!(node.starts_with(r#"{"Name":"n1","Cluster":"koornacht","IPAddresses":[{"Type":"InternalIP","IP":"172.18.1.11"}],"IPv4AllocCIDR":{"IP":"10.1.1.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":{"IP":"fd00:10:1:1::","Mask":"//////////8AAAAAAAAAAA=="}"#), "{node}");
}

#[test]
fn only_shared_services_and_ready_endpoints_are_told() {
    let mut published = whole();
    let key = "cilium/state/services/v1/koornacht/shop/web";
    let mut unready = workload("a", "10.1.1.1", Some("web"));
    unready.health = Health::Unhealthy;
    published.apply(Change::Workload(Arc::new(unready)));
    // The service stays global, without anybody behind it.
    assert!(
        published.text(key).contains(r#""backends":{}"#),
        "{}",
        published.text(key)
    );
    let mut unshared = global();
    unshared.sharing.shared = false;
    published.apply(Change::Service(Arc::new(unshared)));
    assert!(!published.keys.contains_key(key));
    published.apply(Change::Service(Arc::new(global())));
    assert!(published.keys.contains_key(key));
    published.apply(Change::ServiceGone(global().key()));
    assert!(!published.keys.contains_key(key));
}

#[test]
fn what_goes_takes_all_its_keys_along() {
    let mut published = whole();
    let mut moved = workload("a", "10.1.1.2", Some("web"));
    moved.labels.insert("v".into(), "2".into());
    let uid = moved.uid.clone();
    published.apply(Change::Workload(Arc::new(moved)));
    let of = |p: &Published, part: &str| p.keys.keys().filter(|k| k.contains(part)).count();
    assert!(
        published
            .keys
            .contains_key("cilium/state/ip/v1/default/10.1.1.2")
    );
    assert_eq!(
        (of(&published, "/ip/"), of(&published, "/identities/")),
        (1, 1)
    );
    published.apply(Change::WorkloadGone(uid));
    assert_eq!(
        (of(&published, "/ip/"), of(&published, "/identities/")),
        (0, 0)
    );
    let (export, local) = (&mut published.export, &published.local);
    export.handle_node("n1", None, local);
    published.take();
    assert_eq!(of(&published, "/nodes/"), 0);
}

#[test]
fn what_is_published_is_read_back_as_the_same() {
    let published = whole();
    let mut keys = CiliumKeys::new(&"koornacht".parse().unwrap());
    keys.identify(&published.keys["cilium/cluster-config/koornacht"])
        .unwrap();
    let mut said = Said::default();
    for (key, value) in &published.keys {
        keys.put(key, value, &mut said);
    }
    keys.settle(&mut said);
    assert_eq!(said.faults, Vec::<String>::new());
    let mut read = Directory::default();
    said.changes.into_iter().for_each(|c| read.apply(c));
    let original = published.local.workloads().next().unwrap();
    let pod = read.workload(&original.uid).unwrap();
    assert_eq!(pod.tunnel_protocol, TunnelProtocol::None);
    assert_eq!(pod.services, original.services);
    assert_eq!(
        (&pod.addresses, &pod.labels),
        (&original.addresses, &original.labels)
    );
    assert_eq!((&pod.node, &pod.name), (&original.node, &original.name));
    let key = global().key();
    assert_eq!(
        read.service(&key).unwrap().addresses,
        published.local.service(&key).unwrap().addresses
    );
}
