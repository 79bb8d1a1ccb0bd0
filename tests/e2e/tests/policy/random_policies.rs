//! Random policies of all three languages, about pods whose names and labels are few, so that they meet all the time.

use serde_json::{Value, json};
use tulle_lab::{Kind, ObjectKey};

pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
pub(crate) const PORTS: [u16; 3] = [80, 81, 82];
/// An address of a stranger, beside the router's own.
pub(crate) const STRANGER: &str = "198.51.100.7";

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(1);
        usize::try_from(self.next() % n).unwrap_or_default()
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// One or two.
    fn few<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..1 + self.below(2)).map(|_| make(self)).collect()
    }
}

/// What policies may speak of beside pods of one cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vocabulary {
    /// The names of clusters.
    pub(crate) clusters: &'static [&'static str],
    /// Patterns of DNS names, as the fields of a rule.
    pub(crate) names: &'static [(&'static str, &'static str)],
}

impl Vocabulary {
    /// Deny rules cannot name DNS names.
    fn without_names(self) -> Self {
        Vocabulary { names: &[], ..self }
    }
}

/// A policy as it is applied.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) key: ObjectKey,
    pub(crate) manifest: Value,
}

/// A handful of each language; every name may come and go between two worlds.
pub(crate) fn policies(dice: &mut Dice, words: Vocabulary) -> Vec<Policy> {
    let mut policies = Vec::new();
    for index in 0..3 {
        if !dice.one_in(3) {
            let namespace = dice.pick(&NAMESPACES);
            policies.push(cilium(dice, words, namespace, &format!("c{index}")));
        }
        if !dice.one_in(3) {
            let namespace = dice.pick(&NAMESPACES);
            policies.push(kubernetes(dice, namespace, &format!("k{index}")));
        }
        if dice.one_in(2) {
            let namespace = dice.pick(&NAMESPACES);
            policies.push(authorization(dice, namespace, &format!("a{index}")));
        }
    }
    if dice.one_in(2) {
        let mut whole = cilium(dice, words, "", "whole");
        if !words.names.is_empty() {
            // Who asks for names, and who answers, is left alone.
            whole.manifest["spec"]["endpointSelector"]["matchExpressions"] = json!([
                {"key": "k8s:io.kubernetes.pod.namespace", "operator": "In", "values": NAMESPACES},
            ]);
        }
        policies.push(whole);
    }
    for namespace in NAMESPACES {
        if dice.one_in(3) {
            policies.push(peer_authentication(dice, namespace));
        }
    }
    policies
}

fn policy(kind: Kind, version: &str, namespace: &str, name: &str, spec: &Value) -> Policy {
    let mut metadata = json!({"name": name});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    Policy {
        key: ObjectKey::new(kind, namespace, name),
        manifest: json!({
            "apiVersion": version, "kind": kind.manifest_name(), "metadata": metadata, "spec": spec,
        }),
    }
}

/// Of pods.
fn selector(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 => json!({}),
        1 => json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
        2 => json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
        3 => {
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]})
        }
        4 => {
            let values = ["front", "back"];
            json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": values}]})
        }
        5 => json!({"matchLabels": {"tier": dice.pick(&["front", "back"])}}),
        _ => json!({"matchLabels": {"app": dice.pick(&["web", "db"])}}),
    }
}

fn port(dice: &mut Dice) -> Value {
    if dice.one_in(4) {
        return "http".into();
    }
    dice.pick(&PORTS).into()
}

fn protocol(dice: &mut Dice) -> &'static str {
    dice.pick(&["TCP", "TCP", "UDP"])
}

/// Ends of pods, nodes and strangers.
fn block(dice: &mut Dice) -> &'static str {
    dice.pick(&[
        "0.0.0.0/0",
        "10.1.0.0/16",
        "10.1.1.0/24",
        "10.1.2.0/24",
        "172.18.0.0/16",
        "198.51.100.0/24",
        "198.51.100.7/32",
    ])
}

fn except(dice: &mut Dice, block: &str) -> Vec<&'static str> {
    match block {
        "0.0.0.0/0" if dice.one_in(2) => vec!["198.51.100.0/24"],
        "10.1.0.0/16" if dice.one_in(2) => vec!["10.1.1.0/24"],
        "198.51.100.0/24" if dice.one_in(2) => vec!["198.51.100.7/32"],
        _ => Vec::new(),
    }
}

