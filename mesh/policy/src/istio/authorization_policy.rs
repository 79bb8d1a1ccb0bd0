//! AuthorizationPolicy.

mod rule;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch, AuthorizationRule,
    AuthorizationScope,
};

use rule::RuleReader;

use super::selector::read_selector;
use crate::read::{Manifest, Node, PolicyKind, ReadPolicyError};

/// An AuthorizationPolicy in the compiled form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedPolicy {
    /// What it says.
    pub authorization: Authorization,
    /// The labels of the workloads that shall name it; `None` = its scope says whom it reaches.
    pub selector: Option<BTreeMap<String, String>>,
    /// The selector picks in every namespace (the policy stands in the root namespace), not only in the policy's own.
    pub selects_all_namespaces: bool,
    /// What its author should know: what a node proxy leaves out of it.
    pub warnings: Vec<String>,
}

/// Reads an AuthorizationPolicy.
///
/// What it says of requests (`hosts`, `methods`, `paths`, `request.headers[..]`) is held in full; `Authorization::l4_form` is what a
/// proxy holds that sees none. Of what no node proxy sees (`remoteIpBlocks`, `requestPrincipals`, the keys of `when` that ask tokens) nothing
/// is held: an `ALLOW` or `AUDIT` rule with such a part is left out whole (less is allowed), a `DENY` rule is held without that part (more is
/// refused), or has no effect where nothing else is left of a match. To refuse the object would let in more: without its only `ALLOW`
/// policy a workload is open.
///
/// # Errors
///
/// The object is of another kind or breaks the rules of its kind; or it is for waypoints, or of the action `CUSTOM`
/// (`ReadPolicyError::NotForNodeProxies`).
pub fn read_authorization_policy(
    manifest: &Value,
    root_namespace: &str,
) -> Result<ConvertedPolicy, ReadPolicyError> {
    let object = Manifest::read(manifest, &[PolicyKind::AuthorizationPolicy])?;
    read_object(&object, root_namespace).map_err(|error| error.of(object.kind, &object.key))
}

fn read_object(
    object: &Manifest<'_>,
    root_namespace: &str,
) -> Result<ConvertedPolicy, ReadPolicyError> {
    let Manifest {
        kind, key, spec, ..
    } = object;
    let not_for_us = |reason| ReadPolicyError::NotForNodeProxies {
        kind: kind.name(),
        key: key.clone(),
        reason,
    };
    spec.only(&[
        "selector",
        "rules",
        "action",
        "provider",
        "targetRef",
        "targetRefs",
    ])?;
    if spec.get("targetRef")?.is_some() || !spec.list_or_empty("targetRefs")?.is_empty() {
        return Err(not_for_us("it targets a waypoint or gateway"));
    }
    let action = match read_action(spec)? {
        Action::Held(action) => action,
        Action::Foreign(reason) => return Err(not_for_us(reason)),
    };
    let selector = read_selector(spec)?;
    let in_root = key.namespace == root_namespace;
    let scope = match (&selector, in_root) {
        (Some(_), _) => AuthorizationScope::WorkloadSelector,
        (None, true) => AuthorizationScope::Global,
        (None, false) => AuthorizationScope::Namespace,
    };
    let mut unseen = BTreeSet::new();
    let mut rules = Vec::new();
    for node in spec.list_or_empty("rules")? {
        let mut reader = RuleReader::new(&key.namespace);
        let read = reader.read(&node)?;
        if action == AuthorizationAction::Deny || reader.unseen.is_empty() {
            rules.extend(read);
        }
        unseen.append(&mut reader.unseen);
    }
    let (dry_run, bad_dry_run) = read_dry_run(&object.annotations);
    let mut warnings = warn_unseen(action, &unseen, &rules);
    warnings.extend(bad_dry_run);
    let authorization = Authorization {
        name: key.name.clone().into(),
        namespace: key.namespace.clone().into(),
        scope,
        action,
        rules,
        dry_run,
    };
    let selects_all_namespaces = selector.is_some() && in_root;
    Ok(ConvertedPolicy {
        authorization,
        selector,
        selects_all_namespaces,
        warnings,
    })
}

enum Action {
    Held(AuthorizationAction),
    /// Not for node proxies, with the reason.
    Foreign(&'static str),
}

fn read_action(spec: &Node<'_>) -> Result<Action, ReadPolicyError> {
    let Some(node) = spec.get("action")? else {
        return Ok(Action::Held(AuthorizationAction::Allow));
    };
    match node.text()? {
        "ALLOW" => Ok(Action::Held(AuthorizationAction::Allow)),
        "DENY" => Ok(Action::Held(AuthorizationAction::Deny)),
        "AUDIT" => Ok(Action::Held(AuthorizationAction::Audit)),
        "CUSTOM" => Ok(Action::Foreign("its action is CUSTOM")),
        _ => Err(node.refuse("ALLOW, DENY, AUDIT or CUSTOM")),
    }
}

/// A dry run that cannot be read is none: the policy is held.
fn read_dry_run(annotations: &BTreeMap<String, String>) -> (bool, Option<String>) {
    match annotations.get("istio.io/dry-run").map(String::as_str) {
        Some("1" | "t" | "T" | "TRUE" | "true" | "True") => (true, None),
        None | Some("" | "0" | "f" | "F" | "FALSE" | "false" | "False") => (false, None),
        Some(_) => (
            false,
            Some("annotation istio.io/dry-run is neither true nor false: enforced".to_owned()),
        ),
    }
}

fn warn_unseen(
    action: AuthorizationAction,
    unseen: &BTreeSet<&'static str>,
    rules: &[AuthorizationRule],
) -> Vec<String> {
    if unseen.is_empty() {
        return Vec::new();
    }
    let can_match = |clause: &AuthorizationClause| {
        clause.matches.is_empty()
            || clause
                .matches
                .iter()
                .any(|m| *m != AuthorizationMatch::default())
    };
    let consequence = if action == AuthorizationAction::Allow {
        "rules with them are left out: less is allowed than written"
    } else if action == AuthorizationAction::Audit {
        "rules with them are left out: less is noted than written"
    } else if rules.iter().any(|rule| rule.clauses.iter().all(can_match)) {
        "rules are held without them: more is denied than written"
    } else {
        "nothing else is left: the policy has no effect"
    };
    let names: Vec<&str> = unseen.iter().copied().collect();
    vec![format!(
        "node proxies do not see {}; {consequence}",
        names.join(", ")
    )]
}
