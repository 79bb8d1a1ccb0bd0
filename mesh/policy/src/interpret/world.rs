//! Random meshes, policies and flows, from a vocabulary that is so small that they meet all the time.

mod istio;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tulle_model::{
    AddressRange, Change, ClusterName, Directory, Entity, HeaderMismatch, HeaderRule, Health,
    HttpRule, L7Rules, LabelKey, LabelSource, Language, Locality, NamePattern, NamedPort,
    NamespacedName, NetworkRule, NetworkRules, Operator, Peer, Peers, PortMatch, Ports, Protocol,
    Requirement, RuleAction, RuleSection, RuleSpec, Rules, RulesKey, Selector, Service,
    ServicePick, SmallMap, Text, Transport, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use super::IstioPolicies;
use crate::compiled::{LearnedNames, PolicyTouched};

pub(crate) use istio::{identities, requests};

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn some<T>(&mut self, max: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(max + 1)).map(|_| make(self)).collect()
    }
}

/// A mesh that changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) directory: Directory,
    pub(crate) learned: LearnedNames,
    pub(crate) istio: IstioPolicies,
    pub(crate) subjects: BTreeSet<WorkloadUid>,
}

pub(crate) const PORTS: [u16; 8] = [0, 53, 79, 80, 81, 8080, 9090, 65535];
pub(crate) const PROTOCOLS: [u8; 6] = [6, 6, 17, 132, 1, 47];
pub(crate) const NAMES: [&str; 4] = [
    "a.example.com.",
    "b.example.com.",
    "x.y.example.com.",
    "other.org.",
];
const PATTERNS: [&str; 4] = ["*.example.com.", "**.example.com.", "*.", "other.org."];
const BLOCKS: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.4/30",
    "10.1.0.5/32",
    "198.51.100.0/24",
    "198.51.100.0/30",
    "198.51.100.2/32",
    "172.16.0.0/12",
    "::/0",
    "fd00::/16",
    "fd00::5/128",
];
const LABELS: [(&str, [&str; 2]); 3] = [
    ("app", ["web", "db"]),
    ("tier", ["front", "back"]),
    ("gateway.networking.k8s.io/gateway-name", ["gw", "gw"]),
];

pub(crate) fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

impl World {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        let mut world = World::default();
        for _ in 0..8 + dice.below(30) {
            world.change(dice);
        }
        world
    }

    /// One change; says what it touched.
    pub(crate) fn change(&mut self, dice: &mut Dice) -> PolicyTouched {
        let mut touched = PolicyTouched::default();
        match dice.below(20) {
            16 | 17 => self.change_authorization(dice, &mut touched),
            18 => self.change_peers(dice, &mut touched),
            19 if dice.one_in(4) => self.lose(dice, &mut touched),
            0..=5 => self.change_workload(dice, &mut touched),
            6..=11 => self.change_rules(dice, &mut touched),
            12 => self.change_service(dice, &mut touched),
            13 => {
                let name: Arc<str> = dice.pick(&NAMES).into();
                if dice.one_in(4) {
                    self.learned.names.remove(&name);
                } else {
                    let addresses = dice.some(2, address);
                    self.learned.names.insert(name, addresses.into());
                }
            }
            _ => {
                let mut all: Vec<_> = self.directory.workloads().collect();
                all.sort_by_key(|workload| &workload.uid);
                if let Some(workload) = all.get(dice.below(all.len().max(1)))
                    && !workload.host_network
                    && workload.cluster == cluster("a")
                {
                    let uid = workload.uid.clone();
                    if !self.subjects.remove(&uid) {
                        self.subjects.insert(uid);
                    }
                }
            }
        }
        touched
    }

    fn change_workload(&mut self, dice: &mut Dice, touched: &mut PolicyTouched) {
        let workload = workload(dice);
        touched.workloads.insert(workload.uid.clone());
        if dice.one_in(5) {
            self.subjects.remove(&workload.uid);
            self.directory.apply(Change::WorkloadGone(workload.uid));
            return;
        }
        if workload.cluster == cluster("a") && !workload.host_network && dice.one_in(2) {
            self.subjects.insert(workload.uid.clone());
        }
        // The subjects of a node are pods of its own, in their own networks.
        if workload.host_network {
            self.subjects.remove(&workload.uid);
        }
        self.directory.apply(Change::Workload(Arc::new(workload)));
        self.bind(touched);
    }

    fn change_rules(&mut self, dice: &mut Dice, touched: &mut PolicyTouched) {
        let rules = rules(dice);
        touched.rules.insert(rules.key.clone());
        if dice.one_in(6) {
            self.directory.apply(Change::RulesGone(rules.key));
            return;
        }
        self.directory
            .apply(Change::Rules(Arc::new(Rules::Network(rules))));
    }

    fn change_service(&mut self, dice: &mut Dice, touched: &mut PolicyTouched) {
        let key = service_key(dice);
        touched.services.insert(key.clone());
        if dice.one_in(5) {
            self.directory.apply(Change::ServiceGone(key));
            return;
        }
        let service = Service {
            name: key.name.split('.').next().unwrap().to_owned(),
            namespace: key.namespace.to_string(),
            hostname: key.name.to_string(),
            labels: labels(dice),
            ..Service::default()
        };
        self.directory.apply(Change::Service(Arc::new(service)));
    }
}

