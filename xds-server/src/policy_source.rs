//! Policy objects as the catalog needs them: read, and sorted into what binds how.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tulle_model::{Authorization, Rules};
use tulle_policy::{
    ReadPolicyError, ReadRules, ReadSettings,
    istio::{ConvertedPolicy, PeerAuthentication, ROOT_NAMESPACE, read_authorization_policy},
    read_cilium_policy, read_network_policy,
};

use crate::source::ObjectKind;

/// One policy object.
#[derive(Debug, Clone, PartialEq)]
pub enum SourcePolicy {
    /// An AuthorizationPolicy; it stands by itself.
    Authorization(SelectedAuthorization),
    /// A PeerAuthentication; what it means depends on the others.
    PeerAuthentication(PeerAuthentication),
    /// Rules of another language than Istio's.
    Network(NetworkPolicy),
    /// Nothing that a node proxy could hold; the sentence says why.
    NotForNodeProxies(String),
}

/// Rules with what their author should know.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkPolicy {
    /// What they say.
    pub rules: Arc<Rules>,
    /// What their author should know.
    pub warnings: Vec<String>,
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
    /// Reads a policy object of that kind.
    ///
    /// # Errors
    ///
    /// When the object breaks the rules of its kind, or says what the mesh cannot do.
    pub fn parse(
        kind: ObjectKind,
        object: &Value,
        settings: &ReadSettings,
    ) -> Result<Self, ReadPolicyError> {
        let read = match kind {
            ObjectKind::PeerAuthentication => {
                PeerAuthentication::read(object).map(SourcePolicy::PeerAuthentication)
            }
            ObjectKind::NetworkPolicy => {
                read_network_policy(object, settings).map(|r| SourcePolicy::Network(r.into()))
            }
            ObjectKind::CiliumNetworkPolicy | ObjectKind::CiliumClusterwideNetworkPolicy => {
                read_cilium_policy(object, settings).map(|r| SourcePolicy::Network(r.into()))
            }
            ObjectKind::AuthorizationPolicy
            | ObjectKind::Namespace
            | ObjectKind::Node
            | ObjectKind::ServiceAccount
            | ObjectKind::Pod
            | ObjectKind::Service
            | ObjectKind::EndpointSlice => read_authorization_policy(object, ROOT_NAMESPACE)
                .map(|c| SourcePolicy::Authorization(c.into())),
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
            SourcePolicy::Network(policy) => &policy.warnings,
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

impl From<ReadRules> for NetworkPolicy {
    fn from(read: ReadRules) -> Self {
        NetworkPolicy {
            rules: Arc::new(Rules::Network(read.rules)),
            warnings: read.warnings,
        }
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