fn cilium(dice: &mut Dice, words: Vocabulary, namespace: &str, name: &str) -> Policy {
    let kind = if namespace.is_empty() {
        Kind::CiliumClusterwideNetworkPolicy
    } else {
        Kind::CiliumNetworkPolicy
    };
    let mut spec = json!({"endpointSelector": selector(dice)});
    for (direction, far) in [("ingress", "from"), ("egress", "to")] {
        if !dice.one_in(3) {
            let rules = dice.few(|dice| cilium_rule(dice, words, far));
            spec[direction] = rules.into();
        }
        if dice.one_in(4) {
            let rule = cilium_rule(dice, words.without_names(), far);
            spec[format!("{direction}Deny")] = json!([rule]);
        }
    }
    if spec.as_object().is_some_and(|fields| fields.len() == 1) {
        spec["ingress"] = json!([{}]);
    }
    if dice.one_in(5) {
        spec["enableDefaultDeny"] = json!({"ingress": dice.one_in(2), "egress": dice.one_in(2)});
    }
    policy(kind, "cilium.io/v2", namespace, name, &spec)
}

fn cilium_rule(dice: &mut Dice, words: Vocabulary, far: &str) -> Value {
    let mut rule = json!({});
    if far == "to" && !words.names.is_empty() && dice.one_in(2) {
        let (field, pattern) = dice.pick(words.names);
        rule["toFQDNs"] = json!([{field: pattern}]);
        return rule;
    }
    if far == "to" && dice.one_in(6) {
        let namespace = dice.pick(&NAMESPACES);
        let service = json!({"serviceName": "web", "namespace": namespace});
        rule["toServices"] = json!([{"k8sService": service}]);
        return rule;
    }
    match dice.below(6) {
        0 => {}
        1 => {
            let entities = ["all", "world", "cluster", "host", "remote-node"];
            rule[format!("{far}Entities")] = dice.few(|dice| dice.pick(&entities)).into();
        }
        2 => {
            let cidr = block(dice);
            let except = except(dice, cidr);
            rule[format!("{far}CIDRSet")] = json!([{"cidr": cidr, "except": except}]);
        }
        _ => {
            rule[format!("{far}Endpoints")] = dice.few(|dice| cilium_endpoints(dice, words)).into();
        }
    }
    if dice.one_in(2) {
        let ports = dice.few(|dice| {
            let mut wanted = match port(dice) {
                Value::Number(number) => json!({"port": number.to_string()}),
                name => json!({"port": name}),
            };
            wanted["protocol"] = dice.pick(&["TCP", "UDP", "ANY"]).into();
            wanted
        });
        rule["toPorts"] = json!([{"ports": ports}]);
    }
    rule
}

fn cilium_endpoints(dice: &mut Dice, words: Vocabulary) -> Value {
    let mut selector = selector(dice);
    match dice.below(3) {
        0 => {}
        1 => {
            let namespace = dice.pick(&NAMESPACES);
            selector["matchLabels"]["k8s:io.kubernetes.pod.namespace"] = namespace.into();
        }
        _ => {
            let team = dice.pick(&["red", "blue"]);
            let key = "io.cilium.k8s.namespace.labels.team";
            selector["matchLabels"][key] = team.into();
        }
    }
    if !words.clusters.is_empty() && !dice.one_in(3) {
        let cluster = dice.pick(words.clusters);
        selector["matchLabels"]["io.cilium.k8s.policy.cluster"] = cluster.into();
    }
    selector
}

fn kubernetes(dice: &mut Dice, namespace: &str, name: &str) -> Policy {
    let mut spec = json!({"podSelector": selector(dice)});
    let types = dice.pick(&[
        &["Ingress"][..],
        &["Egress"],
        &["Ingress", "Egress"],
        &["Ingress"],
    ]);
    spec["policyTypes"] = types.into();
    for (kind, section, far) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
        if types.contains(&kind) && !dice.one_in(5) {
            let rules = dice.few(|dice| kubernetes_rule(dice, far));
            spec[section] = rules.into();
        }
    }
    let version = "networking.k8s.io/v1";
    policy(Kind::NetworkPolicy, version, namespace, name, &spec)
}