pub(crate) fn address(dice: &mut Dice) -> IpAddr {
    let last = dice.below(8);
    let text = match dice.below(6) {
        0 => format!("198.51.100.{last}"),
        1 => format!("fd00::{last}"),
        2 => format!("172.16.0.{}", last % 2),
        3 => format!("2001:db8::{last}"),
        _ => format!("10.1.0.{last}"),
    };
    text.parse().unwrap()
}

fn block(dice: &mut Dice) -> AddressRange {
    let text = dice.pick(&BLOCKS);
    let (address, len) = text.split_once('/').unwrap();
    AddressRange {
        address: address.parse().unwrap(),
        prefix_len: len.parse().unwrap(),
    }
}

fn labels(dice: &mut Dice) -> SmallMap<Text, Text> {
    let mut labels = SmallMap::new();
    for (name, values) in LABELS {
        if dice.one_in(2) {
            labels.insert(name.into(), dice.pick(&values).into());
        }
    }
    labels
}

fn service_key(dice: &mut Dice) -> NamespacedName {
    let (namespace, name) = dice.pick(&[
        ("default", "kubernetes"),
        ("x", "web"),
        ("x", "db"),
        ("y", "web"),
    ]);
    NamespacedName::new(namespace, format!("{name}.{namespace}.svc.cluster.local"))
}

fn workload(dice: &mut Dice) -> Workload {
    let cluster = cluster(dice.pick(&["a", "a", "b"]));
    let namespace = dice.pick(&["x", "y"]).to_owned();
    let name = format!("p{}", dice.below(8));
    let mut addresses: Vec<IpAddr> = vec![address(dice)];
    if dice.one_in(3) {
        addresses.push(address(dice));
        addresses.dedup();
    }
    let kind = dice.below(8);
    let node = dice.pick(&["n1", "n2"]).to_owned();
    let uid = match kind {
        0 | 1 => WorkloadUid::of_node(&cluster, &node),
        2 => WorkloadUid(
            format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}").into(),
        ),
        _ => WorkloadUid::of_pod(&cluster, &namespace, &name),
    };
    let mut named_ports = SmallMap::new();
    if dice.one_in(2) {
        let port = dice.pick(&[80, 8080]);
        let protocol = dice.pick(&[Protocol::Tcp, Protocol::Udp]);
        named_ports.insert("http".into(), NamedPort { port, protocol });
    }
    let mut services = SmallMap::new();
    for key in dice.some(2, service_key) {
        services.insert(key, Vec::new());
    }
    let namespace_labels = match namespace.as_str() {
        "x" => [("team".into(), "red".into())].into_iter().collect(),
        _ => SmallMap::new(),
    };
    Workload {
        uid,
        name,
        namespace: namespace.into(),
        service_account: dice.pick(&["default", "web"]).into(),
        trust_domain: "td".parse().unwrap(),
        cluster,
        node: node.into(),
        addresses,
        hostname: Text::default(),
        labels: labels(dice),
        namespace_labels: Arc::new(namespace_labels),
        named_ports,
        locality: Locality::default(),
        canonical_name: Text::default(),
        canonical_revision: Text::default(),
        kind: WorkloadKind::Pod,
        owner_name: Text::default(),
        tunnel_protocol: dice.pick(&[TunnelProtocol::Hbone, TunnelProtocol::None]),
        health: Health::Healthy,
        host_network: kind <= 3,
        services,
        authorization_policies: Vec::new(),
        capacity: 1,
        demoted: false,
    }
}

