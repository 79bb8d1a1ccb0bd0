//! One rule: far ends, ports and what else must hold.

use tulle_model::{NetworkRule, Peers, RuleAction};

use super::{
    l3::Side,
    ports::{read_icmp, read_port_rule},
    selector::Scope,
};
use crate::read::{Node, ReadPolicyError};

/// Reads the rules of one section.
pub(super) struct RuleReader<'a> {
    pub(super) side: &'static Side,
    pub(super) action: RuleAction,
    pub(super) scope: Scope<'a>,
    pub(super) budget: &'a mut Budget,
}

impl RuleReader<'_> {
    /// One rule for each entry of `toPorts` or of `icmps`, since each has an L7 part of its own; one for all ports without
    /// them; none if the rule says nothing at all: it selects nobody.
    pub(super) fn read(&mut self, rule: &Node<'_>) -> Result<Vec<NetworkRule>, ReadPolicyError> {
        let mut known = self.side.fields();
        known.extend(["toPorts", "icmps"]);
        if self.action == RuleAction::Allow {
            known.push("authentication");
        }
        rule.only(&known)?;
        let peers = self.side.read(rule, self.action, self.scope)?;
        let authenticated = read_authentication(rule)?;
        let ports = rule.list_or_empty("toPorts")?;
        let icmps = rule.list_or_empty("icmps")?;
        if !ports.is_empty() && !icmps.is_empty() {
            return Err(rule
                .required("icmps")?
                .refuse("no icmps beside toPorts; write a rule of its own"));
        }
        let whole = NetworkRule {
            path: rule.path().to_owned(),
            action: self.action,
            peers: peers.clone().unwrap_or(Peers::Any),
            ports: Vec::new(),
            l7: None,
            server_names: Vec::new(),
            authenticated,
        };
        if ports.is_empty() && icmps.is_empty() {
            return Ok(Vec::from_iter(peers.map(|_| whole)));
        }
        let peers_len = match &whole.peers {
            Peers::Any => 1,
            Peers::OneOf(peers) => peers.len(),
        };
        self.budget
            .spend(rule, peers_len.saturating_mul(ports.len() + icmps.len()))?;
        let mut rules = Vec::new();
        for entry in &ports {
            let port_rule = read_port_rule(entry, self.side, self.action, self.budget)?;
            rules.push(NetworkRule {
                path: entry.path().to_owned(),
                ports: port_rule.ports,
                l7: port_rule.l7,
                server_names: port_rule.server_names,
                ..whole.clone()
            });
        }
        for entry in &icmps {
            rules.push(NetworkRule {
                path: entry.path().to_owned(),
                ports: read_icmp(entry)?,
                ..whole.clone()
            });
        }
        Ok(rules)
    }
}

fn read_authentication(rule: &Node<'_>) -> Result<bool, ReadPolicyError> {
    let Some(node) = rule.get("authentication")? else {
        return Ok(false);
    };
    node.only(&["mode"])?;
    let mode = node.required("mode")?;
    match mode.text()? {
        "disabled" => Ok(false),
        "required" => Ok(true),
        "test-always-fail" => Err(mode.unsupported("it is for tests of Cilium; write a deny rule")),
        _ => Err(mode.refuse("disabled or required")),
    }
}

/// How much one object may still cost: far ends are repeated with each entry of `toPorts`, and expressions are compiled.
#[derive(Debug)]
pub(super) struct Budget {
    peers: usize,
    http_rules: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            peers: PEERS_MAX,
            http_rules: HTTP_RULES_MAX,
        }
    }
}

impl Budget {
    fn spend(&mut self, rule: &Node<'_>, peers: usize) -> Result<(), ReadPolicyError> {
        self.peers = self.peers.checked_sub(peers).ok_or_else(|| {
            rule.refuse("an object with at most 65536 pairs of a far end and an entry of toPorts")
        })?;
        Ok(())
    }

    pub(super) fn spend_http_rule(&mut self, rule: &Node<'_>) -> Result<(), ReadPolicyError> {
        self.http_rules = self
            .http_rules
            .checked_sub(1)
            .ok_or_else(|| rule.refuse("an object with at most 4096 rules for HTTP"))?;
        Ok(())
    }
}

/// More pairs than the largest policies that people write; an object of 1 MiB could otherwise unfold to gigabytes.
const PEERS_MAX: usize = 65_536;
/// Each may have a few expressions to compile.
const HTTP_RULES_MAX: usize = 4096;
