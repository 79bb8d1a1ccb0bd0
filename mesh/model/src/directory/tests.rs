//! The directory against a naive one that searches lists, and what a change costs.

mod cost;
mod naive;

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::select};

use super::{Change, Directory};
use crate::{
    Authorization, AuthorizationAction, AuthorizationScope, NamespacedName, Service, TrustBundle,
    Workload, WorkloadUid,
};
use naive::{Naive, check_agreement};

fn workload(uid: &str, addresses: &[u8], services: &[u8], host_network: bool) -> Workload {
    let stored = serde_json::json!({
        "uid": uid, "name": "p", "namespace": "ns", "service_account": "sa", "trust_domain": "td", "cluster": "c",
        "node": "n", "addresses": addresses.iter().map(|n| format!("10.0.0.{n}")).collect::<Vec<_>>(),
        "host_network": host_network,
        "services": services.iter().map(|n| (format!("ns/s{n}"), Vec::<u8>::new()))
            .collect::<std::collections::BTreeMap<_, _>>(),
    });
    serde_json::from_value(stored).unwrap()
}

fn service(name: u8, vips: &[u8]) -> Service {
    let stored = serde_json::json!({
        "name": "s", "namespace": "ns", "hostname": format!("s{name}"),
        "addresses": vips.iter().map(|n| format!("172.20.0.{n}")).collect::<Vec<_>>(),
    });
    serde_json::from_value(stored).unwrap()
}

fn policy(namespace: &str, name: &str, scope: AuthorizationScope) -> Authorization {
    Authorization {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scope,
        action: AuthorizationAction::Deny,
        rules: Vec::new(),
        dry_run: false,
    }
}

fn bundle(domain: &str, roots_pem: &str) -> TrustBundle {
    TrustBundle {
        trust_domain: domain.parse().unwrap(),
        roots_pem: roots_pem.to_owned(),
    }
}

const UIDS: [&str; 5] = [
    "a//Pod/ns/x",
    "a//Pod/ns/y",
    "b//Pod/ns/x",
    "a/networking.istio.io/WorkloadEntry/ns/w",
    "NetworkGateway/n/1/2",
];
const SCOPES: [AuthorizationScope; 3] = [
    AuthorizationScope::Global,
    AuthorizationScope::Namespace,
    AuthorizationScope::WorkloadSelector,
];

