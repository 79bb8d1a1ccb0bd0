//! Cilium's policy objects (`cilium.io/v2`), read into `NetworkRules`.
//!
//! Decides what each construct means, so that nobody behind it needs to know the language: that `ingress: [{}]` denies and
//! selects nobody, that an empty list of far ends is nobody while a missing one is everybody, that a selector means the
//! policy's own namespace. What Cilium would refuse is refused, with the field; what Cilium does and the mesh cannot do is
//! refused by name. Cilium itself passes over fields that it does not know once the API server has let them in.

mod expression;
mod l3;
mod l7;
mod name;
mod ports;
mod rule;
mod selector;

use serde_json::Value;
use tulle_model::{
    Language, NetworkRule, NetworkRules, RuleAction, RuleSection, RuleSpec, RulesKey, Selector,
};

pub use name::read_name_pattern;

use l3::Side;
use rule::{Budget, RuleReader};
use selector::Scope;

use crate::read::{Manifest, Node, PolicyKind, ReadPolicyError, ReadRules, ReadSettings};

/// Reads a CiliumNetworkPolicy or a CiliumClusterwideNetworkPolicy.
///
/// # Errors
///
/// The object is of another kind, breaks the rules of its kind, or asks for what the mesh cannot do.
pub fn read_cilium_policy(
    manifest: &Value,
    settings: &ReadSettings,
) -> Result<ReadRules, ReadPolicyError> {
    let object = Manifest::read(manifest, &KINDS)?;
    read_object(&object, settings).map_err(|error| error.of(object.kind, &object.key))
}

fn read_object(
    object: &Manifest<'_>,
    settings: &ReadSettings,
) -> Result<ReadRules, ReadPolicyError> {
    object.only(&["apiVersion", "kind", "metadata", "spec", "specs", "status"])?;
    let mut warnings = Vec::new();
    let mut reader = SpecReader {
        namespace: &object.key.namespace,
        settings,
        warnings: &mut warnings,
        budget: Budget::default(),
    };
    let mut specs = Vec::new();
    if object.root.get("spec").is_some_and(|spec| !spec.is_null()) {
        specs.push(reader.read(&object.spec)?);
    }
    if let Some(value) = object.root.get("specs").filter(|specs| !specs.is_null()) {
        let Value::Array(items) = value else {
            return Err(Node::new("specs", value).refuse("a list"));
        };
        for (i, item) in items.iter().enumerate() {
            specs.push(reader.read(&Node::new(format!("specs[{i}]"), item))?);
        }
    }
    if specs.is_empty() {
        return Err(ReadPolicyError::field("spec", "nothing", "spec or specs"));
    }
    let rules = NetworkRules {
        key: RulesKey {
            language: Language::Cilium,
            object: object.key.clone(),
        },
        audit: object.audit()?,
        specs,
    };
    Ok(ReadRules { rules, warnings })
}

/// Reads what stands in `spec`, and in each of `specs`.
struct SpecReader<'a> {
    /// The policy's; empty = of the whole cluster.
    namespace: &'a str,
    settings: &'a ReadSettings,
    warnings: &'a mut Vec<String>,
    budget: Budget,
}

impl SpecReader<'_> {
    fn read(&mut self, spec: &Node<'_>) -> Result<RuleSpec, ReadPolicyError> {
        spec.only(&SPEC_FIELDS)?;
        if let Some(node) = spec.get("nodeSelector")? {
            return Err(node.unsupported(
                "policies of nodes are not enforced; endpointSelector picks workloads",
            ));
        }
        if let Some(node) = spec.get("log")? {
            return Err(node.unsupported("denied connections are always logged, with their policy"));
        }
        let subject = self.read_subject(&spec.required("endpointSelector")?)?;
        let scope = Scope::of(&subject, self.namespace, self.settings);
        let mut says_nothing = true;
        for section in ["ingress", "ingressDeny", "egress", "egressDeny"] {
            says_nothing &= spec.list_or_empty(section)?.is_empty();
        }
        if says_nothing {
            return Err(spec.refuse(
                "at least one of ingress, ingressDeny, egress and egressDeny that is not empty",
            ));
        }
        let ingress = self.read_section(spec, &l3::INGRESS, scope)?;
        let egress = self.read_section(spec, &l3::EGRESS, scope)?;
        Ok(RuleSpec {
            subject,
            ingress,
            egress,
        })
    }

    fn read_subject(&mut self, node: &Node<'_>) -> Result<Selector, ReadPolicyError> {
        let (subject, overruled) = selector::read_subject(node, self.namespace)?;
        if let Some(found) = overruled {
            self.warnings.push(format!(
                "{} names the namespace {found:?}; a policy picks workloads of its own namespace only, {:?}",
                node.path(),
                self.namespace
            ));
        }
        Ok(subject)
    }

    /// What is said about one direction; `None` = nothing.
    fn read_section(
        &mut self,
        spec: &Node<'_>,
        side: &'static Side,
        scope: Scope<'_>,
    ) -> Result<Option<RuleSection>, ReadPolicyError> {
        let mut rules: Vec<NetworkRule> = Vec::new();
        let mut is_said = false;
        for (section, action) in [
            (side.section, RuleAction::Allow),
            (side.deny_section, RuleAction::Deny),
        ] {
            for node in spec.list_or_empty(section)? {
                is_said = true;
                let mut reader = RuleReader {
                    side,
                    action,
                    scope,
                    budget: &mut self.budget,
                };
                rules.append(&mut reader.read(&node)?);
            }
        }
        // Cilium asks for the lists' lengths, so an empty list is as good as none.
        let default_deny = match spec.get("enableDefaultDeny")? {
            None => is_said,
            Some(node) => {
                node.only(&["ingress", "egress"])?;
                match node.get(side.section)? {
                    None => is_said,
                    Some(node) => node.boolean()?,
                }
            }
        };
        let section = RuleSection {
            default_deny,
            rules,
        };
        Ok((is_said || default_deny).then_some(section))
    }
}

/// What a `spec` may hold. `labels` and `description` are for people.
const SPEC_FIELDS: [&str; 10] = [
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "labels",
    "description",
    "log",
];

const KINDS: [PolicyKind; 2] = [
    PolicyKind::CiliumNetworkPolicy,
    PolicyKind::CiliumClusterwideNetworkPolicy,
];

#[cfg(test)]
mod tests;
