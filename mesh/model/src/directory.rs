//! The whole-mesh view that a node decides from.
//!
//! A `Directory` is a persistent map: a clone shares everything that did not change, so publishing a new snapshot costs
//! what the change costs, however large the mesh is.

use std::{net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap, OrdSet};

use crate::{
    Authorization, AuthorizationScope, NamespacedName, Rules, RulesKey, Service, Text, TrustBundle,
    TrustDomain, Workload, WorkloadUid,
};

/// Workloads, services, policies and trust bundles, with the indexes that connections are looked up by.
///
/// **Invariant:** every index entry points to something that exists; `directory_indexes_agree` (property test) holds it.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    services: OrdMap<NamespacedName, Arc<Service>>,
    policies: OrdMap<NamespacedName, Arc<Authorization>>,
    rules: OrdMap<RulesKey, Arc<Rules>>,
    bundles: OrdMap<TrustDomain, Arc<TrustBundle>>,
    by_address: HashMap<IpAddr, Occupants>,
    by_vip: HashMap<IpAddr, Owners<NamespacedName>>,
    endpoints: HashMap<NamespacedName, OrdSet<WorkloadUid>>,
    global_policies: OrdSet<NamespacedName>,
    namespace_policies: HashMap<Text, OrdSet<NamespacedName>>,
}

/// One change of the directory, with the new content or the name of what is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A workload is new or different.
    Workload(Arc<Workload>),
    /// A service is new or different.
    Service(Arc<Service>),
    /// A policy is new or different.
    Policy(Arc<Authorization>),
    /// Rules are new or different.
    Rules(Arc<Rules>),
    /// A trust bundle is new or different.
    Bundle(Arc<TrustBundle>),
    /// A workload is gone.
    WorkloadGone(WorkloadUid),
    /// A service is gone.
    ServiceGone(NamespacedName),
    /// A policy is gone.
    PolicyGone(NamespacedName),
    /// Rules are gone.
    RulesGone(RulesKey),
    /// A trust bundle is gone.
    BundleGone(TrustDomain),
}

impl Directory {
    /// Applies one change; what is already so stays so.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Workload(workload) => self.put_workload(workload),
            Change::Service(service) => self.put_service(service),
            Change::Policy(policy) => self.put_policy(policy),
            Change::Rules(rules) => {
                self.rules.insert(rules.key(), rules);
            }
            Change::RulesGone(key) => {
                self.rules.remove(&key);
            }
            Change::Bundle(bundle) => {
                self.bundles.insert(bundle.trust_domain.clone(), bundle);
            }
            Change::WorkloadGone(uid) => self.remove_workload(&uid),
            Change::ServiceGone(key) => self.remove_service(&key),
            Change::PolicyGone(key) => self.remove_policy(&key),
            Change::BundleGone(domain) => {
                self.bundles.remove(&domain);
            }
        }
    }

    /// The workload of that uid.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that owns `address`; pods win over other kinds, then the smaller uid.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let occupants = self.by_address.get(&address)?.all();
        let pod = occupants
            .iter()
            .find(|workload| workload.uid.0.contains("//Pod/"));
        pod.or_else(|| occupants.first())
    }

    /// Every workload that claims `address`, by uid: while an address moves from one pod to the next, both do.
    pub fn workloads_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        let occupants = self.by_address.get(&address).into_iter();
        occupants.flat_map(Occupants::all)
    }

    /// The service of that key (`namespace/hostname`).
    pub fn service(&self, key: &NamespacedName) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service that owns the cluster IP.
    pub fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        self.by_vip
            .get(&vip)?
            .first()
            .and_then(|key| self.services.get(key))
    }

    /// All workloads that serve a service, healthy or not, in the order of their uids.
    pub fn endpoints<'a>(
        &'a self,
        service: &NamespacedName,
    ) -> impl Iterator<Item = &'a Arc<Workload>> + use<'a> {
        let uids = self.endpoints.get(service);
        uids.into_iter()
            .flatten()
            .filter_map(|uid| self.workloads.get(uid))
    }

    /// All workloads, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// How many workloads there are.
    pub fn workloads_len(&self) -> usize {
        self.workloads.len()
    }

    /// How many services there are.
    pub fn services_len(&self) -> usize {
        self.services.len()
    }

    /// All services by key.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The services of one namespace by key.
    pub fn services_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        self.services
            .range(NamespacedName::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, service)| service)
    }

    /// All policies by key.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.values()
    }

    /// Whether the policies are those of `other`, by identity of the map: cheap, and `false` for equal maps that were built apart.
    pub fn shares_policies(&self, other: &Directory) -> bool {
        self.policies.ptr_eq(&other.policies)
    }

    /// The policy of that key (`namespace/name`).
    pub fn policy(&self, key: &NamespacedName) -> Option<&Arc<Authorization>> {
        self.policies.get(key)
    }

    /// The policies that speak of every workload of a namespace: its own of scope `Namespace`, and all of scope `Global`.
    ///
    /// Costs what it yields, however many policies other namespaces have: a connection asks for it.
    pub fn policies_reaching<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<Authorization>> + use<'a> {
        let own = self.namespace_policies.get(namespace).into_iter().flatten();
        own.chain(&self.global_policies)
            .filter_map(|key| self.policies.get(key))
    }

    /// All rules by key: first those of Cilium's language, then Kubernetes', then Istio's.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rules>> {
        self.rules.values()
    }

    /// The rules of that key.
    pub fn rules_of(&self, key: &RulesKey) -> Option<&Arc<Rules>> {
        self.rules.get(key)
    }

    /// Whether the rules are those of `other`, as `shares_policies` says of policies.
    pub fn shares_rules(&self, other: &Directory) -> bool {
        self.rules.ptr_eq(&other.rules)
    }

    /// All trust bundles by trust domain.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.bundles.values()
    }

    fn put_workload(&mut self, workload: Arc<Workload>) {
        self.remove_workload(&workload.uid);
        // Addresses of host-network pods name the node; they must never be taken for the pod's.
        if !workload.host_network {
            for address in &workload.addresses {
                let occupants = match self.by_address.get(address) {
                    Some(held) => held.with(&workload),
                    None => Occupants::One(Arc::clone(&workload)),
                };
                self.by_address.insert(*address, occupants);
            }
        }
        for service in workload.services.keys() {
            self.endpoints
                .entry(service.clone())
                .or_default()
                .insert(workload.uid.clone());
        }
        self.workloads.insert(workload.uid.clone(), workload);
    }

    fn remove_workload(&mut self, uid: &WorkloadUid) {
        let Some(old) = self.workloads.remove(uid) else {
            return;
        };
        for address in &old.addresses {
            let Some(held) = self.by_address.get(address) else {
                continue;
            };
            match held.without(uid) {
                Some(left) => self.by_address.insert(*address, left),
                None => self.by_address.remove(address),
            };
        }
        for service in old.services.keys() {
            remove_from_index(&mut self.endpoints, service, uid);
        }
    }

    fn put_service(&mut self, service: Arc<Service>) {
        let key = service.key();
        self.remove_service(&key);
        for vip in &service.addresses {
            add_owner(&mut self.by_vip, *vip, key.clone());
        }
        self.services.insert(key, service);
    }

    fn remove_service(&mut self, key: &NamespacedName) {
        let Some(old) = self.services.remove(key) else {
            return;
        };
        for vip in &old.addresses {
            remove_owner(&mut self.by_vip, vip, key);
        }
    }

    fn put_policy(&mut self, policy: Arc<Authorization>) {
        let key = policy.key();
        self.remove_policy(&key);
        match policy.scope {
            AuthorizationScope::Global => {
                self.global_policies.insert(key.clone());
            }
            AuthorizationScope::Namespace => {
                let namespace = self.namespace_policies.entry(key.namespace.clone());
                namespace.or_default().insert(key.clone());
            }
            // Reaches a workload only by the workload's own list.
            AuthorizationScope::WorkloadSelector => {}
        }
        self.policies.insert(key, policy);
    }

    fn remove_policy(&mut self, key: &NamespacedName) {
        if self.policies.remove(key).is_some() {
            self.global_policies.remove(key);
            remove_from_index(&mut self.namespace_policies, &key.namespace, key);
        }
    }
}