fn kubernetes_rule(dice: &mut Dice, far: &str) -> Value {
    let mut rule = json!({});
    if !dice.one_in(4) {
        rule[far] = dice.few(kubernetes_peer).into();
    }
    if dice.one_in(2) {
        let ports = dice.few(|dice| {
            let port = port(dice);
            let mut wanted = json!({"port": port, "protocol": protocol(dice)});
            if port == 80 && dice.one_in(2) {
                wanted["endPort"] = 81.into();
            }
            wanted
        });
        rule["ports"] = ports.into();
    }
    rule
}

fn kubernetes_peer(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({"podSelector": selector(dice)}),
        1 => {
            let cidr = block(dice);
            let except = except(dice, cidr);
            json!({"ipBlock": {"cidr": cidr, "except": except}})
        }
        kind => {
            let namespaces = match dice.below(3) {
                0 => json!({}),
                _ => json!({"matchLabels": {"team": dice.pick(&["red", "blue"])}}),
            };
            let mut peer = json!({"namespaceSelector": namespaces});
            if kind == 2 {
                peer["podSelector"] = selector(dice);
            }
            peer
        }
    }
}

fn authorization(dice: &mut Dice, namespace: &str, name: &str) -> Policy {
    let action = dice.pick(&["ALLOW", "ALLOW", "DENY"]);
    let mut spec = json!({"action": action});
    if dice.one_in(2) {
        let app = dice.pick(&["web", "db"]);
        spec["selector"] = json!({"matchLabels": {"app": app}});
    }
    if !dice.one_in(6) {
        spec["rules"] = dice.few(authorization_rule).into();
    }
    let version = "security.istio.io/v1";
    policy(Kind::AuthorizationPolicy, version, namespace, name, &spec)
}

fn authorization_rule(dice: &mut Dice) -> Value {
    let mut rule = json!({});
    if !dice.one_in(4) {
        let sources = dice.few(|dice| json!({"source": source(dice)}));
        rule["from"] = sources.into();
    }
    if dice.one_in(2) {
        let ports = dice.few(|dice| dice.pick(&PORTS).to_string());
        let field = dice.pick(&["ports", "notPorts"]);
        rule["to"] = json!([{"operation": {field: ports}}]);
    }
    if dice.one_in(4) {
        let key = dice.pick(&["values", "notValues"]);
        let namespace = dice.pick(&NAMESPACES);
        rule["when"] = json!([{"key": "source.namespace", key: [namespace]}]);
    }
    rule
}

fn source(dice: &mut Dice) -> Value {
    match dice.below(7) {
        0 => json!({"notNamespaces": [dice.pick(&NAMESPACES)]}),
        1 => json!({"serviceAccounts": [format!("{}/web", dice.pick(&NAMESPACES))]}),
        2 => json!({"ipBlocks": [block(dice)]}),
        3 => json!({"notIpBlocks": [block(dice)]}),
        4 => json!({"principals": [dice.pick(&["*", "*/sa/web", "koornacht.tulle/ns/x/*"])]}),
        _ => json!({"namespaces": dice.few(|dice| dice.pick(&NAMESPACES))}),
    }
}

/// One for each namespace, or for some pods of it: which of several wins is decided by their age.
fn peer_authentication(dice: &mut Dice, namespace: &str) -> Policy {
    let modes = ["STRICT", "STRICT", "PERMISSIVE", "UNSET"];
    let mut spec = json!({"mtls": {"mode": dice.pick(&modes)}});
    if dice.one_in(2) {
        spec["selector"] = json!({"matchLabels": {"app": dice.pick(&["web", "db"])}});
        if dice.one_in(2) {
            let port = dice.pick(&PORTS).to_string();
            spec["portLevelMtls"] = json!({port: {"mode": dice.pick(&modes)}});
        }
    }
    let version = "security.istio.io/v1";
    policy(
        Kind::PeerAuthentication,
        version,
        namespace,
        "strictness",
        &spec,
    )
}
