//! What the cluster's own objects mean for the mesh: pods become workloads, services and slices their services.
//!
//! Fed with whole-object changes, answers with the mesh facts that changed; the cost is that of the objects that the changes
//! touch. Holds no clock and does no I/O.
//!
//! **Invariant:** the facts are a function of the objects alone, not of the order in which they came
//! (`order_of_objects_does_not_matter`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::Serialize;
use tulle_model::{
    Authorization, Change, ClusterName, Language, NamespacedName, Rules, RulesKey, Service,
    TrustDomain, Workload, WorkloadUid,
};
use tulle_policy::istio::{PeerAuthentications, ROOT_NAMESPACE};

use self::{
    node::NodeFacts,
    pod::{NamespaceFacts, PodFacts},
    service::ServiceFacts,
    slice::SliceFacts,
};
use crate::{
    policy_source::SourcePolicy,
    source::{Object, ObjectChange, ObjectKey, ObjectKind},
};

mod labels;
mod node;
mod pod;
mod service;
mod slice;
mod tell;
mod workload;

/// The names that the cluster's facts carry.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// The cluster's own name.
    pub cluster: ClusterName,
    /// The authority of its identities.
    pub trust_domain: TrustDomain,
    /// Whether the services of a namespace that does not say otherwise may be global.
    pub namespaces_global: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Catalog {
    settings: CatalogSettings,
    namespaces: HashMap<String, NamespaceFacts>,
    nodes: HashMap<String, NodeFacts>,
    pods: BTreeMap<NamespacedName, PodFacts>,
    services: BTreeMap<NamespacedName, ServiceFacts>,
    slices: BTreeMap<NamespacedName, SliceFacts>,
    policies: BTreeMap<ObjectKey, SourcePolicy>,
    peer_authentications: PeerAuthentications,
    pods_by_node: HashMap<String, BTreeSet<NamespacedName>>,
    slices_by_pod: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    slices_by_service: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// Slices with endpoints that no pod stands behind, by the nodes that they name.
    slices_by_node: HashMap<String, BTreeSet<NamespacedName>>,
    /// What was told last.
    told_workloads: HashMap<WorkloadUid, Arc<Workload>>,
    told_services: HashMap<NamespacedName, Arc<Service>>,
    told_policies: BTreeMap<NamespacedName, Arc<Authorization>>,
    told_rules: BTreeMap<RulesKey, Arc<Rules>>,
    /// Workloads of slices that name no pod, by slice.
    podless: HashMap<NamespacedName, BTreeSet<WorkloadUid>>,
    warnings: BTreeMap<ObjectKey, Vec<String>>,
    placements: imbl::HashMap<Placement, u32>,
    node_names: imbl::HashSet<String>,
}

/// A service account in use on a node: what the node's proxy may ask certificates for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// The namespace of the account.
    pub namespace: String,
    /// The account's name.
    pub service_account: String,
}

/// Something about an object that its author should know; nothing is refused for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Kind, namespace and name.
    pub object: String,
    /// One sentence.
    pub message: String,
}

/// What must be computed again.
#[derive(Debug, Default)]
struct Dirty {
    pods: BTreeSet<NamespacedName>,
    slices: BTreeSet<NamespacedName>,
    services: BTreeSet<NamespacedName>,
    policies: BTreeSet<NamespacedName>,
    rules: BTreeSet<RulesKey>,
    nodes: BTreeSet<String>,
    peer_authentications: bool,
}

impl Catalog {
    /// An empty cluster.
    pub fn new(settings: CatalogSettings) -> Self {
        Catalog {
            settings,
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            policies: BTreeMap::new(),
            peer_authentications: PeerAuthentications::new(ROOT_NAMESPACE, []),
            pods_by_node: HashMap::new(),
            slices_by_pod: HashMap::new(),
            slices_by_service: HashMap::new(),
            slices_by_node: HashMap::new(),
            told_workloads: HashMap::new(),
            told_services: HashMap::new(),
            told_policies: BTreeMap::new(),
            told_rules: BTreeMap::new(),
            podless: HashMap::new(),
            warnings: BTreeMap::new(),
            placements: imbl::HashMap::new(),
            node_names: imbl::HashSet::new(),
        }
    }