/// Few names and addresses, so that changes meet each other.
fn change() -> impl Strategy<Value = Change> {
    let uid = || select(UIDS.to_vec());
    let key = || (select(vec!["ns", "other"]), "[pq]");
    prop_oneof![
        4 => (uid(), vec(0..3u8, 0..3), vec(0..3u8, 0..3), any::<bool>()).prop_map(|(uid, ips, services, host)| {
            Change::Workload(Arc::new(workload(uid, &ips, &services, host)))
        }),
        2 => uid().prop_map(|uid| Change::WorkloadGone(WorkloadUid(uid.into()))),
        2 => (0..3u8, vec(0..3u8, 0..3)).prop_map(|(name, vips)| Change::Service(Arc::new(service(name, &vips)))),
        1 => (0..3u8).prop_map(|name| Change::ServiceGone(NamespacedName::new("ns", format!("s{name}")))),
        2 => (key(), select(SCOPES.to_vec()))
            .prop_map(|((ns, name), scope)| Change::Policy(Arc::new(policy(ns, &name, scope)))),
        1 => key().prop_map(|(ns, name)| Change::PolicyGone(NamespacedName::new(ns, name))),
        1 => ("[ab]", "[xy]").prop_map(|(domain, pem)| Change::Bundle(Arc::new(bundle(&domain, &pem)))),
        1 => "[ab]".prop_map(|domain| Change::BundleGone(domain.parse().unwrap())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// After any history, every look-up answers what a search through all of it would.
    #[test]
    fn directory_indexes_agree(history in vec(change(), 0..40)) {
        let mut directory = Directory::default();
        let mut naive = Naive::default();
        for change in history {
            directory.apply(change.clone());
            naive.apply(change);
            check_agreement(&directory, &naive)?;
        }
    }

    /// A snapshot that somebody holds never changes under them.
    #[test]
    fn a_clone_is_a_snapshot(before in vec(change(), 0..20), after in vec(change(), 0..20)) {
        let mut directory = Directory::default();
        let mut naive = Naive::default();
        for change in before {
            directory.apply(change.clone());
            naive.apply(change);
        }
        let snapshot = directory.clone();
        for change in after {
            directory.apply(change);
        }
        check_agreement(&snapshot, &naive)?;
    }

    /// After everything is gone, no index holds anything: nothing leaks over a long life.
    #[test]
    fn an_emptied_directory_is_empty(history in vec(change(), 0..40)) {
        let mut directory = Directory::default();
        for change in history {
            directory.apply(change);
        }
        let gone: Vec<Change> = directory.workloads().map(|w| Change::WorkloadGone(w.uid.clone()))
            .chain(directory.services().map(|s| Change::ServiceGone(s.key())))
            .chain(directory.policies().map(|p| Change::PolicyGone(p.key())))
            .collect();
        for change in gone {
            directory.apply(change);
        }
        prop_assert!(directory.by_address.is_empty() && directory.by_vip.is_empty());
        prop_assert!(directory.endpoints.is_empty() && directory.namespace_policies.is_empty());
        prop_assert!(directory.global_policies.is_empty());
    }
}

fn owner(workloads: &[Workload]) -> Option<String> {
    let mut directory = Directory::default();
    for workload in workloads {
        directory.apply(Change::Workload(Arc::new(workload.clone())));
    }
    directory
        .workload_at("10.0.0.1".parse().unwrap())
        .map(|w| w.uid.0.to_string())
}

#[test]
fn of_two_owners_of_an_address_the_pod_wins() {
    let entry = workload("a/networking.istio.io/WorkloadEntry/ns/w", &[1], &[], false);
    let pod = workload("z//Pod/ns/x", &[1], &[], false);
    assert_eq!(
        owner(std::slice::from_ref(&entry)),
        Some(entry.uid.0.to_string())
    );
    assert_eq!(
        owner(&[entry.clone(), pod.clone()]),
        Some(pod.uid.0.to_string())
    );
    assert_eq!(owner(&[pod.clone(), entry]), Some(pod.uid.0.to_string()));
}

/// Its address is its node's: every other pod of the host network there has it too.
#[test]
fn a_pod_of_the_host_network_owns_no_address() {
    let host = workload("a//Pod/ns/host", &[1], &[0], true);
    assert_eq!(owner(std::slice::from_ref(&host)), None);
    let mut directory = Directory::default();
    directory.apply(Change::Workload(Arc::new(host)));
    assert_eq!(
        directory
            .endpoints(&NamespacedName::new("ns", "s0"))
            .count(),
        1,
        "but it serves"
    );
}

/// An address that moved belongs to the one that has it now, in whatever order the news come.
#[test]
fn an_address_moves_with_its_pod() {
    let ip = "10.0.0.1".parse().unwrap();
    let old = || workload("a//Pod/ns/x", &[1], &[], false);
    let new = || workload("a//Pod/ns/y", &[1], &[], false);
    let owner_after = |changes: [Change; 3]| {
        let mut directory = Directory::default();
        changes
            .into_iter()
            .for_each(|change| directory.apply(change));
        directory.workload_at(ip).map(|w| w.uid.0.to_string())
    };
    let gone = || Change::WorkloadGone(old().uid);
    let put_old = || Change::Workload(Arc::new(old()));
    let put_new = || Change::Workload(Arc::new(new()));
    assert_eq!(
        owner_after([put_old(), gone(), put_new()]).as_deref(),
        Some("a//Pod/ns/y")
    );
    assert_eq!(
        owner_after([put_old(), put_new(), gone()]).as_deref(),
        Some("a//Pod/ns/y")
    );
}
