//! Tells what changed: compares what a thing is now with what was told of it last.

use std::{collections::BTreeSet, sync::Arc};

use tulle_model::{
    Authorization, Change, Language, NamespacedName, Rules, RulesKey, Service, Sharing, Workload,
    WorkloadUid,
};

use super::{Catalog, service::annotations::NAMESPACE_KEY};
use crate::{
    policy_source::SourcePolicy,
    source::{ObjectKey, ObjectKind},
};

impl Catalog {
    pub(super) fn tell_policy(&mut self, key: &NamespacedName, facts: &mut Vec<Change>) {
        let now = self.policy(key);
        match (self.told_policies.get(key), now) {
            (old, Some(new)) if old != Some(&new) => {
                facts.push(Change::Policy(Arc::clone(&new)));
                self.told_policies.insert(key.clone(), new);
            }
            (Some(_), None) => {
                facts.push(Change::PolicyGone(key.clone()));
                self.told_policies.remove(key);
            }
            (Some(_) | None, _) => {}
        }
    }

    pub(super) fn tell_rules(&mut self, key: &RulesKey, facts: &mut Vec<Change>) {
        let now = self.rules(key);
        match (self.told_rules.get(key), now) {
            (old, Some(new)) if old != Some(&new) => {
                facts.push(Change::Rules(Arc::clone(&new)));
                self.told_rules.insert(key.clone(), new);
            }
            (Some(_), None) => {
                facts.push(Change::RulesGone(key.clone()));
                self.told_rules.remove(key);
            }
            (Some(_) | None, _) => {}
        }
    }

    fn rules(&self, key: &RulesKey) -> Option<Arc<Rules>> {
        let kind = match key.language {
            Language::Cilium if key.object.namespace.is_empty() => {
                ObjectKind::CiliumClusterwideNetworkPolicy
            }
            Language::Cilium => ObjectKind::CiliumNetworkPolicy,
            Language::Kubernetes => ObjectKind::NetworkPolicy,
            Language::Istio => ObjectKind::AuthorizationPolicy,
        };
        let object = ObjectKey {
            kind,
            namespace: key.object.namespace.clone().into(),
            name: key.object.name.clone().into(),
        };
        match self.policies.get(&object)? {
            SourcePolicy::Network(policy) => Some(Arc::clone(&policy.rules)),
            // What the form for L4 proxies cannot say travels beside it.
            SourcePolicy::Authorization(policy) if policy.authorization.exceeds_l4() => {
                let whole = Authorization::clone(&policy.authorization);
                Some(Arc::new(Rules::Authorization(whole)))
            }
            SourcePolicy::Authorization(_)
            | SourcePolicy::PeerAuthentication(_)
            | SourcePolicy::NotForNodeProxies(_) => None,
        }
    }

    /// Names made from PeerAuthentications hold a `_`, which no Kubernetes object's name has.
    fn policy(&self, key: &NamespacedName) -> Option<Arc<Authorization>> {
        let object = ObjectKey {
            kind: ObjectKind::AuthorizationPolicy,
            namespace: key.namespace.clone().into(),
            name: key.name.clone().into(),
        };
        if let Some(SourcePolicy::Authorization(policy)) = self.policies.get(&object) {
            return Some(Arc::clone(&policy.authorization));
        }
        let made = self.peer_authentications.authorizations();
        made.into_iter().find(|a| a.key() == *key).map(Arc::new)
    }

    pub(super) fn tell_service(&mut self, key: &NamespacedName, facts: &mut Vec<Change>) {
        let now = self.gated_service(key);
        match (self.told_services.get(key), now) {
            (old, Some(new)) if old != Some(&new) => {
                facts.push(Change::Service(Arc::clone(&new)));
                self.told_services.insert(key.clone(), new);
            }
            (Some(old), None) => {
                facts.push(Change::ServiceGone(old.key()));
                self.told_services.remove(key);
            }
            (Some(_) | None, _) => {}
        }
    }

    /// The service as its namespace lets it be; a service that cannot be global says so in its warnings.
    fn gated_service(&mut self, key: &NamespacedName) -> Option<Arc<Service>> {
        let object = ObjectKey {
            kind: ObjectKind::Service,
            namespace: key.namespace.clone().into(),
            name: key.name.clone().into(),
        };
        let Some(facts) = self.services.get(key) else {
            self.warnings.remove(&object);
            return None;
        };
        let service = facts.service.clone();
        let mut warnings = facts.warnings.clone();
        let wants_global = service.as_ref().is_some_and(|s| s.sharing.global);
        let gated = wants_global && !self.may_be_global(&key.namespace);
        if gated {
            warnings.push(format!(
                "the service is not global: its namespace {} is not ({NAMESPACE_KEY})",
                key.namespace
            ));
        }
        self.warn(object, &warnings);
        let service = service?;
        if !gated {
            return Some(service);
        }
        let sharing = Sharing {
            global: false,
            shared: false,
            ..service.sharing
        };
        Some(Arc::new(Service {
            sharing,
            ..(*service).clone()
        }))
    }

    fn may_be_global(&self, namespace: &str) -> bool {
        let said = self.namespaces.get(namespace).and_then(|n| n.global);
        said.unwrap_or(self.settings.namespaces_global)
    }

    pub(super) fn tell_pod(&mut self, key: &NamespacedName, facts: &mut Vec<Change>) {
        let uid = WorkloadUid::of_pod(&self.settings.cluster, &key.namespace, &key.name);
        let workload = self.workload_of_pod(key, &uid);
        self.tell_workload(uid, workload, facts);
    }

    pub(super) fn tell_node(&mut self, name: &str, facts: &mut Vec<Change>) {
        let uid = WorkloadUid::of_node(&self.settings.cluster, name);
        let workload = self.workload_of_node(name);
        self.tell_workload(uid, workload, facts);
    }

    pub(super) fn tell_podless(&mut self, key: &NamespacedName, facts: &mut Vec<Change>) {
        let workloads = self.workloads_of_slice(key);
        let uids: BTreeSet<WorkloadUid> = workloads.iter().map(|w| w.uid.clone()).collect();
        let old = if uids.is_empty() {
            self.podless.remove(key)
        } else {
            self.podless.insert(key.clone(), uids.clone())
        };
        for workload in workloads {
            self.tell_workload(workload.uid.clone(), Some(workload), facts);
        }
        for uid in old.unwrap_or_default().difference(&uids) {
            self.tell_workload(uid.clone(), None, facts);
        }
    }

    pub(super) fn tell_workload(
        &mut self,
        uid: WorkloadUid,
        now: Option<Workload>,
        facts: &mut Vec<Change>,
    ) {
        let old = self.told_workloads.get(&uid);
        match now {
            Some(new) if old.is_none_or(|old| **old != new) => {
                let new = Arc::new(new);
                self.told_workloads.insert(uid, Arc::clone(&new));
                facts.push(Change::Workload(new));
            }
            None if old.is_some() => {
                self.told_workloads.remove(&uid);
                facts.push(Change::WorkloadGone(uid));
            }
            Some(_) | None => {}
        }
    }
}
