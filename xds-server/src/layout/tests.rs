//! Keys and values, there and back.

use std::sync::Arc;

use super::*;
use crate::snapshot::tests::{service, workload};

fn tion() -> ClusterName {
    "koornacht".parse().unwrap()
}

#[test]
fn workloads_of_layout_1_are_read() {
    let check = |uid: &str, key: &str| {
        let mut pod = workload("a", "10.1.1.1", Some("web"));
        pod.uid = WorkloadUid(uid.into());
        let fact = Change::Workload(Arc::new(pod.clone()));
        let read = read_entry(key, &encode(&pod)).unwrap();
        assert_eq!(read, Entry::Facts(vec![fact]), "{key}");
    };
    check("koornacht//Pod/shop/web-0", "workloads/shop/web-0");
    check(
        "koornacht/discovery.k8s.io/EndpointSlice/shop/manual/192.0.2.7",
        "workloads/shop/EndpointSlice/manual/192.0.2.7",
    );
}

#[test]
fn values_go_there_and_back() {
    let check = |key: &str, value: Bytes, expected: Entry| {
        assert_eq!(read_entry(key, &value).unwrap(), expected);
    };
    let web = service("web", "172.20.1.5");
    check(
        "services/shop/web",
        encode(&web),
        Entry::Facts(vec![Change::Service(Arc::new(web.clone()))]),
    );
    assert_eq!(service_key(&web.key()), "services/shop/web");
    check("heartbeat", Bytes::from("17"), Entry::Heartbeat(17));
    check("synced", Bytes::from("anything"), Entry::Synced);
    check("of-a-later-version", Bytes::from("?"), Entry::Unknown);
    let info = ClusterInfo {
        name: tion(),
        id: ClusterId::try_from(7).unwrap(),
        trust_domain: "t".parse().unwrap(),
        version: VERSION,
    };
    let json = r#"{"name":"koornacht","id":7,"trustDomain":"t","version":2}"#;
    assert_eq!(encode(&info), json);
    check("info", Bytes::from(json), Entry::Info(info));
}

#[test]
fn bad_values_are_refused_with_their_key() {
    let check = |key: &str, value: &[u8]| {
        let error = read_entry(key, value).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    };
    check("info", b"{}");
    check(
        "info",
        br#"{"name":"BAD","id":7,"trustDomain":"t","version":1}"#,
    );
    check("heartbeat", b"x");
    check("bundle", b"\xff\xfe");
    check("workloads/shop/a", b"[]");
    // A value under another's key would outlive its own deletion.
    check(
        "workloads/shop/b",
        &encode(&workload("a", "10.1.1.1", None)),
    );
    check("services/shop/b", &encode(&service("web", "172.20.1.5")));
    check("slices/shop/0-0", b"{}");
    let reference = br#"{"templates":[],"nodes":[],"endpoints":[{"n":"a"}]}"#;
    check("slices/shop/0-0", reference);
}
