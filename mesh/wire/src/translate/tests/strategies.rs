//! Random models within what the model allows, and random damage to bytes.

use std::{net::IpAddr, sync::Arc};

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::{Index, select},
};
use tulle_model::{
    AddressRange, Affinity, Algorithm, AppProtocol, Authorization, AuthorizationAction,
    AuthorizationClause, AuthorizationMatch, AuthorizationRule, AuthorizationScope, Failover,
    FailoverTarget, Health, Locality, NamedPort, NamespacedName, PortMapping, Protocol, Service,
    ServiceAccountMatch, ServicePort, Sharing, SmallMap, StringMatch, Text, TrafficDistribution,
    TrafficPolicy, TrustBundle, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

/// Free text, also empty and outside ASCII.
fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn shared() -> impl Strategy<Value = Text> {
    text().prop_map(Text::from)
}

/// A part of a key.
fn name() -> impl Strategy<Value = String> {
    "[a-z0-9.*_-]{1,20}"
}

fn key() -> impl Strategy<Value = NamespacedName> {
    (name(), name()).prop_map(|(namespace, name)| NamespacedName::new(namespace, name))
}

fn port_mapping() -> impl Strategy<Value = PortMapping> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
    (any::<(u16, u16)>(), protocol).prop_map(|((service_port, target_port), protocol)| {
        PortMapping {
            service_port,
            target_port,
            protocol,
        }
    })
}

prop_compose! {
    fn locality()(region in text(), zone in text(), subzone in text()) -> Locality {
        Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() }
    }
}

prop_compose! {
    fn identified()(
        uid in "[a-z/A-Z0-9-]{1,40}", name in text(), namespace in text(), service_account in name(),
        trust_domain in "[a-z0-9._-]{1,30}", cluster in "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", node in text(),
        addresses in vec(any::<IpAddr>(), 0..3), hostname in text(), labels in btree_map(shared(), shared(), 0..4),
    ) -> Workload {
        Workload {
            uid: WorkloadUid(uid.into()), name, namespace: namespace.into(), service_account: service_account.into(),
            trust_domain: trust_domain.parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            node: node.into(), addresses, hostname: hostname.into(), labels: labels.into_iter().collect(),
            locality: Locality::default(), canonical_name: Text::default(), canonical_revision: Text::default(),
            kind: WorkloadKind::Pod, owner_name: Text::default(), tunnel_protocol: TunnelProtocol::None,
            health: Health::Healthy, host_network: false, services: Default::default(),
            authorization_policies: Vec::new(), capacity: 1, demoted: false,
            namespace_labels: Arc::default(), named_ports: SmallMap::new(),
        }
    }
}

prop_compose! {
    pub(super) fn workload()(
        base in identified(), locality in locality(), canonical_name in text(), canonical_revision in text(),
        kind in select(vec![WorkloadKind::Deployment, WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job]),
        owner_name in text(), tunnel_protocol in select(vec![TunnelProtocol::None, TunnelProtocol::Hbone]),
        health in select(vec![Health::Healthy, Health::Terminating, Health::Unhealthy]),
        (host_network, demoted) in any::<(bool, bool)>(),
        services in btree_map(key(), vec(port_mapping(), 0..3), 0..3),
        authorization_policies in vec(text(), 0..3), capacity in prop_oneof![Just(0), Just(1), any::<u32>()],
        namespace_labels in btree_map(shared(), shared(), 0..3), named_ports in btree_map(shared(), named_port(), 0..3),
    ) -> Workload {
        Workload {
            locality, canonical_name: canonical_name.into(), canonical_revision: canonical_revision.into(), kind, owner_name: owner_name.into(), tunnel_protocol, health, host_network,
            demoted, services: services.into_iter().collect(), authorization_policies, capacity,
            namespace_labels: Arc::new(namespace_labels.into_iter().collect()),
            named_ports: named_ports.into_iter().collect(), ..base
        }
    }
}

prop_compose! {
    fn service_port()(
        name in prop_oneof![Just(String::new()), text()],
        // Few numbers, so that one port often has two protocols.
        port in prop_oneof![Just(53u16), Just(80), any::<u16>()],
        target_port in any::<u16>(), protocol in select(vec![Protocol::Tcp, Protocol::Udp]),
        app_protocol in select(vec![
            AppProtocol::Unknown, AppProtocol::Http11, AppProtocol::Http2, AppProtocol::Grpc, AppProtocol::Tcp,
            AppProtocol::Tls,
        ]),
    ) -> ServicePort {
        ServicePort { name, port, target_port, protocol, app_protocol }
    }
}

fn failover_target() -> impl Strategy<Value = FailoverTarget> {
    prop_oneof![
        "[a-z0-9]{1,8}".prop_map(|name| FailoverTarget::Cluster(name.parse().unwrap())),
        text().prop_map(FailoverTarget::Region),
    ]
}

prop_compose! {
    fn failover()(order in vec(failover_target(), 0..4), spill_at in 0..=100u8) -> Failover {
        Failover { order, spill_at }
    }
}

