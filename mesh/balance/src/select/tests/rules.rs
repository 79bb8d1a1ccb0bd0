//! The rules beside affinity, row by row, and how they compose.

use std::{net::SocketAddr, sync::Arc};

use tulle_model::{
    Affinity, Failover, FailoverTarget, Health, Locality, Service, Sharing, SmallMap, Text,
    TrafficDistribution, TrafficPolicy, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use super::super::{Endpoint, Reason, SpillState, Verdict, Viewpoint, explain, select};
use crate::Ejected;

/// Endpoints in words: cluster, node, `@region/zone` if known, then marks: `-` not ready, `t` terminating, `~` its cluster
/// silent, `x` ejected, `0` of weight 0, `?` its cluster out of reach. The client is at node 1 of cluster a, in zone 1 of region eu.
pub(super) struct Scene {
    endpoints: Vec<(String, Arc<Workload>, SocketAddr)>,
    ejected: Ejected,
}

impl Scene {
    pub(super) fn new(words: &str, panic_percent: u8) -> Self {
        let numbered = (1u16..).zip(words.split_whitespace());
        let endpoints: Vec<_> = numbered.map(|(n, word)| endpoint(n, word)).collect();
        let out = endpoints
            .iter()
            .filter(|(word, ..)| marks(word).contains('x'));
        let lost = endpoints
            .iter()
            .filter(|(word, ..)| marks(word).contains('?'))
            .map(|(_, workload, _)| workload.cluster.clone());
        let ejected = Ejected::new(out.map(|(_, _, address)| *address), panic_percent)
            .with_clusters(lost.collect::<Vec<_>>());
        Scene { endpoints, ejected }
    }

    /// Who serves: words, with `*weight` where it is not 1.
    pub(super) fn serving(&self, service: &Service, state: &mut SpillState) -> String {
        let home = Home::default();
        let selection = select(home.viewpoint(), service, self.all(), &self.ejected, state);
        *state = selection.spill;
        let word = |address: SocketAddr| {
            let found = self.endpoints.iter().find(|(_, _, a)| *a == address);
            found.unwrap().0.clone()
        };
        let text = selection.serving.iter().map(|s| match s.weight {
            1 => word(s.address),
            weight => format!("{}*{weight}", word(s.address)),
        });
        text.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn verdicts(&self, service: &Service) -> Vec<Verdict> {
        let home = Home::default();
        let state = SpillState::default();
        let found = explain(home.viewpoint(), service, self.all(), &self.ejected, &state);
        found.into_iter().map(|(_, verdict)| verdict).collect()
    }

    fn all(&self) -> impl Iterator<Item = Endpoint<'_>> {
        let endpoints = self.endpoints.iter();
        endpoints.map(|(_, workload, address)| Endpoint {
            workload,
            address: *address,
        })
    }
}

struct Home {
    cluster: tulle_model::ClusterName,
    locality: Locality,
}

impl Default for Home {
    fn default() -> Self {
        Home {
            cluster: "a".parse().unwrap(),
            locality: locality("eu/1"),
        }
    }
}

impl Home {
    fn viewpoint(&self) -> Viewpoint<'_> {
        Viewpoint {
            cluster: &self.cluster,
            node: "1",
            locality: &self.locality,
        }
    }
}

fn locality(text: &str) -> Locality {
    let (region, zone) = text.split_once('/').unwrap();
    Locality {
        region: region.into(),
        zone: zone.into(),
        subzone: Text::default(),
    }
}

fn marks(word: &str) -> &str {
    &word[word
        .find(['-', 't', '~', 'x', '0', '?'])
        .unwrap_or(word.len())..]
}

