//! A directory without indexes: each question is a search.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::{Change, Directory, UIDS};
use crate::{
    Authorization, AuthorizationScope, NamespacedName, Rules, RulesKey, Service, TrustBundle,
    TrustDomain, Workload, WorkloadUid,
};

#[derive(Default)]
pub(super) struct Naive {
    workloads: BTreeMap<WorkloadUid, Arc<Workload>>,
    services: BTreeMap<NamespacedName, Arc<Service>>,
    policies: BTreeMap<NamespacedName, Arc<Authorization>>,
    rules: BTreeMap<RulesKey, Arc<Rules>>,
    bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
}

impl Naive {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Workload(workload) => {
                drop(self.workloads.insert(workload.uid.clone(), workload))
            }
            Change::Service(service) => drop(self.services.insert(service.key(), service)),
            Change::Policy(policy) => drop(self.policies.insert(policy.key(), policy)),
            Change::Bundle(bundle) => {
                drop(self.bundles.insert(bundle.trust_domain.clone(), bundle))
            }
            Change::Rules(rules) => drop(self.rules.insert(rules.key(), rules)),
            Change::RulesGone(key) => drop(self.rules.remove(&key)),
            Change::WorkloadGone(uid) => drop(self.workloads.remove(&uid)),
            Change::ServiceGone(key) => drop(self.services.remove(&key)),
            Change::PolicyGone(key) => drop(self.policies.remove(&key)),
            Change::BundleGone(domain) => drop(self.bundles.remove(&domain)),
        }
    }

    fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let owners = || {
            self.workloads
                .values()
                .filter(|w| !w.host_network && w.addresses.contains(&address))
        };
        owners()
            .find(|w| w.uid.0.contains("//Pod/"))
            .or_else(|| owners().next())
    }

    fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        self.services.values().find(|s| s.addresses.contains(&vip))
    }

    fn endpoints<'a>(&'a self, key: &'a NamespacedName) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads
            .values()
            .filter(move |w| w.services.contains_key(key))
    }

    fn policies_reaching<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Authorization>> {
        self.policies.values().filter(move |p| match p.scope {
            AuthorizationScope::Global => true,
            AuthorizationScope::Namespace => p.namespace == namespace,
            AuthorizationScope::WorkloadSelector => false,
        })
    }
}

/// Asks both everything that can be asked within the names that the tests use.
pub(super) fn check_agreement(directory: &Directory, naive: &Naive) -> Result<(), TestCaseError> {
    for n in 0..3u8 {
        let address = IpAddr::from([10, 0, 0, n]);
        prop_assert_eq!(directory.workload_at(address), naive.workload_at(address));
        let vip = IpAddr::from([172, 20, 0, n]);
        prop_assert_eq!(directory.service_at(vip), naive.service_at(vip));
        let key = NamespacedName::new("ns", format!("s{n}"));
        prop_assert_eq!(directory.service(&key), naive.services.get(&key));
        prop_assert!(
            directory.endpoints(&key).eq(naive.endpoints(&key)),
            "endpoints of {}",
            key
        );
    }
    for uid in UIDS {
        let uid = WorkloadUid(uid.into());
        prop_assert_eq!(directory.workload(&uid), naive.workloads.get(&uid));
    }
    for namespace in ["ns", "other"] {
        let sorted = |found: Vec<&Arc<Authorization>>| {
            let mut keys: Vec<_> = found.into_iter().map(|p| p.key()).collect();
            keys.sort();
            keys
        };
        let found = sorted(directory.policies_reaching(namespace).collect());
        prop_assert_eq!(found, sorted(naive.policies_reaching(namespace).collect()));
        for name in ["p", "q"] {
            let key = NamespacedName::new(namespace, name);
            prop_assert_eq!(directory.policy(&key), naive.policies.get(&key));
        }
    }
    let mut workloads: Vec<_> = directory.workloads().collect();
    workloads.sort_by_key(|workload| &workload.uid);
    prop_assert!(workloads.into_iter().eq(naive.workloads.values()));
    prop_assert!(directory.services().eq(naive.services.values()));
    prop_assert!(directory.policies().eq(naive.policies.values()));
    prop_assert!(directory.rules().eq(naive.rules.values()));
    prop_assert!(directory.bundles().eq(naive.bundles.values()));
    Ok(())
}