fn requirement(dice: &mut Dice) -> Requirement {
    let derived: [(&str, &[&str]); 5] = [
        (Selector::NAMESPACE, &["x", "y"]),
        (Selector::CLUSTER, &["a", "b"]),
        (Selector::SERVICE_ACCOUNT, &["default", "web"]),
        ("io.cilium.k8s.namespace.labels.team", &["red", "blue"]),
        ("nobody-has-it", &["x"]),
    ];
    let (source, name, values): (_, _, Vec<&str>) = match dice.below(9) {
        0..=3 => {
            let (name, values) = dice.pick(&LABELS);
            (LabelSource::Any, name, values.to_vec())
        }
        8 => {
            let name = dice.pick(&["host", "remote-node", "world", "kube-apiserver"]);
            (LabelSource::Reserved, name, vec![""])
        }
        _ => {
            let (name, values) = dice.pick(&derived);
            (LabelSource::K8s, name, values.to_vec())
        }
    };
    let picked = |dice: &mut Dice| {
        let picked: Vec<String> = (0..1 + dice.below(2))
            .map(|_| dice.pick(&values).to_owned())
            .collect();
        picked.into_iter().collect()
    };
    let operator = match dice.below(6) {
        0 => Operator::NotIn(picked(dice)),
        1 => Operator::Exists,
        2 => Operator::DoesNotExist,
        _ => Operator::In(picked(dice)),
    };
    let name = name.to_owned();
    Requirement {
        key: LabelKey { source, name },
        operator,
    }
}

fn selector(dice: &mut Dice) -> Selector {
    Selector {
        requirements: dice.some(2, requirement),
    }
}

fn pattern(dice: &mut Dice) -> NamePattern {
    if dice.one_in(2) {
        NamePattern::Exact(dice.pick(&NAMES).to_owned())
    } else {
        NamePattern::Pattern(dice.pick(&PATTERNS).to_owned())
    }
}

fn peer(dice: &mut Dice) -> Peer {
    use Entity::*;
    match dice.below(10) {
        0..=3 => Peer::Endpoints(selector(dice)),
        4 => Peer::Entity(dice.pick(&[
            All,
            World,
            WorldIpv4,
            WorldIpv6,
            Cluster,
            ClusterMesh,
            Host,
            RemoteNode,
            KubeApiserver,
            Ingress,
            Init,
            Health,
            Unmanaged,
            None,
        ])),
        5..=7 => Peer::Block {
            block: block(dice),
            except: dice.some(2, block),
            includes_workloads: dice.one_in(2),
        },
        8 => Peer::Name(pattern(dice)),
        _ => {
            let namespace = dice
                .one_in(2)
                .then(|| dice.pick(&["default", "x", "y"]).to_owned());
            let services = if dice.one_in(2) {
                ServicePick::Name(dice.pick(&["kubernetes", "web", "db"]).to_owned())
            } else {
                ServicePick::Labels(Selector {
                    requirements: dice.some(1, |dice| Requirement {
                        key: LabelKey {
                            source: LabelSource::Any,
                            name: "app".to_owned(),
                        },
                        operator: dice
                            .pick(&[Operator::Exists, Operator::In(["web".to_owned()].into())]),
                    }),
                })
            };
            Peer::Services {
                namespace,
                services,
            }
        }
    }
}

