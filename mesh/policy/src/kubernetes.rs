//! Kubernetes' NetworkPolicy (`networking.k8s.io/v1`), read into `NetworkRules`.
//!
//! Decides what the API's defaults mean: which directions a policy speaks of, that a rule without far ends means everyone (the
//! opposite of Cilium's), that a selector of pods means the policy's own namespace. What the API server would refuse is
//! refused here as well, since manifests also come from files.

use serde_json::Value;
use tulle_model::{
    LabelKey, LabelSource, Language, NetworkRule, NetworkRules, Operator, Peer, Peers, PortMatch,
    Ports, RuleAction, RuleSection, RuleSpec, RulesKey, Selector, Transport,
};

use crate::read::{
    DefaultCluster, LABEL_KEY, Labels, Manifest, Node, PolicyKind, ReadPolicyError, ReadRules,
    ReadSettings, is_label_key, read_block, read_labels,
};

/// Reads a NetworkPolicy.
///
/// # Errors
///
/// The object is of another kind or breaks the rules of its kind.
pub fn read_network_policy(
    manifest: &Value,
    settings: &ReadSettings,
) -> Result<ReadRules, ReadPolicyError> {
    let object = Manifest::read(manifest, &[PolicyKind::NetworkPolicy])?;
    read_object(&object, settings).map_err(|error| error.of(object.kind, &object.key))
}

fn read_object(
    object: &Manifest<'_>,
    settings: &ReadSettings,
) -> Result<ReadRules, ReadPolicyError> {
    let Manifest { key, spec, .. } = object;
    object.only(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    spec.only(&["podSelector", "ingress", "egress", "policyTypes"])?;
    let mut subject = match spec.get("podSelector")? {
        Some(node) => read_labels(&node, read_key)?,
        None => Labels::default(),
    };
    subject.need_value(Selector::NAMESPACE, &key.namespace);
    let reader = SectionReader {
        namespace: &key.namespace,
        settings,
    };
    let ingress = reader.read(spec, &INGRESS)?;
    let egress = reader.read(spec, &EGRESS)?;
    let types = read_types(spec, !egress.is_empty())?;
    let mut warnings = Vec::new();
    let mut section = |side: &Side, rules: Vec<NetworkRule>| {
        if !types.contains(&side.policy_type) {
            if !rules.is_empty() {
                warnings.push(format!(
                    "spec.{} says nothing, since spec.policyTypes does not name {}",
                    side.section, side.policy_type
                ));
            }
            return None;
        }
        Some(RuleSection {
            default_deny: true,
            rules,
        })
    };
    let spec = RuleSpec {
        subject: subject.into_selector(),
        ingress: section(&INGRESS, ingress),
        egress: section(&EGRESS, egress),
    };
    let rules = NetworkRules {
        key: RulesKey {
            language: Language::Kubernetes,
            object: key.clone(),
        },
        audit: object.audit()?,
        specs: vec![spec],
    };
    Ok(ReadRules { rules, warnings })
}

/// The words of one direction.
struct Side {
    section: &'static str,
    peers: &'static str,
    policy_type: &'static str,
}

const INGRESS: Side = Side {
    section: "ingress",
    peers: "from",
    policy_type: "Ingress",
};

const EGRESS: Side = Side {
    section: "egress",
    peers: "to",
    policy_type: "Egress",
};

/// The directions that the policy speaks of. Without `policyTypes`: ingress always, egress if there are rules about it.
fn read_types(spec: &Node<'_>, has_egress: bool) -> Result<Vec<&'static str>, ReadPolicyError> {
    let mut types = Vec::new();
    for node in spec.list_or_empty("policyTypes")? {
        types.push(match node.text()? {
            "Ingress" => INGRESS.policy_type,
            "Egress" => EGRESS.policy_type,
            _ => return Err(node.refuse("Ingress or Egress")),
        });
    }
    if types.is_empty() {
        types.push(INGRESS.policy_type);
        types.extend(has_egress.then_some(EGRESS.policy_type));
    }
    Ok(types)
}

/// Reads the rules of a policy.
struct SectionReader<'a> {
    namespace: &'a str,
    settings: &'a ReadSettings,
}

impl SectionReader<'_> {
    fn read(&self, spec: &Node<'_>, side: &Side) -> Result<Vec<NetworkRule>, ReadPolicyError> {
        let rules = spec.list_or_empty(side.section)?;
        rules
            .iter()
            .map(|rule| self.read_rule(rule, side))
            .collect()
    }

    fn read_rule(&self, rule: &Node<'_>, side: &Side) -> Result<NetworkRule, ReadPolicyError> {
        rule.only(&[side.peers, "ports"])?;
        let peers = rule.list_or_empty(side.peers)?;
        let peers = if peers.is_empty() {
            Peers::Any
        } else {
            let peers = peers.iter().map(|peer| self.read_peer(peer));
            Peers::OneOf(peers.collect::<Result<_, _>>()?)
        };
        let ports = rule.list_or_empty("ports")?;
        Ok(NetworkRule {
            path: rule.path().to_owned(),
            action: RuleAction::Allow,
            peers,
            ports: ports.iter().map(read_port).collect::<Result<_, _>>()?,
            l7: None,
            server_names: Vec::new(),
            authenticated: false,
        })
    }

    fn read_peer(&self, node: &Node<'_>) -> Result<Peer, ReadPolicyError> {
        node.only(&["podSelector", "namespaceSelector", "ipBlock"])?;
        let pods = node.get("podSelector")?;
        let namespaces = node.get("namespaceSelector")?;
        if let Some(block) = node.get("ipBlock")? {
            if pods.is_some() || namespaces.is_some() {
                return Err(block.refuse("no ipBlock beside selectors; write an item of its own"));
            }
            return read_ip_block(&block);
        }
        if pods.is_none() && namespaces.is_none() {
            return Err(node.refuse("at least one of podSelector, namespaceSelector and ipBlock"));
        }
        let mut labels = match pods {
            Some(node) => read_labels(&node, read_key)?,
            None => Labels::default(),
        };
        match namespaces {
            None => labels.need_value(Selector::NAMESPACE, self.namespace),
            Some(node) => {
                // Whoever has no namespace, as a node, is in none that a selector could pick, not even by {}.
                labels.need(LabelSource::K8s, Selector::NAMESPACE, Operator::Exists);
                for requirement in read_labels(&node, read_key)?.requirements {
                    let name = format!("{}{}", Selector::NAMESPACE_LABELS, requirement.key.name);
                    labels.need(LabelSource::K8s, &name, requirement.operator);
                }
            }
        }
        if self.settings.default_cluster == DefaultCluster::Local {
            labels.need_value(Selector::CLUSTER, self.settings.cluster.as_str());
        }
        Ok(Peer::Endpoints(labels.into_selector()))
    }
}

