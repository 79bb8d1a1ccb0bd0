//! Services of every form, and their annotations.

use tulle_model::{Affinity, Sharing};

use super::{super::service::annotations::sharing_of, *};

/// `annotations` as `key=value` words, keys shortened to their last part; the older spelling begins with `old-`.
fn check_sharing(words: &str, global: bool, shared: bool, affinity: Affinity, warned: usize) {
    let annotations: BTreeMap<String, String> = words
        .split_whitespace()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap();
            let key = match key.strip_prefix("old-") {
                Some(old) => format!("io.cilium/{old}"),
                None => format!("service.cilium.io/{key}"),
            };
            (key, value.to_owned())
        })
        .collect();
    let mut warnings = Vec::new();
    let sharing = sharing_of(&annotations, &mut warnings);
    assert_eq!(
        sharing,
        Sharing {
            global,
            shared,
            affinity
        },
        "{words}"
    );
    assert_eq!(warnings.len(), warned, "{words}: {warnings:?}");
}

#[test]
fn global_and_shared_in_both_spellings() {
    let check = |words: &str, global, shared, warned| {
        check_sharing(words, global, shared, Affinity::None, warned);
    };
    check("", false, false, 0);
    check("global=true", true, true, 0);
    check("global=True", true, true, 0);
    check("old-global-service=true", true, true, 0);
    check("global=false old-global-service=true", false, false, 0);
    check("global=yes", false, false, 1);
    check("global=true shared=false", true, false, 0);
    check("global=true old-shared-service=false", true, false, 0);
    check(
        "global=true shared=true old-shared-service=false",
        true,
        true,
        0,
    );
    check("global=true shared=no", true, false, 1);
    check("shared=true", false, false, 0);
}

#[test]
fn affinity_in_both_spellings() {
    let check = |words: &str, affinity, warned| {
        check_sharing(
            &format!("global=true {words}"),
            true,
            true,
            affinity,
            warned,
        );
    };
    check("affinity=none", Affinity::None, 0);
    check("affinity=", Affinity::None, 0);
    check("affinity=local", Affinity::Local, 0);
    check("affinity=local-cluster", Affinity::Local, 0);
    check("affinity=Remote", Affinity::Remote, 0);
    check("old-service-affinity=remote", Affinity::Remote, 0);
    check("affinity=local-node", Affinity::LocalNode, 0);
    check(
        "affinity=none old-service-affinity=local",
        Affinity::None,
        0,
    );
    check("affinity=nearest", Affinity::None, 1);
}

#[test]
fn warnings_name_the_service() {
    let mut catalog = catalog();
    catalog.apply([put(service(
        "web",
        json!({"service.cilium.io/affinity": "nearest"}),
    ))]);
    let warnings = catalog.warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].object, "Service shop/web");
    assert!(warnings[0].message.contains("\"nearest\""));
}

#[test]
fn services_of_every_form() {
    let check = |spec: Value, expected: Option<(usize, usize, u16)>| {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "shop"}, "spec": spec});
        let facts = catalog().apply([put(value)]);
        let found = facts.first().map(|f| match f {
            Change::Service(s) => (
                s.addresses.len(),
                s.ports.len(),
                s.ports.first().map_or(0, |p| p.target_port),
            ),
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected, "{spec}");
    };
    check(
        json!({"clusterIP": "172.20.1.5", "ports": [{"port": 80}]}),
        Some((1, 1, 80)),
    );
    check(
        json!({"clusterIP": "172.20.1.5", "clusterIPs": ["172.20.1.5", "fd00::5"], "ports": [{"port": 80, "targetPort": 8080}]}),
        Some((2, 1, 8080)),
    );
    check(
        json!({"clusterIP": "None", "ports": [{"port": 80, "targetPort": "http"}]}),
        Some((0, 1, 0)),
    );
    check(
        json!({"clusterIP": "172.20.1.5", "ports": [{"port": 80}, {"port": 70000}, {"port": 9, "protocol": "SCTP"}]}),
        Some((1, 1, 80)),
    );
    check(
        json!({"type": "ExternalName", "externalName": "example.org"}),
        Some((0, 0, 0)),
    );
    check(json!({"type": "ExternalName"}), None);
    check(
        json!({"type": "ExternalName", "externalName": "no such name"}),
        None,
    );
    check(json!(null), Some((0, 0, 0)));
}
