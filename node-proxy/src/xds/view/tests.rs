use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationScope, TrustBundle, WorkloadUid,
};
use tulle_wire::{
    encode_authorization, encode_bundle, encode_service, encode_workload, pack,
    xds::{DeltaDiscoveryResponse, Resource},
};

use super::{Applied, RefuseResourceError, ResourceKind, View};
use crate::{
    testing::{pod, service, serving},
    xds::testing::{policy_resource, resource, service_resource, workload_resource},
};

fn response(resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn reasons(applied: &Applied) -> Vec<String> {
    applied
        .refused
        .iter()
        .map(|refused| format!("{}: {}", refused.name, refused.reason))
        .collect()
}

fn deny_all(namespace: &str) -> Authorization {
    Authorization {
        name: "p".to_owned(),
        namespace: namespace.to_owned(),
        scope: AuthorizationScope::Namespace,
        action: AuthorizationAction::Deny,
        rules: Vec::new(),
        dry_run: false,
    }
}

fn bundle_resource(domain: &str) -> Resource {
    let trust_domain = domain.parse().unwrap();
    let forge = tulle_identity::testing::Forge::new(&trust_domain).unwrap();
    let bundle = TrustBundle {
        trust_domain,
        roots_pem: forge.root_pem().to_owned(),
    };
    resource(
        domain,
        "3",
        pack(
            ResourceKind::TrustBundle.type_url(),
            &encode_bundle(&bundle),
        ),
    )
}

/// One resource of each sort.
fn full_view() -> View {
    let mut view = View::default();
    let rebel = service("default", "rebel-base", &["172.20.1.7"]);
    let key = rebel.key();
    let workload = serving(pod("koornacht", "default", "r", &["10.1.1.5"]), &key);
    let resources = vec![
        workload_resource(&workload, "1"),
        service_resource(&rebel, "2"),
    ];
    let applied = view.apply(ResourceKind::Address, &response(resources, &[]));
    assert_eq!((applied.accepted, applied.refused.len()), (2, 0));
    assert!(applied.touched.services.contains(&key));
    assert_eq!(applied.touched.addresses.len(), 1);
    let policies = response(vec![policy_resource(&deny_all("default"), "")], &[]);
    assert!(
        view.apply(ResourceKind::Authorization, &policies)
            .touched
            .everything
    );
    let bundles = response(vec![bundle_resource("tion.tulle")], &[]);
    let applied = view.apply(ResourceKind::TrustBundle, &bundles);
    assert_eq!(reasons(&applied), Vec::<String>::new());
    view
}

#[test]
fn all_types_are_applied() {
    let view = full_view();
    assert_eq!(view.len(), 4);
    let key = "default/rebel-base.default.svc.cluster.local"
        .parse()
        .unwrap();
    assert_eq!(view.directory().endpoints(&key).count(), 1);
    assert_eq!(
        view.initial_versions(ResourceKind::Address),
        BTreeMap::from([
            (
                "default/rebel-base.default.svc.cluster.local".to_owned(),
                "2".to_owned()
            ),
            ("koornacht//Pod/default/r".to_owned(), "1".to_owned()),
        ])
    );
}

/// A hundred thousand copies of them would cost more than all else that is known of an address.
#[test]
fn workloads_of_a_namespace_share_its_labels() {
    let mut view = View::default();
    let labelled = |cluster: &str, name: &str, value: &str| {
        let mut workload = pod(cluster, "default", name, &["10.1.1.5"]);
        let labels = [("team".into(), value.into())];
        workload.namespace_labels = Arc::new(labels.into_iter().collect());
        workload_resource(&workload, "1")
    };
    let resources = vec![
        labelled("koornacht", "a", "red"),
        labelled("koornacht", "b", "red"),
        labelled("tion", "c", "red"),
        labelled("koornacht", "d", "blue"),
        labelled("koornacht", "e", "blue"),
    ];
    let applied = view.apply(ResourceKind::Address, &response(resources, &[]));
    assert_eq!(applied.accepted, 5);
    let labels = |cluster: &str, name: &str| {
        let uid = WorkloadUid::of_pod(&cluster.parse().unwrap(), "default", name);
        let workload = view.directory().workload(&uid).unwrap();
        Arc::clone(&workload.namespace_labels)
    };
    let (a, d) = (labels("koornacht", "a"), labels("koornacht", "d"));
    assert!(Arc::ptr_eq(&a, &labels("koornacht", "b")));
    assert!(Arc::ptr_eq(&d, &labels("koornacht", "e")));
    // Another cluster's namespace is another, and later labels are not given to who came earlier.
    assert!(!Arc::ptr_eq(&a, &labels("tion", "c")));
    assert_ne!(a, d);
}

#[test]
fn all_types_are_removed() {
    let mut view = full_view();
    let key = "default/rebel-base.default.svc.cluster.local"
        .parse()
        .unwrap();
    let gone = [
        "koornacht//Pod/default/r",
        "default/rebel-base.default.svc.cluster.local",
        "x/y",
    ];
    let applied = view.apply(ResourceKind::Address, &response(Vec::new(), &gone));
    assert_eq!(applied.removed, 2);
    assert!(applied.touched.services.contains(&key));
    view.apply(
        ResourceKind::Authorization,
        &response(Vec::new(), &["default/p"]),
    );
    view.apply(
        ResourceKind::TrustBundle,
        &response(Vec::new(), &["tion.tulle"]),
    );
    assert!(view.is_empty());
    let directory = view.directory();
    assert_eq!(
        directory.workloads().count() + directory.services().count(),
        0
    );
    assert_eq!(
        directory.policies().count() + directory.bundles().count(),
        0
    );
}

#[test]
fn good_resources_of_a_bad_response_are_applied_and_bad_ones_named() {
    let mut view = View::default();
    let good = pod("koornacht", "default", "good", &["10.1.1.5"]);
    let bad = pod("koornacht", "default", "bad", &["10.1.1.6"]);
    let mut broken = workload_resource(&bad, "1");
    broken.resource.as_mut().unwrap().value = vec![0xff];
    let mut empty = workload_resource(&bad, "1");
    empty.name = "empty".to_owned();
    empty.resource = None;
    let mut other_type = workload_resource(&bad, "1");
    other_type.name = "other-type".to_owned();
    other_type.resource.as_mut().unwrap().type_url = "type.googleapis.com/x".to_owned();
    let mut other_name = workload_resource(&bad, "1");
    other_name.name = "other-name".to_owned();
    let mut nameless = workload_resource(&bad, "1");
    nameless.name = String::new();
    let twice = workload_resource(&good, "2");
    let resources = vec![
        broken,
        empty,
        other_type,
        other_name,
        nameless,
        workload_resource(&good, "1"),
        twice,
    ];
    let applied = view.apply(ResourceKind::Address, &response(resources, &[]));
    assert_eq!(applied.accepted, 1);
    assert_eq!(applied.refused.len(), 6);
    let reasons = reasons(&applied).join("\n");
    for expected in [
        "koornacht//Pod/default/bad: the bytes",
        "empty: the resource has no content",
        "other-type: the content is of type \"type.googleapis.com/x\"",
        "other-name: the content is named \"koornacht//Pod/default/bad\"",
        "koornacht//Pod/default/good: the response holds this name twice",
    ] {
        assert!(reasons.contains(expected), "{expected} in {reasons}");
    }
    assert!(
        applied
            .refused
            .iter()
            .any(|refused| refused.reason == RefuseResourceError::Name)
    );
    assert_eq!(
        view.versions(ResourceKind::Address).collect::<Vec<_>>(),
        [("koornacht//Pod/default/good", "1")]
    );
}

#[test]
fn a_refused_change_keeps_what_was_there() {
    let mut view = View::default();
    let workload = pod("koornacht", "default", "a", &["10.1.1.5"]);
    view.apply(
        ResourceKind::Address,
        &response(vec![workload_resource(&workload, "1")], &[]),
    );
    let mut broken = workload_resource(&workload, "2");
    broken.resource.as_mut().unwrap().value = vec![0xff];
    view.apply(ResourceKind::Address, &response(vec![broken], &[]));
    assert!(view.directory().workload(&workload.uid).is_some());
    assert_eq!(view.versions(ResourceKind::Address).next().unwrap().1, "1");
}

#[test]
fn removed_and_present_in_one_response_is_present() {
    let mut view = View::default();
    let workload = pod("koornacht", "default", "a", &["10.1.1.5"]);
    let first = response(vec![workload_resource(&workload, "1")], &[]);
    view.apply(ResourceKind::Address, &first);
    let both = response(
        vec![workload_resource(&workload, "2")],
        &["koornacht//Pod/default/a"],
    );
    view.apply(ResourceKind::Address, &both);
    assert!(view.directory().workload(&workload.uid).is_some());
    assert_eq!(view.len(), 1);
}

#[test]
fn versions_can_be_forgotten_without_the_names() {
    let mut view = View::default();
    let workload = pod("koornacht", "default", "a", &["10.1.1.5"]);
    view.apply(
        ResourceKind::Address,
        &response(vec![workload_resource(&workload, "1")], &[]),
    );
    let view = view.without_versions();
    assert_eq!(
        view.versions(ResourceKind::Address).next(),
        Some(("koornacht//Pod/default/a", ""))
    );
}

proptest! {
    /// Any history of resources, good and bad, of two kinds under one type, and of removals.
    #[test]
    fn versions_name_what_is_held(
        history in prop::collection::vec(
            prop::collection::vec((0..4_u8, 0..4_u8, any::<bool>()), 0..6), 0..10),
    ) {
        let mut view = View::default();
        for batch in &history {
            let mut resources = Vec::new();
            let mut removed = Vec::new();
            for (number, what, good) in batch {
                let workload = pod("koornacht", "default", &format!("p{number}"), &["10.1.1.5"]);
                let own = service("default", &format!("s{number}"), &[]);
                match what {
                    0 => removed.push(workload.uid.0.to_string()),
                    1 => removed.push(own.key().to_string()),
                    2 => {
                        let mut resource = workload_resource(&workload, "v");
                        if !good { resource.resource = None; }
                        resources.push(resource);
                    }
                    _ => {
                        let mut resource = service_resource(&own, "v");
                        if !good { resource.name = "default/other".to_owned(); }
                        resources.push(resource);
                    }
                }
            }
            let response = DeltaDiscoveryResponse {
                resources, removed_resources: removed, ..DeltaDiscoveryResponse::default()
            };
            let before = view.clone();
            let applied = view.apply(ResourceKind::Address, &response);
            prop_assert!(applied.refused.len() + applied.accepted == response.resources.len());
            let named: BTreeSet<String> =
                view.versions(ResourceKind::Address).map(|(name, _)| name.to_owned()).collect();
            let directory = view.directory();
            let held: BTreeSet<String> = directory.workloads().map(|w| w.uid.0.to_string())
                .chain(directory.services().map(|s| s.key().to_string())).collect();
            prop_assert_eq!(view.count(ResourceKind::Address), named.len());
            prop_assert_eq!(named, held);
            // Snapshots taken before are not disturbed.
            prop_assert_eq!(before.directory().workloads().count() + before.directory().services().count(), before.len());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3_usize) {
        let kind = ResourceKind::ALL[kind];
        let mut resource = resource("x", "1", pack(kind.type_url(), &encode_bundle(&TrustBundle {
            trust_domain: "x".parse().unwrap(), roots_pem: String::new(),
        })));
        resource.resource.as_mut().unwrap().value = bytes;
        let _applied = View::default().apply(kind, &response(vec![resource], &[]));
    }
}

#[test]
fn names_on_the_wire_are_those_of_the_model() {
    let workload = pod("koornacht", "default", "a", &["10.1.1.5"]);
    assert_eq!(workload.uid, WorkloadUid("koornacht//Pod/default/a".into()));
    let body = encode_workload(&workload);
    assert!(body != encode_service(&service("default", "a", &[])));
    for kind in ResourceKind::ALL {
        assert_eq!(ResourceKind::of_type_url(kind.type_url()), Some(kind));
    }
    assert_eq!(ResourceKind::of_type_url("type.googleapis.com/x"), None);
    let policy = Authorization {
        name: "p".to_owned(),
        namespace: "n".to_owned(),
        scope: AuthorizationScope::Global,
        action: AuthorizationAction::Allow,
        rules: Vec::new(),
        dry_run: true,
    };
    assert_eq!(encode_authorization(&policy).name, "p");
}