fn read_key(text: &str) -> Result<LabelKey, &'static str> {
    if is_label_key(text) {
        Ok(LabelKey {
            source: LabelSource::K8s,
            name: text.to_owned(),
        })
    } else {
        Err(LABEL_KEY)
    }
}

fn read_ip_block(node: &Node<'_>) -> Result<Peer, ReadPolicyError> {
    node.only(&["cidr", "except"])?;
    let block = read_block(&node.required("cidr")?)?;
    let mut except = Vec::new();
    for item in node.list_or_empty("except")? {
        let part = read_block(&item)?;
        if part.prefix_len <= block.prefix_len || !block.contains(part.address) {
            return Err(item.refuse("a smaller block that lies in cidr"));
        }
        except.push(part);
    }
    Ok(Peer::Block {
        block,
        except,
        includes_workloads: true,
    })
}

fn read_port(node: &Node<'_>) -> Result<PortMatch, ReadPolicyError> {
    node.only(&["protocol", "port", "endPort"])?;
    let transport = match node.get("protocol")? {
        None => Transport::Tcp,
        Some(protocol) => match protocol.text()? {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            _ => return Err(protocol.refuse("TCP, UDP or SCTP")),
        },
    };
    let end = node.get("endPort")?;
    let Some(port) = node.get("port")? else {
        return match end {
            Some(end) => Err(end.refuse("a port beside endPort")),
            None => Ok(PortMatch {
                transport,
                ports: Ports::All,
            }),
        };
    };
    let expected = "a port of 1–65535, or a port's name";
    let ports = match (port.number_or_text(1..=u16::MAX, expected)?, end) {
        (None, Some(end)) => return Err(end.refuse("no endPort beside a port's name")),
        (None, None) => Ports::Named(read_port_name(&port, expected)?),
        (Some(first), None) => Ports::Range(first, first),
        (Some(first), Some(end)) => {
            let expected = format!("a port of {first}–65535, not below `port`");
            Ports::Range(first, end.number(first..=u16::MAX, expected)?)
        }
    };
    Ok(PortMatch { transport, ports })
}

/// As IANA names services (RFC 6335, 5.1), but in lower case.
fn read_port_name(node: &Node<'_>, expected: &'static str) -> Result<String, ReadPolicyError> {
    let text = node.text()?;
    let right = text.len() <= PORT_NAME_LEN_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if right {
        Ok(text.to_owned())
    } else {
        Err(node.refuse(expected))
    }
}

/// Kubernetes' limit.
const PORT_NAME_LEN_MAX: usize = 15;

#[cfg(test)]
mod tests;
