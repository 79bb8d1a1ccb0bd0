//! What a Cilium cluster's keys mean, and what is refused.

use std::net::IpAddr;

use proptest::prelude::*;
use tulle_model::{Change, Directory, NamespacedName, TunnelProtocol};

use super::*;
use crate::cilium::values::tests::{ADDRESS, CONFIG, NODE, SERVICE};

const LABELS: &str =
    "k8s:app=baz;k8s:io.cilium.k8s.policy.cluster=cluster3;k8s:io.kubernetes.pod.namespace=bar;";

fn admitted() -> CiliumKeys {
    let mut keys = CiliumKeys::new(&"cluster3".parse().unwrap());
    let identity = keys.identify(CONFIG.as_bytes()).unwrap();
    assert_eq!(identity.id.value(), 3);
    keys
}

/// The fixtures of a whole cluster, with the service's backend at the pod's address.
fn fixtures() -> Vec<(String, String)> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    vec![
        pair(
            "cilium/state/services/v1/cluster3/test/echo",
            &SERVICE.replace("10.244.1.1", "10.244.2.74"),
        ),
        pair("cilium/state/nodes/v1/cluster3/test-node-1", NODE),
        pair("cilium/state/ip/v1/default/10.244.2.74", ADDRESS),
        pair(
            "cilium/state/ip/v1/default/fd00:10:244::74",
            &ADDRESS.replace("10.244.2.74", "fd00:10:244::74"),
        ),
        pair("cilium/state/identities/v1/id/199475", LABELS),
    ]
}

fn apply(keys: &mut CiliumKeys, directory: &mut Directory) {
    let mut said = Said::default();
    keys.settle(&mut said);
    assert_eq!(said.faults, Vec::<String>::new());
    for change in said.changes {
        directory.apply(change);
    }
}

fn put(keys: &mut CiliumKeys, key: &str, value: &str) -> Said {
    let mut said = Said::default();
    keys.put(key, value.as_bytes(), &mut said);
    said
}