prop_compose! {
    /// A service with nothing but how its endpoints are chosen.
    fn chosen()(
        affinity in select(vec![Affinity::None, Affinity::Local, Affinity::Remote, Affinity::LocalNode]),
        internal_traffic_policy in select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]),
        traffic_distribution in select(vec![
            TrafficDistribution::Any, TrafficDistribution::PreferSameZone, TrafficDistribution::PreferSameNode,
        ]),
        algorithm in select(vec![Algorithm::Random, Algorithm::Maglev]),
        session_affinity in proptest::option::of(any::<u32>()),
        failover in proptest::option::of(failover()),
    ) -> Service {
        Service {
            sharing: Sharing { affinity, ..Sharing::default() },
            internal_traffic_policy, traffic_distribution, algorithm, session_affinity, failover,
            ..Service::default()
        }
    }
}

prop_compose! {
    pub(super) fn service()(
        name in text(), namespace in name(), hostname in name(), addresses in vec(any::<IpAddr>(), 0..3),
        ports in vec(service_port(), 0..5), subject_alt_names in vec(text(), 0..3),
        (global, shared, publish_not_ready) in any::<(bool, bool, bool)>(),
        external_name in proptest::option::of(".{1,12}"), chosen in chosen(),
        labels in btree_map(shared(), shared(), 0..3),
    ) -> Service {
        let sharing = Sharing { global, shared, ..chosen.sharing };
        Service {
            name, namespace, hostname, addresses, ports, subject_alt_names, sharing, publish_not_ready, external_name,
            labels: labels.into_iter().collect(),
            ..chosen
        }
    }
}

prop_compose! {
    fn named_port()(port in any::<u16>(), udp in any::<bool>()) -> NamedPort {
        NamedPort { port, protocol: if udp { Protocol::Udp } else { Protocol::Tcp } }
    }
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn range() -> impl Strategy<Value = AddressRange> {
    (any::<IpAddr>(), any::<u8>()).prop_map(|(address, len)| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        AddressRange {
            address,
            prefix_len: len.min(bits),
        }
    })
}

prop_compose! {
    fn account()(namespace in text(), service_account in text()) -> ServiceAccountMatch {
        ServiceAccountMatch { namespace, service_account }
    }
}

prop_compose! {
    fn policy_match()(
        [namespaces, not_namespaces, principals, not_principals] in [
            vec(string_match(), 0..3), vec(string_match(), 0..3), vec(string_match(), 0..3), vec(string_match(), 0..3),
        ],
        [source_ips, not_source_ips, destination_ips, not_destination_ips] in [
            vec(range(), 0..3), vec(range(), 0..3), vec(range(), 0..3), vec(range(), 0..3),
        ],
        [destination_ports, not_destination_ports] in [vec(any::<u16>(), 0..3), vec(any::<u16>(), 0..3)],
        [service_accounts, not_service_accounts] in [vec(account(), 0..3), vec(account(), 0..3)],
    ) -> AuthorizationMatch {
        AuthorizationMatch {
            namespaces, not_namespaces, principals, not_principals, source_ips, not_source_ips, destination_ips,
            not_destination_ips, destination_ports, not_destination_ports, service_accounts, not_service_accounts,
            request: None,
        }
    }
}

prop_compose! {
    pub(super) fn authorization()(
        name in name(), namespace in name(),
        scope in select(vec![
            AuthorizationScope::Global, AuthorizationScope::Namespace, AuthorizationScope::WorkloadSelector,
        ]),
        action in select(vec![AuthorizationAction::Allow, AuthorizationAction::Deny]),
        rules in vec(vec(vec(policy_match(), 0..3), 0..3), 0..3), dry_run in any::<bool>(),
    ) -> Authorization {
        let clause = |matches| AuthorizationClause { matches };
        let rule = |clauses: Vec<Vec<_>>| AuthorizationRule { clauses: clauses.into_iter().map(clause).collect() };
        let rules = rules.into_iter().map(rule).collect();
        Authorization { name, namespace, scope, action, rules, dry_run }
    }
}

prop_compose! {
    pub(super) fn bundle()(domain in "[a-z0-9._-]{1,60}", roots_pem in ".{0,200}") -> TrustBundle {
        TrustBundle { trust_domain: domain.parse().unwrap(), roots_pem }
    }
}

/// Damage to a message: bytes changed, put in, taken out, the end cut off.
#[derive(Debug, Clone)]
pub(super) struct Edits {
    changes: Vec<(Index, u8)>,
    insertion: Option<(Index, Vec<u8>)>,
    cut: Option<Index>,
}

impl Edits {
    pub(super) fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (at, value) in &self.changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
        }
        if let Some((at, more)) = &self.insertion {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, more.iter().copied());
        }
        if let Some(at) = self.cut {
            bytes.truncate(at.index(bytes.len() + 1));
        }
        bytes
    }
}

pub(super) fn mutate() -> impl Strategy<Value = Edits> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..8);
    let insertion = proptest::option::of((any::<Index>(), vec(any::<u8>(), 1..8)));
    let cut = proptest::option::of(any::<Index>());
    (changes, insertion, cut).prop_map(|(changes, insertion, cut)| Edits {
        changes,
        insertion,
        cut,
    })
}
