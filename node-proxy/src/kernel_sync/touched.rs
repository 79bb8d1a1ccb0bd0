//! What changed since the kernel's tables were last computed, so that only that is computed again.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;
use tulle_model::{Change, Directory, NamespacedName};
use tulle_policy::compiled::PolicyTouched;

/// Services and addresses whose entries may differ now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything may differ; the sets say nothing then.
    pub everything: bool,
    /// Services of which something changed: themselves, or one of their endpoints.
    pub services: BTreeSet<NamespacedName>,
    /// Addresses of workloads that changed.
    pub addresses: BTreeSet<IpAddr>,
    /// What the rules of policies may say otherwise now.
    pub policy: PolicyTouched,
    /// When the first of these changes became visible.
    pub since: Option<Instant>,
}

impl Touched {
    /// Notes one change, which `before` does not hold yet.
    pub fn note(&mut self, before: &Directory, change: &Change) {
        match change {
            Change::Workload(workload) => {
                self.policy.workloads.insert(workload.uid.clone());
                self.note_workload(workload);
                if let Some(old) = before.workload(&workload.uid) {
                    self.note_workload(old);
                }
            }
            Change::WorkloadGone(uid) => {
                self.policy.workloads.insert(uid.clone());
                if let Some(old) = before.workload(uid) {
                    self.note_workload(old);
                }
            }
            Change::Service(service) => {
                self.policy.services.insert(service.key());
                self.services.insert(service.key());
            }
            Change::ServiceGone(key) => {
                self.policy.services.insert(key.clone());
                self.services.insert(key.clone());
            }
            // A policy decides for whole namespaces whether a path may be direct.
            Change::Policy(_) | Change::PolicyGone(_) => {
                self.policy.authorizations = true;
                self.everything = true;
            }
            // What they decide is in tables of its own.
            Change::Rules(rules) => drop(self.policy.rules.insert(rules.key())),
            Change::RulesGone(key) => drop(self.policy.rules.insert(key.clone())),
            Change::Bundle(_) | Change::BundleGone(_) => {}
        }
    }

    /// Notes that the workloads which claim one of `addresses` have to be looked at again.
    pub fn note_addresses(
        &mut self,
        directory: &Directory,
        addresses: impl Iterator<Item = IpAddr>,
    ) {
        for address in addresses {
            self.addresses.insert(address);
            for workload in directory.workloads_at(address) {
                self.services.extend(workload.services.keys().cloned());
            }
        }
    }

    fn note_workload(&mut self, workload: &tulle_model::Workload) {
        self.services.extend(workload.services.keys().cloned());
        self.addresses.extend(&workload.addresses);
    }

    fn merge(&mut self, other: Touched) {
        self.everything |= other.everything;
        self.services.extend(other.services);
        self.addresses.extend(other.addresses);
        if self.services.len() + self.addresses.len() > TOUCHED_MAX {
            self.everything = true;
        }
        if self.everything {
            self.services.clear();
            self.addresses.clear();
        }
    }
}

/// The one with the other; too much of it is everything.
fn merge_policy(into: &mut PolicyTouched, other: PolicyTouched) {
    into.everything |= other.everything;
    into.authorizations |= other.authorizations;
    into.workloads.extend(other.workloads);
    into.services.extend(other.services);
    into.rules.extend(other.rules);
    let len = into.workloads.len() + into.services.len() + into.rules.len();
    if into.everything || len > TOUCHED_MAX {
        *into = PolicyTouched {
            everything: true,
            ..PolicyTouched::default()
        };
    }
}

/// Collects changes from whoever makes them, for the one task that computes tables.
#[derive(Debug, Default)]
pub struct TouchLog {
    touched: Mutex<Touched>,
    notify: Notify,
    policy: Mutex<Option<PolicyWork>>,
    policy_notify: Notify,
}

/// What the rules have to be compiled anew for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWork {
    /// What may differ.
    pub touched: PolicyTouched,
    /// When the first of these changes became visible.
    pub since: Instant,
}

impl TouchLog {
    /// Adds changes that readers of the directory see already.
    pub fn add(&self, mut touched: Touched) {
        self.add_policy(std::mem::take(&mut touched.policy), touched.everything);
        {
            let mut all = self.lock();
            all.merge(touched);
            all.since.get_or_insert_with(Instant::now);
        }
        self.notify.notify_one();
    }

    /// Has the rules compiled for what changed, or only for whoever became or ceased to be a pod of this node.
    pub fn add_policy(&self, touched: PolicyTouched, everything: bool) {
        {
            let mut all = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
            let work = all.get_or_insert_with(|| PolicyWork {
                touched: PolicyTouched::default(),
                since: Instant::now(),
            });
            merge_policy(&mut work.touched, touched);
            work.touched.everything |= everything;
        }
        self.policy_notify.notify_one();
    }

    /// Waits until the rules have to be compiled, and says for what.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn policy_work(&self) -> PolicyWork {
        loop {
            let taken = {
                let mut work = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
                work.take()
            };
            if let Some(work) = taken {
                return work;
            }
            self.policy_notify.notified().await;
        }
    }

    /// Takes what has been collected.
    pub fn take(&self) -> Touched {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until something is there to take.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn changed(&self) {
        while self.lock().since.is_none() {
            self.notify.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Touched> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beyond this, computing everything is cheaper than keeping track.
const TOUCHED_MAX: usize = 20_000;