fn remove_from_index<K, V>(index: &mut HashMap<K, OrdSet<V>>, key: &K, value: &V)
where
    K: Clone + Eq + std::hash::Hash,
    V: Clone + Ord,
{
    if let Some(set) = index.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            index.remove(key);
        }
    }
}

/// The workloads that claim an address. Nearly always one, which then takes no room but that of a pointer: there are as many
/// of these as there are addresses.
#[derive(Debug, Clone)]
enum Occupants {
    One(Arc<Workload>),
    /// Sorted by uid; never so many that a copy of them all would cost anything.
    Several(Arc<Vec<Arc<Workload>>>),
}

impl Occupants {
    fn all(&self) -> &[Arc<Workload>] {
        match self {
            Occupants::One(workload) => std::slice::from_ref(workload),
            Occupants::Several(workloads) => workloads,
        }
    }

    fn with(&self, workload: &Arc<Workload>) -> Self {
        let mut all = self.all().to_vec();
        match all.binary_search_by(|held| held.uid.cmp(&workload.uid)) {
            Ok(_) => return self.clone(),
            Err(place) => all.insert(place, Arc::clone(workload)),
        }
        Occupants::Several(Arc::new(all))
    }

    fn without(&self, uid: &WorkloadUid) -> Option<Self> {
        let mut all = self.all().to_vec();
        all.retain(|held| held.uid != *uid);
        match (all.pop(), all.is_empty()) {
            (None, _) => None,
            (Some(only), true) => Some(Occupants::One(only)),
            (Some(last), false) => {
                all.push(last);
                Some(Occupants::Several(Arc::new(all)))
            }
        }
    }
}

/// Who claims an address, sorted. Nearly always one, and never so many that a copy of them all would cost anything.
type Owners<T> = Arc<[T]>;

fn add_owner<T: Clone + Ord>(index: &mut HashMap<IpAddr, Owners<T>>, address: IpAddr, owner: T) {
    let held = index.get(&address).map_or(&[] as &[T], |held| held);
    if let Err(place) = held.binary_search(&owner) {
        let (before, after) = held.split_at(place);
        let before = before.iter().cloned();
        let owners = before.chain([owner]).chain(after.iter().cloned()).collect();
        index.insert(address, owners);
    }
}

fn remove_owner<T: Clone + Ord>(
    index: &mut HashMap<IpAddr, Owners<T>>,
    address: &IpAddr,
    owner: &T,
) {
    let Some(held) = index.get(address) else {
        return;
    };
    let left: Owners<T> = held.iter().filter(|o| *o != owner).cloned().collect();
    if left.is_empty() {
        index.remove(address);
    } else {
        index.insert(*address, left);
    }
}

#[cfg(test)]
mod tests;
