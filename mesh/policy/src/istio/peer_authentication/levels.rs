//! Several PeerAuthentications together: workload over namespace over mesh.

use std::collections::BTreeMap;

use tulle_model::{
    Authorization, AuthorizationClause, AuthorizationRule, AuthorizationScope, NamespacedName,
};

use super::{PeerAuthentication, deny, plain_text};

/// All PeerAuthentications of a cluster.
///
/// What they come to depends on each other, so any change of one is a change of the set: make it anew, and compare
/// `authorizations` and the `bindings` of the workloads with what was.
#[derive(Debug, Clone)]
pub struct PeerAuthentications {
    root_namespace: String,
    /// Oldest first, so that the first that fits wins.
    objects: Vec<PeerAuthentication>,
}

impl PeerAuthentications {
    /// Gathers the objects of a cluster whose root namespace is `root_namespace`.
    pub fn new(
        root_namespace: impl Into<String>,
        objects: impl IntoIterator<Item = PeerAuthentication>,
    ) -> Self {
        let mut objects: Vec<_> = objects.into_iter().collect();
        // The API server writes one form of time, so that texts sort as times do. The key makes the order total.
        objects.sort_by(|a, b| (&a.created, &a.key).cmp(&(&b.created, &b.key)));
        PeerAuthentications {
            root_namespace: root_namespace.into(),
            objects,
        }
    }

    /// The policies that workloads are bound to: all of scope `WorkloadSelector`, sorted by key.
    pub fn authorizations(&self) -> Vec<Authorization> {
        if self.objects.is_empty() {
            return Vec::new();
        }
        let mut made = BTreeMap::new();
        let clause = AuthorizationClause {
            matches: vec![plain_text()],
        };
        let rules = vec![AuthorizationRule {
            clauses: vec![clause],
        }];
        made.insert(
            self.static_strict(),
            deny(
                self.static_strict(),
                AuthorizationScope::WorkloadSelector,
                rules,
            ),
        );
        for object in self
            .objects
            .iter()
            .filter(|object| self.is_for_workloads(object))
        {
            let strict_above = self.is_strict(&object.key.namespace);
            if object.has_exceptions(strict_above) {
                let rules = object.rules(strict_above);
                let policy = deny(
                    object.converted_key(),
                    AuthorizationScope::WorkloadSelector,
                    rules,
                );
                made.insert(policy.key(), policy);
            }
        }
        made.into_values().collect()
    }

    /// The policies that a workload must name; each of them is in `authorizations`.
    pub fn bindings(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<NamespacedName> {
        let strict_above = self.is_strict(namespace);
        let selects = |object: &&PeerAuthentication| {
            object.key.namespace == namespace
                && self.is_for_workloads(object)
                && object
                    .selector
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
        };
        match self.objects.iter().find(selects) {
            Some(object) if object.has_exceptions(strict_above) => vec![object.converted_key()],
            Some(object) if object.mode.refuses_plain_text().unwrap_or(strict_above) => {
                vec![self.static_strict()]
            }
            None if strict_above => vec![self.static_strict()],
            Some(_) | None => Vec::new(),
        }
    }

    /// What namespace and mesh say for a workload that no object selects.
    fn is_strict(&self, namespace: &str) -> bool {
        let level = |namespace: &str| {
            let fits =
                |o: &&PeerAuthentication| o.key.namespace == namespace && o.selector.is_empty();
            self.objects
                .iter()
                .find(fits)
                .and_then(|object| object.mode.refuses_plain_text())
        };
        level(namespace)
            .or_else(|| level(&self.root_namespace))
            .unwrap_or(false)
    }

    /// A selector in the root namespace is ignored.
    fn is_for_workloads(&self, object: &PeerAuthentication) -> bool {
        !object.selector.is_empty() && object.key.namespace != self.root_namespace
    }

    /// istiod's name for the policy that refuses all plain text.
    fn static_strict(&self) -> NamespacedName {
        NamespacedName::new(self.root_namespace.clone(), "istio_converted_static_strict")
    }
}
