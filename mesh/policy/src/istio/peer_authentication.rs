//! PeerAuthentication: where plain text is refused.

mod levels;

use std::collections::BTreeMap;

use serde_json::Value;
use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch, AuthorizationRule,
    AuthorizationScope, NamespacedName, StringMatch,
};

use super::selector::read_selector;
use crate::read::{Manifest, Node, PolicyKind, ReadPolicyError};

pub use levels::PeerAuthentications;

/// One PeerAuthentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The object's name.
    pub key: NamespacedName,
    /// When it was made (RFC 3339, UTC), empty when not known: the oldest of several wins.
    pub created: String,
    /// The labels of the workloads that it is for; empty = all of its namespace (of the mesh, in the root namespace).
    pub selector: BTreeMap<String, String>,
    /// For all ports.
    pub mode: MtlsMode,
    /// For single ports of the workload; only together with a selector.
    pub ports: BTreeMap<u16, MtlsMode>,
}

/// What is asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtlsMode {
    /// As the level above says.
    #[default]
    Unset,
    /// No mTLS. A node proxy takes it as `Permissive`: its peers choose mTLS by themselves.
    Disable,
    /// Plain text and mTLS.
    Permissive,
    /// mTLS only.
    Strict,
}

impl MtlsMode {
    /// Whether plain text is refused; `None` = the level above says.
    fn refuses_plain_text(self) -> Option<bool> {
        match self {
            MtlsMode::Unset => None,
            MtlsMode::Disable | MtlsMode::Permissive => Some(false),
            MtlsMode::Strict => Some(true),
        }
    }

    fn read(node: Option<Node<'_>>) -> Result<Self, ReadPolicyError> {
        let Some(node) = node else {
            return Ok(MtlsMode::Unset);
        };
        node.only(&["mode"])?;
        let Some(mode) = node.get("mode")? else {
            return Ok(MtlsMode::Unset);
        };
        match mode.text()? {
            "UNSET" => Ok(MtlsMode::Unset),
            "DISABLE" => Ok(MtlsMode::Disable),
            "PERMISSIVE" => Ok(MtlsMode::Permissive),
            "STRICT" => Ok(MtlsMode::Strict),
            _ => Err(mode.refuse("UNSET, DISABLE, PERMISSIVE or STRICT")),
        }
    }
}

impl PeerAuthentication {
    /// Reads a PeerAuthentication.
    ///
    /// # Errors
    ///
    /// The object is of another kind or breaks the rules of its kind.
    pub fn read(manifest: &Value) -> Result<Self, ReadPolicyError> {
        let object = Manifest::read(manifest, &[PolicyKind::PeerAuthentication])?;
        Self::read_object(&object).map_err(|error| error.of(object.kind, &object.key))
    }

    fn read_object(object: &Manifest<'_>) -> Result<Self, ReadPolicyError> {
        let spec = &object.spec;
        spec.only(&["selector", "mtls", "portLevelMtls"])?;
        let selector = read_selector(spec)?.unwrap_or_default();
        let mode = MtlsMode::read(spec.get("mtls")?)?;
        let mut ports = BTreeMap::new();
        if let Some(node) = spec.get("portLevelMtls")? {
            for (text, port_mode) in node.entries()? {
                let port = text.parse::<u16>().ok().filter(|port| *port != 0);
                let port = port.ok_or_else(|| node.refuse("ports of 1–65535 as keys"))?;
                ports.insert(port, MtlsMode::read(Some(port_mode))?);
            }
            if selector.is_empty() && !ports.is_empty() {
                return Err(node.refuse("a selector beside it"));
            }
        }
        Ok(PeerAuthentication {
            key: object.key.clone(),
            created: object.created.clone(),
            selector,
            mode,
            ports,
        })
    }

    /// The policy that this object is if there is no other.
    pub(super) fn alone(&self, root_namespace: &str) -> Result<Authorization, ReadPolicyError> {
        let nothing = |reason| ReadPolicyError::NotForNodeProxies {
            kind: PolicyKind::PeerAuthentication.name(),
            key: self.key.clone(),
            reason,
        };
        let in_root = self.key.namespace == root_namespace;
        let scope = match (self.selector.is_empty(), in_root) {
            (true, true) => AuthorizationScope::Global,
            (true, false) => AuthorizationScope::Namespace,
            (false, false) => AuthorizationScope::WorkloadSelector,
            (false, true) => return Err(nothing("a selector in the root namespace is ignored")),
        };
        let rules = self.rules(false);
        if rules.is_empty() {
            return Err(nothing("it refuses no plain text"));
        }
        Ok(deny(self.converted_key(), scope, rules))
    }

    /// What refuses plain text, given what the levels above say; empty = nothing is refused.
    fn rules(&self, strict_above: bool) -> Vec<AuthorizationRule> {
        let ports_refusing = |wanted: bool| {
            let fits = move |mode: &MtlsMode| mode.refuses_plain_text() == Some(wanted);
            self.ports
                .iter()
                .filter(move |(_, mode)| fits(mode))
                .map(|(port, _)| *port)
        };
        if self.mode.refuses_plain_text().unwrap_or(strict_above) {
            // Plain text, and none of the exceptions.
            let except = |port| AuthorizationMatch {
                not_destination_ports: vec![port],
                ..Default::default()
            };
            let matches = std::iter::once(plain_text()).chain(ports_refusing(false).map(except));
            let clauses = matches
                .map(|matched| AuthorizationClause {
                    matches: vec![matched],
                })
                .collect();
            return vec![AuthorizationRule { clauses }];
        }
        let at = |port| AuthorizationMatch {
            destination_ports: vec![port],
            ..plain_text()
        };
        let rule = |port| AuthorizationRule {
            clauses: vec![AuthorizationClause {
                matches: vec![at(port)],
            }],
        };
        ports_refusing(true).map(rule).collect()
    }

    /// Whether it says something else for one port than for the others.
    fn has_exceptions(&self, strict_above: bool) -> bool {
        let strict = self.mode.refuses_plain_text().unwrap_or(strict_above);
        self.ports
            .values()
            .any(|mode| mode.refuses_plain_text() == Some(!strict))
    }

    /// istiod's name for what it makes of the object; `_` keeps it apart from names of Kubernetes objects.
    fn converted_key(&self) -> NamespacedName {
        let name = format!("converted_peer_authentication_{}", self.key.name);
        NamespacedName::new(self.key.namespace.clone(), name)
    }
}

/// A peer that proved nothing.
fn plain_text() -> AuthorizationMatch {
    AuthorizationMatch {
        not_principals: vec![StringMatch::Presence],
        ..AuthorizationMatch::default()
    }
}

fn deny(
    key: NamespacedName,
    scope: AuthorizationScope,
    rules: Vec<AuthorizationRule>,
) -> Authorization {
    let NamespacedName { namespace, name } = key;
    Authorization {
        name: name.to_string(),
        namespace: namespace.to_string(),
        scope,
        action: AuthorizationAction::Deny,
        rules,
        dry_run: false,
    }
}
