//! Truth tables (what a person expects, row by row) and properties (what holds for every mix).

mod properties;
mod rules;
mod spill;
mod table;

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::select};
use tulle_model::{
    Affinity, Health, Locality, Service, Sharing, SmallMap, Text, TunnelProtocol, Workload,
    WorkloadKind, WorkloadUid,
};

use super::{Viewpoint, select_endpoints};
use crate::Ejected;

/// The client is at node 1 of cluster a.
///
/// An endpoint is written as its cluster, its node, and marks: `-` unhealthy, `~` demoted, `!` without address.
fn endpoint(text: &str) -> Arc<Workload> {
    let has = |mark: char| text.contains(mark);
    Arc::new(Workload {
        uid: WorkloadUid(text.into()),
        name: text.to_owned(),
        namespace: "default".into(),
        service_account: "default".into(),
        trust_domain: "cluster.local".parse().unwrap(),
        cluster: text[0..1].parse().unwrap(),
        node: text[1..2].into(),
        addresses: if has('!') {
            Vec::new()
        } else {
            vec![[10, 0, 0, 1].into()]
        },
        hostname: Text::default(),
        labels: SmallMap::new(),
        locality: Locality::default(),
        canonical_name: Text::default(),
        canonical_revision: Text::default(),
        kind: WorkloadKind::Pod,
        owner_name: Text::default(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: if has('-') {
            Health::Unhealthy
        } else {
            Health::Healthy
        },
        host_network: false,
        services: SmallMap::new(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: Arc::default(),
        named_ports: SmallMap::new(),
        demoted: has('~'),
    })
}

fn service(affinity: Affinity, publish_not_ready: bool) -> Service {
    Service {
        name: "s".to_owned(),
        namespace: "default".to_owned(),
        hostname: "s.default.svc.cluster.local".to_owned(),
        addresses: Vec::new(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        sharing: Sharing {
            global: true,
            shared: true,
            affinity,
        },
        publish_not_ready,
        ..Service::default()
    }
}

fn selection(service: &Service, endpoints: &[Arc<Workload>]) -> Vec<String> {
    let cluster = "a".parse().unwrap();
    let from = Viewpoint {
        cluster: &cluster,
        node: "1",
        locality: &Locality::default(),
    };
    let selected = select_endpoints(from, service, endpoints.iter(), &Ejected::none(), |_| None);
    selected
        .into_iter()
        .map(|endpoint| endpoint.uid.0.to_string())
        .collect()
}

fn check(affinity: Affinity, publish_not_ready: bool, rows: &[(&str, &str)]) {
    for (given, expected) in rows {
        let endpoints: Vec<_> = given.split_whitespace().map(endpoint).collect();
        let found = selection(&service(affinity, publish_not_ready), &endpoints);
        assert_eq!(found.join(" "), *expected, "{affinity:?} of {given}");
    }
}

#[test]
fn affinity_none_takes_all_alike() {
    let rows = [
        ("", ""),
        ("a1", "a1"),
        ("a1 a2 b1 b2", "a1 a2 b1 b2"),
        ("b2 a1 b1 a2", "b2 a1 b1 a2"),
        ("a1 b1 c1", "a1 b1 c1"),
        ("a1- b1", "b1"),
        ("a1 b1-", "a1"),
        ("a1- b1-", ""),
        // Demoted ones only when nothing else is left.
        ("a1 b1~", "a1"),
        ("a1- b1~", "b1~"),
        ("a1 b1~ c1", "a1 c1"),
        ("a1- b1~ c1~", "b1~ c1~"),
        ("b1~- b2~", "b2~"),
        ("b1~-", ""),
    ];
    check(Affinity::None, false, &rows);
}

#[test]
fn affinity_local_takes_the_own_cluster_while_one_is_healthy_there() {
    let rows = [
        ("", ""),
        ("a1 a2 b1", "a1 a2"),
        ("b1 a2 b2 a1", "a2 a1"),
        ("a1- a2 b1", "a2"),
        ("a1- a2- b1 b2", "b1 b2"),
        ("a1- b1 c1", "b1 c1"),
        ("a1- b1- c1", "c1"),
        ("b1 b2-", "b1"),
        ("a1- b1-", ""),
        ("a1 b1~", "a1"),
        ("a1- b1~", "b1~"),
        ("a1- b1~ c1", "c1"),
        ("a1- b1~ c1-", "b1~"),
        // The own cluster seen as silent by its own merge: others first, then it.
        ("a1~ b1", "b1"),
        ("a1~ b1~", "a1~"),
        ("a1~ b1-", "a1~"),
    ];
    check(Affinity::Local, false, &rows);
}

#[test]
fn affinity_remote_takes_other_clusters_while_one_is_healthy_there() {
    let rows = [
        ("", ""),
        ("a1 a2 b1", "b1"),
        ("a1 b1 c1", "b1 c1"),
        ("a1 b1- c1", "c1"),
        ("a1 a2- b1- c1-", "a1"),
        ("a1 a2", "a1 a2"),
        ("a1- b1-", ""),
        // A silent remote cluster is not to be preferred to a living own one.
        ("a1 b1~", "a1"),
        ("a1 b1~ c1", "c1"),
        ("a1- b1~", "b1~"),
        ("a1~ b1~", "b1~"),
    ];
    check(Affinity::Remote, false, &rows);
}

#[test]
fn affinity_local_node_takes_node_then_cluster_then_others() {
    let rows = [
        ("", ""),
        ("a1 a2 b1 b2", "a1"),
        ("a2 a1 a1 b1", "a1 a1"),
        ("a1- a2 b1", "a2"),
        ("a1- a2 a3 b1", "a2 a3"),
        ("a1- a2- b1 b2", "b1 b2"),
        ("a1- a2- b1- c2", "c2"),
        ("a1- a2- b1-", ""),
        // A node of the same name in another cluster is another node.
        ("a2 b1", "a2"),
        ("b1 b2", "b1 b2"),
        ("a1~ a2", "a2"),
        ("a1- a2~ b1", "b1"),
        ("a1- a2~ b1~", "a2~"),
        ("a1- b1~ c1", "c1"),
    ];
    check(Affinity::LocalNode, false, &rows);
}

#[test]
fn unready_endpoints_serve_if_the_service_says_so() {
    let rows = [
        ("a1- b1", "a1- b1"),
        ("a1-", "a1-"),
        ("a1- b1~-", "a1-"),
        ("a1! b1-", "b1-"),
    ];
    check(Affinity::None, true, &rows);
    check(
        Affinity::Local,
        true,
        &[("a1- a2 b1", "a1- a2"), ("b1-", "b1-"), ("a1~- b1-", "b1-")],
    );
    check(
        Affinity::Remote,
        true,
        &[("a1 b1-", "b1-"), ("a1 b1~", "a1")],
    );
    check(
        Affinity::LocalNode,
        true,
        &[("a1- a2 b1", "a1-"), ("a2- b1", "a2-")],
    );
}

/// A pod that has no address yet would swallow connections, and hide others behind it.
#[test]
fn an_endpoint_without_address_is_not_usable() {
    check(Affinity::None, false, &[("a1! b1", "b1"), ("a1!", "")]);
    check(
        Affinity::Local,
        false,
        &[("a1! b1", "b1"), ("a1! a2 b1", "a2")],
    );
    check(Affinity::LocalNode, false, &[("a1! a2 b1", "a2")]);
}

/// One endpoint in each place, each in every state, under every affinity: against the rule read word by word.
#[test]
fn every_state_of_three_places_follows_the_rule() {
    let states = ["", "-", "~", "-~", "!"];
    for affinity in AFFINITIES {
        let order: &[&[&str]] = match affinity {
            Affinity::None => &[&["a1", "a2", "b1"]],
            Affinity::Local => &[&["a1", "a2"], &["b1"]],
            Affinity::Remote => &[&["b1"], &["a1", "a2"]],
            Affinity::LocalNode => &[&["a1"], &["a2"], &["b1"]],
        };
        for (x, y, z) in triples(&states) {
            let given = [format!("a1{x}"), format!("a2{y}"), format!("b1{z}")];
            let pick = |mark: &str| {
                let alive = |tier: &&[&str]| -> Vec<String> {
                    let wanted = |e: &&String| tier.contains(&&e[..2]) && e[2..] == *mark;
                    given.iter().filter(wanted).cloned().collect()
                };
                order.iter().map(alive).find(|tier| !tier.is_empty())
            };
            let expected = pick("").or_else(|| pick("~")).unwrap_or_default();
            check(
                affinity,
                false,
                &[(given.join(" ").as_str(), expected.join(" ").as_str())],
            );
        }
    }
}

fn triples<'a>(states: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    let pairs = states
        .iter()
        .flat_map(move |x| states.iter().map(move |y| (*x, *y)));
    pairs.flat_map(move |(x, y)| states.iter().map(move |z| (x, y, *z)))
}

const AFFINITIES: [Affinity; 4] = [
    Affinity::None,
    Affinity::Local,
    Affinity::Remote,
    Affinity::LocalNode,
];

prop_compose! {
    fn any_endpoint()(text in "[abc][12]-?~?!?") -> Arc<Workload> {
        endpoint(&text)
    }
}

prop_compose! {
    fn any_service()(affinity in select(AFFINITIES.to_vec()), publish_not_ready in any::<bool>()) -> Service {
        service(affinity, publish_not_ready)
    }
}

proptest! {
    #[test]
    fn an_unhealthy_endpoint_never_serves_unless_published(
        affinity in select(AFFINITIES.to_vec()), endpoints in vec(any_endpoint(), 0..12),
    ) {
        let found = selection(&service(affinity, false), &endpoints);
        prop_assert!(found.iter().all(|uid| !uid.contains('-')), "{:?}", found);
    }

    #[test]
    fn empty_only_if_nothing_is_usable(service in any_service(), endpoints in vec(any_endpoint(), 0..12)) {
        let usable = |e: &Arc<Workload>| {
            let text = &e.uid.0;
            !text.contains('!') && (service.publish_not_ready || !text.contains('-'))
        };
        prop_assert_eq!(selection(&service, &endpoints).is_empty(), !endpoints.iter().any(usable));
    }

    #[test]
    fn a_demoted_endpoint_serves_only_beside_its_like(
        service in any_service(), endpoints in vec(any_endpoint(), 0..12),
    ) {
        let found = selection(&service, &endpoints);
        let demoted = found.iter().filter(|uid| uid.contains('~')).count();
        prop_assert!(demoted == 0 || demoted == found.len());
        if demoted > 0 {
            let fresh: Vec<_> = endpoints.iter().filter(|e| !e.demoted).cloned().collect();
            prop_assert!(selection(&service, &fresh).is_empty());
        }
    }

    #[test]
    fn the_order_of_the_input_is_kept(service in any_service(), endpoints in vec(any_endpoint(), 0..12)) {
        let mut all = endpoints.iter().map(|e| &e.uid.0);
        for uid in selection(&service, &endpoints) {
            prop_assert!(all.any(|next| **next == *uid), "{} is out of order or not of the input", uid);
        }
    }

    /// What serves does not depend on the order in which endpoints came.
    #[test]
    fn the_set_does_not_depend_on_the_order(
        service in any_service(), endpoints in vec(any_endpoint(), 0..12), turn in any::<prop::sample::Index>(),
    ) {
        let mut turned = endpoints.clone();
        if !turned.is_empty() {
            let by = turn.index(turned.len());
            turned.rotate_left(by);
        }
        let mut one = selection(&service, &endpoints);
        let mut other = selection(&service, &turned);
        one.sort();
        other.sort();
        prop_assert_eq!(one, other);
    }

    /// With `none` a healthy endpoint that is not demoted always serves.
    #[test]
    fn affinity_none_leaves_no_fresh_endpoint_out(endpoints in vec(any_endpoint(), 0..12)) {
        let fresh = |e: &&Arc<Workload>| e.uid.0.len() == 2;
        let found = selection(&service(Affinity::None, false), &endpoints);
        if endpoints.iter().any(|e| fresh(&e)) {
            prop_assert_eq!(found.len(), endpoints.iter().filter(fresh).count());
        }
    }
}