fn endpoint(number: u16, word: &str) -> (String, Arc<Workload>, SocketAddr) {
    let has = |mark: char| marks(word).contains(mark);
    let place = &word[..word.len() - marks(word).len()];
    let address = SocketAddr::from(([10, 0, 0, 1], number));
    let workload = Workload {
        uid: WorkloadUid(format!("{word}#{number}").into()),
        name: word.to_owned(),
        namespace: "default".into(),
        service_account: "default".into(),
        trust_domain: "cluster.local".parse().unwrap(),
        cluster: place[0..1].parse().unwrap(),
        node: place[1..2].into(),
        addresses: vec![address.ip()],
        hostname: Text::default(),
        labels: SmallMap::new(),
        locality: place
            .split_once('@')
            .map(|(_, l)| locality(l))
            .unwrap_or_default(),
        canonical_name: Text::default(),
        canonical_revision: Text::default(),
        kind: WorkloadKind::Pod,
        owner_name: Text::default(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: match (has('-'), has('t')) {
            (true, _) => Health::Unhealthy,
            (false, true) => Health::Terminating,
            (false, false) => Health::Healthy,
        },
        host_network: false,
        services: SmallMap::new(),
        authorization_policies: Vec::new(),
        capacity: u32::from(!has('0')),
        namespace_labels: std::sync::Arc::default(),
        named_ports: tulle_model::SmallMap::new(),
        demoted: has('~'),
    };
    (word.to_owned(), Arc::new(workload), address)
}

pub(super) fn with_affinity(affinity: Affinity) -> Service {
    Service {
        name: "s".to_owned(),
        addresses: vec!["172.20.1.5".parse().unwrap()],
        sharing: Sharing {
            global: true,
            shared: true,
            affinity,
        },
        ..Service::default()
    }
}

pub(super) fn with_failover(order: &str, spill_at: u8) -> Service {
    let target = |word: &str| match word.strip_prefix('@') {
        Some(region) => FailoverTarget::Region(region.to_owned()),
        None => FailoverTarget::Cluster(word.parse().unwrap()),
    };
    Service {
        failover: Some(Failover {
            order: order.split_whitespace().map(target).collect(),
            spill_at,
        }),
        ..with_affinity(Affinity::None)
    }
}

fn check(service: &Service, rows: &[(&str, &str)]) {
    for (given, expected) in rows {
        let found = Scene::new(given, 50).serving(service, &mut SpillState::default());
        assert_eq!(found, *expected, "{given}, {service:?}");
    }
}

#[test]
fn leaving_endpoints_serve_only_when_nobody_else_does_in_any_living_cluster() {
    check(
        &with_affinity(Affinity::None),
        &[
            ("a1 a2t", "a1"),
            ("a1t b1", "b1"),
            ("a1t b1t", "a1t b1t"),
            ("a1t b1-", "a1t"),
            // One that is known to serve, if not for long, before one of which nothing is known.
            ("a1t b1~", "a1t"),
            ("a1- b1~ b2~t", "b1~"),
            ("b2~t", "b2~t"),
            // Weight 0 is the operator's word for leaving.
            ("a10 a2", "a2"),
            ("a10 b1", "b1"),
            ("a10 b1-", "a10"),
            ("a10 a2t", "a10 a2t"),
        ],
    );
    let local = with_affinity(Affinity::Local);
    check(
        &local,
        &[("a1t b1", "b1"), ("a1t b1t", "a1t"), ("a1 a2t b1", "a1")],
    );
    let published = Service {
        publish_not_ready: true,
        ..with_affinity(Affinity::None)
    };
    check(&published, &[("a1t a2- b1", "a1t a2- b1")]);
}

#[test]
fn ejected_endpoints_are_as_good_as_not_ready() {
    check(
        &with_affinity(Affinity::None),
        &[
            ("a1x b1", "b1"),
            ("a1 b1x c1", "a1 c1"),
            ("a1x b1t", "b1t"),
            ("a1x b1~", "b1~"),
        ],
    );
    check(
        &with_affinity(Affinity::Local),
        &[
            ("a1x b1", "b1"),
            ("a1x a2 b1", "a2"),
            ("a1x a2x b1x b1", "b1"),
        ],
    );
    check(
        &with_affinity(Affinity::Remote),
        &[("a1 b1x", "a1"), ("a1 b1x c1", "c1")],
    );
    check(
        &with_affinity(Affinity::LocalNode),
        &[("a1x a2 b1", "a2"), ("a1x a2x b1", "b1")],
    );
}

/// However many of the endpoints are there, and whichever of them was tried.
#[test]
fn a_cluster_out_of_reach_serves_only_where_nobody_else_does() {
    check(
        &with_affinity(Affinity::None),
        &[
            ("a1 b1? b2? b3?", "a1"),
            ("a1 b1x? b2? b3? b4? b5?", "a1"),
            ("a1- b1? b2?", "b1? b2?"),
            ("a1t b1?", "a1t"),
            ("a1- b1? c1", "c1"),
            ("b1? c1~", "b1? c1~"),
            // Who does not reach its own cluster is the sick one.
            ("a1? b1", "a1? b1"),
        ],
    );
    check(
        &with_affinity(Affinity::Remote),
        &[("a1 b1?", "a1"), ("a1- b1?", "b1?")],
    );
}

#[test]
fn with_too_many_ejected_all_are_used() {
    check(
        &with_affinity(Affinity::None),
        &[
            // Exactly the threshold is still believed.
            ("a1x a2", "a2"),
            ("a1x a2x a3", "a1x a2x a3"),
            ("a1x b1x c1", "a1x b1x c1"),
            ("a1x a2x", "a1x a2x"),
            ("a1x", "a1x"),
            // Not ready is told by the cluster itself: it is believed without limit.
            ("a1- a2- a3", "a3"),
            ("a1x a2x a3 a4-", "a1x a2x a3"),
        ],
    );
    check(
        &with_affinity(Affinity::Local),
        &[
            // Another cluster is well, so the network is: the ejections stand.
            ("a1x a2x a3 b1", "a3"),
            ("a1x a2x a3x b1", "b1"),
            // No group is well.
            ("a1x a2x a3 b1x", "a1x a2x a3"),
            ("a1x a2x b1x b2x b3", "b1x b2x b3"),
            ("a1x b1x", "a1x"),
            // What is known from hearsay only does not count as well.
            ("a1x a2x a3 b1~", "a1x a2x a3"),
        ],
    );
}

#[test]
fn traffic_policy_local_never_leaves_the_node() {
    let service = Service {
        internal_traffic_policy: TrafficPolicy::Local,
        ..with_affinity(Affinity::Remote)
    };
    check(
        &service,
        &[
            ("a1 a2 b1", "a1"),
            ("a2 b1", ""),
            ("a1- a2", ""),
            ("a1t a2", "a1t"),
            ("a1x a2", "a1x"),
            // A node of the same name in another cluster.
            ("b1", ""),
        ],
    );
    let headless = Service {
        addresses: Vec::new(),
        ..service
    };
    check(&headless, &[("a1 a2 b1", "b1"), ("a1 a2", "a1 a2")]);
}

#[test]
fn distance_grows_from_node_to_zone_to_region_to_cluster() {
    let places = ["a1@eu/1", "a2@eu/1", "b1@eu/2", "a3@us/1", "c1@us/1"];
    let mut node = with_affinity(Affinity::None);
    node.traffic_distribution = TrafficDistribution::PreferSameNode;
    for first in 0..places.len() {
        check(&node, &[(&places[first..].join(" "), places[first])]);
    }
    let mut zone = node;
    zone.traffic_distribution = TrafficDistribution::PreferSameZone;
    check(
        &zone,
        &[
            (&places.join(" "), "a1@eu/1 a2@eu/1"),
            // A zone is a zone, whosever cluster is in it.
            ("a2@eu/1 b1@eu/1 a3@eu/2", "a2@eu/1 b1@eu/1"),
            ("a1@eu/1- b1@eu/2 a3@us/1", "b1@eu/2"),
            // What is not known is not the same.
            ("a2 b1", "a2"),
            ("a2@eu/ b1@us/1", "a2@eu/"),
            ("a2@us/1 a3@us/2 b1@us/1", "a2@us/1 a3@us/2"),
        ],
    );
    let headless = Service {
        addresses: Vec::new(),
        ..zone
    };
    check(&headless, &[("a1@eu/1 b1@us/1", "a1@eu/1 b1@us/1")]);
}

#[test]
fn affinity_comes_before_distance() {
    let mut service = with_affinity(Affinity::Remote);
    service.traffic_distribution = TrafficDistribution::PreferSameZone;
    check(
        &service,
        &[
            ("a1@eu/1 b1@eu/1 b2@us/1", "b1@eu/1"),
            ("a1@eu/1 b2@us/1", "b2@us/1"),
            ("a1@eu/1 a2@eu/2", "a1@eu/1"),
        ],
    );
}

#[test]
fn failover_follows_its_order() {
    check(
        &with_failover("c a", 0),
        &[
            ("a1 b1 c1", "c1"),
            ("a1 b1 c1-", "a1"),
            ("a1x b1 c1-", "b1"),
            ("b1", "b1"),
            // All-or-nothing without a threshold.
            ("c1 c2- c3- a1", "c1"),
        ],
    );
    check(
        &with_failover("@eu c", 0),
        &[
            ("a1@us/1 b1@eu/9 c1@us/1", "b1@eu/9"),
            ("a1@us/1 c1@us/2", "c1@us/2"),
            ("a1", "a1"),
        ],
    );
}

#[test]
fn affinity_comes_before_failover() {
    let mut service = with_failover("c b", 0);
    service.sharing.affinity = Affinity::Local;
    check(
        &service,
        &[("a1 b1 c1", "a1"), ("a1- b1 c1", "c1"), ("a1- b1", "b1")],
    );
    service.sharing.affinity = Affinity::Remote;
    check(
        &service,
        &[("a1 b1 c1", "c1"), ("a1 b1 d1", "b1"), ("a1", "a1")],
    );
}

#[test]
fn every_exclusion_has_its_reason() {
    let mut service = with_failover("a b c", 0);
    service.traffic_distribution = TrafficDistribution::PreferSameNode;
    let scene = Scene::new("a1 a1- a1x a1t a10 a2 b1 b1~ b1~t", 50);
    let serves = Verdict::Serves { weight: 1 };
    let out = Verdict::Out;
    assert_eq!(
        scene.verdicts(&service),
        [
            serves,
            out(Reason::NotReady),
            out(Reason::Ejected),
            out(Reason::Terminating),
            out(Reason::Drained),
            out(Reason::Distance),
            out(Reason::Failover),
            out(Reason::Demoted),
            out(Reason::Demoted),
        ]
    );
    let scene = Scene::new("a1 b1", 50);
    let local = with_affinity(Affinity::Local);
    assert_eq!(scene.verdicts(&local), [serves, out(Reason::Affinity)]);
    let strict = Service {
        internal_traffic_policy: TrafficPolicy::Local,
        ..local
    };
    assert_eq!(scene.verdicts(&strict), [serves, out(Reason::OtherNode)]);
    assert_eq!(
        Scene::new("a1-", 50).verdicts(&strict),
        [out(Reason::NotReady)]
    );
}