    /// Takes object changes in and tells what they change for the mesh.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = ObjectChange>) -> Vec<Change> {
        let mut dirty = Dirty::default();
        for change in changes {
            match change {
                ObjectChange::Put(key, object) => self.put(key, &object, &mut dirty),
                ObjectChange::Gone(key) => self.remove(&key, &mut dirty),
            }
        }
        let mut facts = Vec::new();
        if dirty.peer_authentications {
            self.renew_peer_authentications(&mut dirty);
        }
        for key in &dirty.policies {
            self.tell_policy(key, &mut facts);
        }
        for key in &dirty.rules {
            self.tell_rules(key, &mut facts);
        }
        for key in &dirty.services {
            self.tell_service(key, &mut facts);
        }
        for name in &dirty.nodes {
            self.tell_node(name, &mut facts);
        }
        for key in &dirty.pods {
            self.tell_pod(key, &mut facts);
        }
        for key in &dirty.slices {
            self.tell_podless(key, &mut facts);
        }
        facts
    }

    /// The warnings by object, at most `WARNINGS_MAX`.
    pub fn warnings(&self) -> Vec<Warning> {
        let all = self.warnings.iter().flat_map(|(key, messages)| {
            let object = key.to_string();
            messages.iter().map(move |m| Warning {
                object: object.clone(),
                message: m.clone(),
            })
        });
        all.take(WARNINGS_MAX).collect()
    }

    /// The service accounts in use, by node, with how many pods use them.
    pub fn placements(&self) -> &imbl::HashMap<Placement, u32> {
        &self.placements
    }

    /// The nodes that exist.
    pub fn node_names(&self) -> &imbl::HashSet<String> {
        &self.node_names
    }

    fn put(&mut self, key: ObjectKey, object: &Object, dirty: &mut Dirty) {
        let name = NamespacedName::new(key.namespace.clone(), key.name.clone());
        match object {
            Object::Namespace(namespace) => {
                let (facts, warnings) = NamespaceFacts::of(&namespace.metadata);
                self.put_namespace(&key.name, Some(facts), dirty);
                self.warn(key, &warnings);
            }
            Object::Node(node) => {
                let facts = NodeFacts::of(node);
                self.node_names.insert(key.name.clone());
                let old = self.nodes.get(&key.name);
                if old.map(|old| &old.locality) != Some(&facts.locality) {
                    self.mark_node(&key.name, dirty);
                }
                self.nodes.insert(key.name.clone(), facts);
                dirty.nodes.insert(key.name);
            }
            // An identity needs no account object: pods name their account.
            Object::ServiceAccount(_) => {}
            Object::Pod(pod) => self.put_pod(name, Some(PodFacts::of(pod)), dirty),
            Object::Service(service) => {
                self.put_service(name, Some(ServiceFacts::of(service)), dirty);
            }
            Object::EndpointSlice(slice) => {
                let facts = SliceFacts::of(slice);
                self.warn(key, &facts.warnings);
                self.put_slice(name, Some(facts), dirty);
            }
            Object::Policy(policy) => {
                self.warn(key.clone(), policy.warnings());
                self.put_policy(key, Some((**policy).clone()), dirty);
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let name = NamespacedName::new(key.namespace.clone(), key.name.clone());
        self.warnings.remove(key);
        match key.kind {
            ObjectKind::Namespace => self.put_namespace(&key.name, None, dirty),
            ObjectKind::Node => {
                self.node_names.remove(&key.name);
                if self.nodes.remove(&key.name).is_some() {
                    self.mark_node(&key.name, dirty);
                    dirty.nodes.insert(key.name.clone());
                }
            }
            ObjectKind::ServiceAccount => {}
            ObjectKind::Pod => self.put_pod(name, None, dirty),
            ObjectKind::Service => self.put_service(name, None, dirty),
            ObjectKind::EndpointSlice => self.put_slice(name, None, dirty),
            ObjectKind::AuthorizationPolicy
            | ObjectKind::PeerAuthentication
            | ObjectKind::NetworkPolicy
            | ObjectKind::CiliumNetworkPolicy
            | ObjectKind::CiliumClusterwideNetworkPolicy => {
                self.put_policy(key.clone(), None, dirty);
            }
        }
    }

    fn put_namespace(&mut self, name: &str, facts: Option<NamespaceFacts>, dirty: &mut Dirty) {
        let new = facts.clone().unwrap_or_default();
        let old = match facts {
            Some(facts) => self.namespaces.insert(name.to_owned(), facts),
            None => self.namespaces.remove(name),
        };
        let old = old.unwrap_or_default();
        if old.out_of_mesh != new.out_of_mesh || old.labels != new.labels {
            dirty.pods.extend(self.pods_in(name));
        }
        if old.global != new.global {
            let from = NamespacedName::new(name, "");
            let tail = self.services.range(from..).map(|(key, _)| key);
            let inside = tail.take_while(|key| key.namespace == name);
            dirty.services.extend(inside.cloned());
        }
    }

    fn warn(&mut self, key: ObjectKey, messages: &[String]) {
        if messages.is_empty() {
            self.warnings.remove(&key);
        } else {
            self.warnings.insert(key, messages.to_vec());
        }
    }

    fn put_pod(&mut self, key: NamespacedName, facts: Option<PodFacts>, dirty: &mut Dirty) {
        let old = match &facts {
            Some(new) => self.pods.insert(key.clone(), new.clone()),
            None => self.pods.remove(&key),
        };
        if let Some(old) = &old {
            remove_from(&mut self.pods_by_node, &old.node, &key);
            if let Some(placement) = old.placement().map(|p| p.in_namespace(&key.namespace)) {
                let left = self
                    .placements
                    .get(&placement)
                    .map_or(0, |n| n.saturating_sub(1));
                if left == 0 {
                    self.placements.remove(&placement);
                } else {
                    self.placements.insert(placement, left);
                }
            }
        }
        if let Some(new) = &facts {
            add_to(&mut self.pods_by_node, &new.node, &key);
            if let Some(placement) = new.placement().map(|p| p.in_namespace(&key.namespace)) {
                *self.placements.entry(placement).or_insert(0) += 1;
            }
        }
        dirty.pods.insert(key);
    }

    fn put_service(&mut self, key: NamespacedName, facts: Option<ServiceFacts>, dirty: &mut Dirty) {
        match facts {
            Some(facts) => self.services.insert(key.clone(), facts),
            None => self.services.remove(&key),
        };
        for slice in self.slices_by_service.get(&key).into_iter().flatten() {
            if let Some(facts) = self.slices.get(slice) {
                dirty.pods.extend(facts.pods());
            }
            dirty.slices.insert(slice.clone());
        }
        dirty.services.insert(key);
    }

    fn put_slice(&mut self, key: NamespacedName, facts: Option<SliceFacts>, dirty: &mut Dirty) {
        let old = match &facts {
            Some(new) => self.slices.insert(key.clone(), new.clone()),
            None => self.slices.remove(&key),
        };
        if let Some(old) = &old {
            for pod in old.pods() {
                remove_from(&mut self.slices_by_pod, &pod, &key);
                dirty.pods.insert(pod);
            }
            if let Some(service) = &old.service {
                remove_from(&mut self.slices_by_service, service, &key);
            }
            for node in old.nodes() {
                remove_from(&mut self.slices_by_node, node, &key);
            }
        }
        if let Some(new) = &facts {
            for pod in new.pods() {
                add_to(&mut self.slices_by_pod, &pod, &key);
                dirty.pods.insert(pod);
            }
            if let Some(service) = &new.service {
                add_to(&mut self.slices_by_service, service, &key);
            }
            for node in new.nodes() {
                add_to(&mut self.slices_by_node, node, &key);
            }
        }
        dirty.slices.insert(key);
    }

    fn put_policy(&mut self, key: ObjectKey, policy: Option<SourcePolicy>, dirty: &mut Dirty) {
        let old = match &policy {
            Some(new) => self.policies.insert(key, new.clone()),
            None => self.policies.remove(&key),
        };
        for side in [old, policy].into_iter().flatten() {
            match side {
                // Only a selector touches workloads; scope and rules travel in the policy itself.
                SourcePolicy::Authorization(policy) => {
                    if policy.selects_all_namespaces {
                        dirty.pods.extend(self.pods.keys().cloned());
                    } else if policy.has_selector() {
                        dirty
                            .pods
                            .extend(self.pods_in(&policy.authorization.namespace));
                    }
                    let object = policy.authorization.key();
                    dirty.rules.insert(RulesKey {
                        language: Language::Istio,
                        object: object.clone(),
                    });
                    dirty.policies.insert(object);
                }
                SourcePolicy::PeerAuthentication(_) => dirty.peer_authentications = true,
                SourcePolicy::Network(policy) => {
                    dirty.rules.insert(policy.rules.key());
                }
                SourcePolicy::NotForNodeProxies(_) => {}
            }
        }
    }

    /// They depend on each other, so one change is a change of all; there are few of them and they change rarely.
    fn renew_peer_authentications(&mut self, dirty: &mut Dirty) {
        let before = self.peer_authentications.authorizations();
        let objects = self.policies.values().filter_map(|policy| match policy {
            SourcePolicy::PeerAuthentication(object) => Some(object.clone()),
            SourcePolicy::Authorization(_)
            | SourcePolicy::Network(_)
            | SourcePolicy::NotForNodeProxies(_) => None,
        });
        self.peer_authentications = PeerAuthentications::new(ROOT_NAMESPACE, objects);
        let after = self.peer_authentications.authorizations();
        dirty
            .policies
            .extend(before.iter().chain(&after).map(Authorization::key));
        dirty.pods.extend(self.pods.keys().cloned());
    }

    fn pods_in(&self, namespace: &str) -> impl Iterator<Item = NamespacedName> {
        let from = NamespacedName::new(namespace, "");
        let tail = self.pods.range(from..);
        tail.map(|(k, _)| k)
            .take_while(move |k| k.namespace == namespace)
            .cloned()
    }

    fn mark_node(&self, node: &str, dirty: &mut Dirty) {
        dirty
            .pods
            .extend(self.pods_by_node.get(node).into_iter().flatten().cloned());
        dirty
            .slices
            .extend(self.slices_by_node.get(node).into_iter().flatten().cloned());
    }

    /// The policies that a pod with these labels is bound by through a selector.
    fn policies_for(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<String> {
        let selected = self.policies.values().filter_map(|policy| match policy {
            SourcePolicy::Authorization(p) if p.selects(namespace, labels) => {
                Some(p.authorization.key())
            }
            SourcePolicy::Authorization(_)
            | SourcePolicy::PeerAuthentication(_)
            | SourcePolicy::Network(_)
            | SourcePolicy::NotForNodeProxies(_) => None,
        });
        let bound = self.peer_authentications.bindings(namespace, labels);
        let names: BTreeSet<String> = selected.chain(bound).map(|k| k.to_string()).collect();
        names.into_iter().collect()
    }
}

fn add_to<K>(index: &mut HashMap<K, BTreeSet<NamespacedName>>, key: &K, member: &NamespacedName)
where
    K: std::hash::Hash + Eq + Clone,
{
    index.entry(key.clone()).or_default().insert(member.clone());
}

fn remove_from<K>(
    index: &mut HashMap<K, BTreeSet<NamespacedName>>,
    key: &K,
    member: &NamespacedName,
) where
    K: std::hash::Hash + Eq,
{
    if let Some(members) = index.get_mut(key) {
        members.remove(member);
        if members.is_empty() {
            index.remove(key);
        }
    }
}

/// More warnings than this help nobody.
const WARNINGS_MAX: usize = 256;
/// The suffix of every service's name.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

#[cfg(test)]
mod tests;