#[test]
fn a_pod_is_made_of_all_kinds_of_values() {
    let (mut keys, mut directory) = (admitted(), Directory::default());
    for (key, value) in fixtures() {
        assert_eq!(put(&mut keys, &key, &value).faults, Vec::<String>::new());
    }
    apply(&mut keys, &mut directory);
    let pod = directory.workloads().next().unwrap();
    assert_eq!(&*pod.uid.0, "cluster3//Pod/bar/cep-002");
    let ips: Vec<IpAddr> = vec![
        "10.244.2.74".parse().unwrap(),
        "fd00:10:244::74".parse().unwrap(),
    ];
    assert_eq!(pod.addresses, ips);
    assert_eq!(
        (pod.node.as_str(), pod.service_account.as_str()),
        ("test-node-1", "default")
    );
    assert_eq!(pod.labels.get("app").unwrap(), "baz");
    assert_eq!(pod.locality.zone, "zone1");
    assert_eq!(pod.hostname, "pod-0");
    assert_eq!(pod.tunnel_protocol, TunnelProtocol::None);
    let key = NamespacedName::new("test", "echo.test.svc.cluster.local");
    let mapping = pod.services.get(&key).unwrap()[0];
    assert_eq!((mapping.service_port, mapping.target_port), (80, 8080));
    let service = directory.service(&key).unwrap();
    assert!(service.sharing.global && service.sharing.shared);
    assert_eq!(
        service.addresses,
        ["10.96.50.104".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        (service.ports[0].port, service.ports[0].name.as_str()),
        (80, "http")
    );
    // And everything goes with its keys.
    let mut said = Said::default();
    for (key, _) in fixtures() {
        keys.delete(&key, &mut said);
    }
    apply(&mut keys, &mut directory);
    assert_eq!(
        (directory.workloads_len(), directory.services_len()),
        (0, 0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Also when some of them go and come again in between.
    #[test]
    fn order_of_values_does_not_matter(steps in prop::collection::vec((0..5_usize, any::<bool>()), 0..40)) {
        let fixtures = fixtures();
        let (mut keys, mut directory) = (admitted(), Directory::default());
        let mut said = Said::default();
        for (which, there) in steps {
            let (key, value) = &fixtures[which];
            if there { keys.put(key, value.as_bytes(), &mut said) } else { keys.delete(key, &mut said) }
            apply(&mut keys, &mut directory);
        }
        for (key, value) in &fixtures {
            keys.put(key, value.as_bytes(), &mut said);
            apply(&mut keys, &mut directory);
        }
        let (mut fresh, mut expected) = (admitted(), Directory::default());
        for (key, value) in fixtures.iter().rev() {
            fresh.put(key, value.as_bytes(), &mut said);
        }
        apply(&mut fresh, &mut expected);
        let all = |d: &Directory| {
            let mut pods: Vec<_> = d.workloads().cloned().collect();
            pods.sort_by(|a, b| a.uid.cmp(&b.uid));
            (pods, d.services().cloned().collect::<Vec<_>>())
        };
        prop_assert_eq!(all(&directory), all(&expected));
    }
}

#[test]
fn a_backend_without_a_pod_serves_as_well() {
    let (mut keys, mut directory) = (admitted(), Directory::default());
    put(
        &mut keys,
        "cilium/state/services/v1/cluster3/test/echo",
        SERVICE,
    );
    apply(&mut keys, &mut directory);
    let key = NamespacedName::new("test", "echo.test.svc.cluster.local");
    let uids = |d: &Directory| {
        d.endpoints(&key)
            .map(|w| w.uid.0.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(uids(&directory), ["cluster3/cilium/Backend/10.244.1.1"]);
    // Until the pod is known.
    let pod = ADDRESS.replace("10.244.2.74", "10.244.1.1");
    put(&mut keys, "cilium/state/ip/v1/default/10.244.1.1", &pod);
    apply(&mut keys, &mut directory);
    assert_eq!(uids(&directory), ["cluster3//Pod/bar/cep-002"]);
    assert_eq!(directory.workloads_len(), 1);
    // Scaled to nothing: the key stays, without backends.
    let empty = SERVICE.replace(
        r#""10.244.1.1":{"http":{"Protocol":"TCP","Port":8080}}"#,
        "",
    );
    put(
        &mut keys,
        "cilium/state/services/v1/cluster3/test/echo",
        &empty,
    );
    apply(&mut keys, &mut directory);
    assert_eq!(uids(&directory), Vec::<String>::new());
    assert_eq!(directory.services_len(), 1);
}

#[test]
fn values_must_be_those_of_their_keys() {
    let mut keys = admitted();
    let mut check = |key: &str, value: &str, part: &str| {
        let said = put(&mut keys, key, value);
        assert_eq!(said.faults_count, 1, "{key} {value}");
        assert!(said.faults[0].contains(part), "{:?}", said.faults);
    };
    let services = "cilium/state/services/v1";
    check(
        &format!("{services}/cluster3/test/echo"),
        "{",
        "not readable",
    );
    check(
        &format!("{services}/cluster3/test/other"),
        SERVICE,
        "belongs to cluster3/test/echo",
    );
    check(
        &format!("{services}/cluster4/test/echo"),
        SERVICE,
        "belongs to",
    );
    let foreign = SERVICE.replace("\"clusterID\":3", "\"clusterID\":4");
    check(
        &format!("{services}/cluster3/test/echo"),
        &foreign,
        "cluster id 4: expected 3",
    );
    check(
        "cilium/state/nodes/v1/cluster3/x",
        NODE,
        "belongs to cluster3/test-node-1",
    );
    check(
        "cilium/state/ip/v1/default/10.244.2.75",
        ADDRESS,
        "belongs to 10.244.2.74",
    );
    let foreign = ADDRESS.replace("199475", "262400");
    check(
        "cilium/state/ip/v1/default/10.244.2.74",
        &foreign,
        "cluster id 4: expected 3",
    );
    for number in ["262400", "196700", "x", "-1"] {
        check(
            &format!("cilium/state/identities/v1/id/{number}"),
            LABELS,
            "no number of labels",
        );
    }
}

#[test]
fn clusters_that_cannot_be_read_are_refused() {
    let check = |config: &str, part: &str| {
        let mut keys = CiliumKeys::new(&"cluster3".parse().unwrap());
        let refusal = keys.identify(config.as_bytes()).unwrap_err();
        assert!(refusal.contains(part), "{refusal}");
    };
    check("{", "not readable");
    check("{}", "says id 0: expected 1-255");
    check(&CONFIG.replace("\"id\":3", "\"id\":256"), "says id 256");
    check(
        &CONFIG.replace("\"maxC", "\"cached\":true,\"maxC"),
        "KVStoreMesh",
    );
    check(
        &CONFIG.replace("services-and-endpointslices", "endpointslices-only"),
        "slices only",
    );
    let many = CONFIG
        .replace("255", "511")
        .replace("\"id\":3", "\"id\":300");
    assert!(
        CiliumKeys::new(&"cluster3".parse().unwrap())
            .identify(many.as_bytes())
            .is_ok()
    );
}

#[test]
fn only_marked_kinds_are_complete() {
    let mut keys = admitted();
    let mut said = Said::default();
    let mark = |kind: &str| format!("cilium/synced/cluster3/{kind}");
    for (key, value) in fixtures() {
        put(&mut keys, &key, &value);
    }
    keys.settle(&mut said);
    // The source starts anew with an empty etcd: nothing is gone.
    keys.begin_lists();
    assert!(!keys.finish_lists(true, &mut said));
    assert_eq!(keys.table.len(), 5);
    // A mark that comes later asks for another list.
    keys.put(&mark(keys::NODES), b"2026-01-01T00:00:00Z", &mut said);
    assert!(said.restart);
    keys.begin_lists();
    for kind in [
        "cilium/state/nodes/v1",
        "cilium/state/services/v1",
        "cilium/state/ip/v1/default",
    ] {
        keys.put(&mark(kind), b"2026-01-01T00:00:00Z", &mut said);
    }
    assert!(!keys.finish_lists(true, &mut said));
    // Labels are not marked, so they stay.
    assert_eq!((keys.table.len(), keys.view.labels_len()), (1, 1));
    let gone = Said::default();
    let mut gone = gone;
    keys.settle(&mut gone);
    assert!(
        gone.changes
            .iter()
            .any(|c| matches!(c, Change::WorkloadGone(_)))
    );
    // A list with holes proves nothing.
    keys.begin_lists();
    for kind in keys::KINDS {
        keys.put(&mark(kind), b"x", &mut said);
    }
    assert!(!keys.finish_lists(false, &mut said));
    assert_eq!(keys.table.len(), 1);
}
