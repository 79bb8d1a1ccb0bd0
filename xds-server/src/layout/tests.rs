//! Keys and values, there and back.

use std::sync::Arc;

use super::*;
use crate::snapshot::tests::{service, workload};

fn tion() -> ClusterName {
    "koornacht".parse().unwrap()
}

#[test]
fn workload_keys_go_there_and_back() {
    let check = |uid: &str, key: &str| {
        let uid = WorkloadUid(uid.into());
        assert_eq!(workload_key(&uid), key);
        let back = read_deletion(&tion(), key).unwrap();
        assert_eq!(back, Some(Change::WorkloadGone(uid)));
    };
    check("koornacht//Pod/shop/web-0", "workloads/shop/web-0");
    check("koornacht//Pod/shop/web.0", "workloads/shop/web.0");
    check(
        "koornacht/discovery.k8s.io/EndpointSlice/shop/manual/192.0.2.7",
        "workloads/shop/EndpointSlice/manual/192.0.2.7",
    );
    check(
        "koornacht/discovery.k8s.io/EndpointSlice/shop/manual/fd00::7",
        "workloads/shop/EndpointSlice/manual/fd00::7",
    );
}

#[test]
fn values_go_there_and_back() {
    let check = |key: &str, value: Bytes, expected: Entry| {
        assert_eq!(read_entry(key, &value).unwrap(), expected);
    };
    let pod = workload("a", "10.1.1.1", Some("web"));
    let change = Change::Workload(Arc::new(pod.clone()));
    check("workloads/shop/a", encode(&pod), Entry::Fact(change));
    let web = service("web", "172.20.1.5");
    check(
        "services/shop/web",
        encode(&web),
        Entry::Fact(Change::Service(Arc::new(web.clone()))),
    );
    assert_eq!(service_key(&web.key()), "services/shop/web");
    let gone = read_deletion(&tion(), "services/shop/web").unwrap();
    assert_eq!(gone, Some(Change::ServiceGone(web.key())));
    check("heartbeat", Bytes::from("17"), Entry::Heartbeat(17));
    check("synced", Bytes::from("anything"), Entry::Synced);
    check("of-a-later-version", Bytes::from("?"), Entry::Unknown);
    let info = ClusterInfo {
        name: tion(),
        id: ClusterId::try_from(7).unwrap(),
        trust_domain: "t".parse().unwrap(),
        version: VERSION,
    };
    let json = r#"{"name":"koornacht","id":7,"trustDomain":"t","version":1}"#;
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
    assert!(read_deletion(&tion(), "workloads/x").is_err());
    assert!(read_deletion(&tion(), "services/x").is_err());
    assert_eq!(read_deletion(&tion(), "heartbeat").unwrap(), None);
}
