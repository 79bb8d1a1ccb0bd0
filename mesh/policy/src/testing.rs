//! What the tests of the readers share: rules written short, one line for each.

use serde_json::Value;
use tulle_model::{
    HeaderMismatch, HttpRule, L7Rules, LabelSource, NamePattern, NetworkRule, NetworkRules,
    Operator, Peer, Peers, PortMatch, Ports, RuleAction, RuleSection, Selector, ServicePick,
    Transport,
};

use crate::read::{DefaultCluster, ReadSettings};

pub(crate) fn yaml(text: &str) -> Value {
    serde_yaml_ng::from_str(text).expect(text)
}

pub(crate) fn settings(default_cluster: DefaultCluster) -> ReadSettings {
    ReadSettings {
        cluster: "koornacht".parse().unwrap(),
        default_cluster,
    }
}

/// `<selector>`, then a line for each direction (`!` = default deny) and one for each rule.
pub(crate) fn show(rules: &NetworkRules) -> String {
    let mut lines = Vec::new();
    for spec in &rules.specs {
        lines.push(show_selector(&spec.subject));
        for (name, section) in [("ingress", &spec.ingress), ("egress", &spec.egress)] {
            lines.extend(
                section
                    .iter()
                    .flat_map(|section| show_section(name, section)),
            );
        }
    }
    lines.join("\n")
}

fn show_section(name: &str, section: &RuleSection) -> Vec<String> {
    let deny = if section.default_deny { "!" } else { "" };
    let mut lines = vec![format!("{name}{deny}")];
    lines.extend(section.rules.iter().map(show_rule));
    lines
}

fn show_rule(rule: &NetworkRule) -> String {
    let action = match rule.action {
        RuleAction::Allow => "+",
        RuleAction::Deny => "-",
    };
    let peers = match &rule.peers {
        Peers::Any => "anyone".to_owned(),
        Peers::OneOf(peers) if peers.is_empty() => "nobody".to_owned(),
        Peers::OneOf(peers) => peers.iter().map(show_peer).collect::<Vec<_>>().join(" or "),
    };
    let mut line = format!("{action} {}: {peers}", rule.path);
    if !rule.ports.is_empty() {
        let ports: Vec<String> = rule.ports.iter().map(show_port).collect();
        line += &format!(" at {}", ports.join(","));
    }
    match &rule.l7 {
        None => {}
        Some(L7Rules::Http(rules)) => {
            let rules: Vec<String> = rules.iter().map(show_http).collect();
            line += &format!(" http {}", rules.join(" or "));
        }
        Some(L7Rules::Dns(names)) => {
            let names: Vec<&str> = names.iter().map(show_name).collect();
            line += &format!(" dns {}", names.join(" or "));
        }
    }
    if !rule.server_names.is_empty() {
        line += &format!(" sni {}", rule.server_names.join(" or "));
    }
    if rule.authenticated {
        line += " authenticated";
    }
    line
}

fn show_peer(peer: &Peer) -> String {
    match peer {
        Peer::Endpoints(selector) => show_selector(selector),
        Peer::Entity(entity) => format!("{entity:?}"),
        Peer::Block {
            block,
            except,
            includes_workloads,
        } => {
            let mut text = format!("{}/{}", block.address, block.prefix_len);
            for part in except {
                text += &format!(" but {}/{}", part.address, part.prefix_len);
            }
            text + if *includes_workloads {
                " with pods"
            } else {
                ""
            }
        }
        Peer::Name(name) => format!("name {}", show_name(name)),
        Peer::Services {
            namespace,
            services,
        } => {
            let services = match services {
                ServicePick::Name(name) => name.clone(),
                ServicePick::Labels(selector) => show_selector(selector),
            };
            format!("service {}/{services}", namespace.as_deref().unwrap_or("*"))
        }
    }
}

fn show_name(name: &NamePattern) -> &str {
    match name {
        NamePattern::Exact(text) | NamePattern::Pattern(text) => text,
    }
}

/// Namespaces and clusters under short names.
pub(crate) fn show_selector(selector: &Selector) -> String {
    let requirements = selector.requirements.iter().map(|requirement| {
        let source = match requirement.key.source {
            LabelSource::Any => "",
            LabelSource::K8s => "k8s:",
            LabelSource::Reserved => "reserved:",
        };
        let name = match requirement.key.name.as_str() {
            Selector::NAMESPACE => "NS",
            Selector::CLUSTER => "CLUSTER",
            Selector::SERVICE_ACCOUNT => "SA",
            name => name,
        };
        let name = name.replace(Selector::NAMESPACE_LABELS, "NS/");
        let values = |values: &std::collections::BTreeSet<String>| {
            values.iter().cloned().collect::<Vec<_>>().join("|")
        };
        match &requirement.operator {
            Operator::In(found) => format!("{source}{name}={}", values(found)),
            Operator::NotIn(found) => format!("{source}{name}!={}", values(found)),
            Operator::Exists => format!("{source}{name}"),
            Operator::DoesNotExist => format!("!{source}{name}"),
        }
    });
    format!("[{}]", requirements.collect::<Vec<_>>().join(" "))
}

fn show_port(port: &PortMatch) -> String {
    let transport = match port.transport {
        Transport::AnyWithPorts => "any",
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Sctp => "sctp",
        Transport::IcmpV4 => "icmp",
        Transport::IcmpV6 => "icmp6",
    };
    match &port.ports {
        Ports::All => transport.to_owned(),
        Ports::Range(first, last) if first == last => format!("{transport}/{first}"),
        Ports::Range(first, last) => format!("{transport}/{first}-{last}"),
        Ports::Named(name) => format!("{transport}/{name}"),
    }
}

fn show_http(rule: &HttpRule) -> String {
    let mut parts = Vec::new();
    parts.extend(rule.method.iter().map(|text| format!("method={text}")));
    parts.extend(rule.path.iter().map(|text| format!("path={text}")));
    parts.extend(rule.host.iter().map(|text| format!("host={text}")));
    for header in &rule.headers {
        let mismatch = match header.mismatch {
            HeaderMismatch::Fail => String::new(),
            other => format!(" else {other:?}"),
        };
        let value = header.value.as_deref().map(|value| format!("={value}"));
        parts.push(format!(
            "{}{}{mismatch}",
            header.name,
            value.unwrap_or_default()
        ));
    }
    format!("({})", parts.join(", "))
}