fn port_match(dice: &mut Dice) -> PortMatch {
    use Transport::*;
    let ports = match dice.below(5) {
        0 => Ports::All,
        1 => Ports::Named("http".to_owned()),
        2 => {
            let (a, b) = (dice.pick(&PORTS), dice.pick(&PORTS));
            Ports::Range(a.min(b), a.max(b))
        }
        _ => {
            let port = dice.pick(&PORTS);
            Ports::Range(port, port)
        }
    };
    PortMatch {
        transport: dice.pick(&[AnyWithPorts, Tcp, Tcp, Udp, Sctp, IcmpV4, IcmpV6]),
        ports,
    }
}

fn http_rule(dice: &mut Dice) -> HttpRule {
    HttpRule {
        path: dice
            .one_in(2)
            .then(|| dice.pick(&["/a", "/a.*", "/b|/c"]).to_owned()),
        method: dice
            .one_in(2)
            .then(|| dice.pick(&["GET", "GET|POST"]).to_owned()),
        host: dice.one_in(4).then(|| "web(:[0-9]+)?".to_owned()),
        headers: dice.some(1, |dice| HeaderRule {
            name: "x-a".to_owned(),
            value: dice.one_in(2).then(|| "1".to_owned()),
            mismatch: dice.pick(&[
                HeaderMismatch::Fail,
                HeaderMismatch::Fail,
                HeaderMismatch::Log,
            ]),
        }),
    }
}

fn rule(dice: &mut Dice, path: String) -> NetworkRule {
    let action = dice.pick(&[
        RuleAction::Allow,
        RuleAction::Allow,
        RuleAction::Allow,
        RuleAction::Deny,
    ]);
    let mut rule = NetworkRule {
        path,
        action,
        peers: if dice.one_in(4) {
            Peers::Any
        } else {
            Peers::OneOf(dice.some(2, peer))
        },
        ports: dice.some(2, port_match),
        l7: None,
        server_names: Vec::new(),
        authenticated: false,
    };
    if action == RuleAction::Allow {
        match dice.below(8) {
            0 => rule.l7 = Some(L7Rules::Http(dice.some(2, http_rule))),
            1 => rule.l7 = Some(L7Rules::Dns(dice.some(2, pattern))),
            2 => rule.server_names = vec![dice.pick(&["*.example.com", "b.org"]).to_owned()],
            3 => rule.authenticated = true,
            _ => {}
        }
    }
    rule
}

fn section(dice: &mut Dice, spec: usize, name: &str) -> RuleSection {
    let mut index = 0;
    RuleSection {
        default_deny: !dice.one_in(4),
        rules: dice.some(3, |dice| {
            index += 1;
            rule(dice, format!("specs[{spec}].{name}[{}]", index - 1))
        }),
    }
}

fn rules(dice: &mut Dice) -> NetworkRules {
    let language = dice.pick(&[Language::Cilium, Language::Cilium, Language::Kubernetes]);
    let mut index = 0;
    NetworkRules {
        key: RulesKey {
            language,
            object: NamespacedName::new("x", format!("r{}", dice.below(4))),
        },
        audit: dice.one_in(5),
        specs: dice.some(2, |dice| {
            index += 1;
            RuleSpec {
                subject: if dice.one_in(2) {
                    Selector::default()
                } else {
                    selector(dice)
                },
                ingress: dice.one_in(2).then(|| section(dice, index - 1, "ingress")),
                egress: dice.one_in(2).then(|| section(dice, index - 1, "egress")),
            }
        }),
    }
}
