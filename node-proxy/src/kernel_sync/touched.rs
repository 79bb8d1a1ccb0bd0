//! What changed since the kernel's tables were last computed, so that only that is computed again.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;
use tulle_model::{Change, Directory, NamespacedName};

/// Services and addresses whose entries may differ now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything may differ; the sets say nothing then.
    pub everything: bool,
    /// Services of which something changed: themselves, or one of their endpoints.
    pub services: BTreeSet<NamespacedName>,
    /// Addresses of workloads that changed.
    pub addresses: BTreeSet<IpAddr>,
    /// When the first of these changes became visible.
    pub since: Option<Instant>,
}

impl Touched {
    /// Notes one change, which `before` does not hold yet.
    pub fn note(&mut self, before: &Directory, change: &Change) {
        match change {
            Change::Workload(workload) => {
                self.note_workload(workload);
                if let Some(old) = before.workload(&workload.uid) {
                    self.note_workload(old);
                }
            }
            Change::WorkloadGone(uid) => {
                if let Some(old) = before.workload(uid) {
                    self.note_workload(old);
                }
            }
            Change::Service(service) => {
                self.services.insert(service.key());
            }
            Change::ServiceGone(key) => {
                self.services.insert(key.clone());
            }
            // A policy decides for whole namespaces whether a path may be direct.
            Change::Policy(_) | Change::PolicyGone(_) => self.everything = true,
            // What they decide is in tables of its own.
            Change::Rules(_) | Change::RulesGone(_) => {}
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

/// Collects changes from whoever makes them, for the one task that computes tables.
#[derive(Debug, Default)]
pub struct TouchLog {
    touched: Mutex<Touched>,
    notify: Notify,
}

impl TouchLog {
    /// Adds changes that readers of the directory see already.
    pub fn add(&self, touched: Touched) {
        {
            let mut all = self.lock();
            all.merge(touched);
            all.since.get_or_insert_with(Instant::now);
        }
        self.notify.notify_one();
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
