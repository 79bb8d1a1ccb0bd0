//! Istio's policy objects as the catalog needs them: read, and sorted into what binds how.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tulle_model::Authorization;
use tulle_policy::{
    ReadPolicyError,
    istio::{ConvertedPolicy, PeerAuthentication, ROOT_NAMESPACE, read_authorization_policy},
};

/// One policy object.
#[derive(Debug, Clone, PartialEq)]
pub enum SourcePolicy {
    /// An AuthorizationPolicy; it stands by itself.
    Authorization(SelectedAuthorization),
    /// A PeerAuthentication; what it means depends on the others.
    PeerAuthentication(PeerAuthentication),
    /// Nothing that a node proxy could hold; the sentence says why.
    NotForNodeProxies(String),
}

/// A policy with the pods that it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectedAuthorization {
    /// What it says.
    pub authorization: Arc<Authorization>,
    /// What its author should know.
    pub warnings: Vec<String>,
    selector: Option<BTreeMap<String, String>>,
    /// Its selector reaches into every namespace.
    pub selects_all_namespaces: bool,
}

impl SourcePolicy {
    /// Reads an AuthorizationPolicy or a PeerAuthentication.
    ///
    /// # Errors
    ///
    /// When the object breaks the rules of its kind.
    pub fn parse(object: &Value) -> Result<Self, ReadPolicyError> {
        let peer = object.get("kind").and_then(Value::as_str) == Some("PeerAuthentication");
        let read = if peer {
            PeerAuthentication::read(object).map(SourcePolicy::PeerAuthentication)
        } else {
            read_authorization_policy(object, ROOT_NAMESPACE)
                .map(|c| SourcePolicy::Authorization(c.into()))
        };
        match read {
            Err(error @ ReadPolicyError::NotForNodeProxies { .. }) => {
                Ok(SourcePolicy::NotForNodeProxies(error.to_string()))
            }
            other => other,
        }
    }

    /// What the object's author should know.
    pub fn warnings(&self) -> &[String] {
        match self {
            SourcePolicy::Authorization(policy) => &policy.warnings,
            SourcePolicy::PeerAuthentication(_) => &[],
            SourcePolicy::NotForNodeProxies(reason) => std::slice::from_ref(reason),
        }
    }
}

impl SelectedAuthorization {
    /// Whether it picks pods by their labels; otherwise its scope says whom it reaches.
    pub fn has_selector(&self) -> bool {
        self.selector.is_some()
    }

    /// Whether its selector picks a pod with these labels.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let Some(selector) = &self.selector else {
            return false;
        };
        (self.selects_all_namespaces || self.authorization.namespace == namespace)
            && selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl From<ConvertedPolicy> for SelectedAuthorization {
    fn from(policy: ConvertedPolicy) -> Self {
        SelectedAuthorization {
            authorization: Arc::new(policy.authorization),
            warnings: policy.warnings,
            selector: policy.selector,
            selects_all_namespaces: policy.selects_all_namespaces,
        }
    }
}
