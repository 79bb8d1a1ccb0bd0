//! Which service has which address: the first by name, of those that claim it.

use std::collections::{BTreeMap, BTreeSet};

use tulle_model::{NamespacedName, ServiceAddress};

/// Who claims each address.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Claims {
    by_address: BTreeMap<ServiceAddress, BTreeSet<NamespacedName>>,
    claimants_len: usize,
}

impl Claims {
    /// Adds a claim; says whether that changed who has the address.
    pub(super) fn claim(&mut self, address: ServiceAddress, key: &NamespacedName) -> bool {
        let claimants = self.by_address.entry(address).or_default();
        if !claimants.insert(key.clone()) {
            return false;
        }
        self.claimants_len += 1;
        claimants.first() == Some(key)
    }

    /// Takes a claim back.
    pub(super) fn release(&mut self, address: ServiceAddress, key: &NamespacedName) {
        let Some(claimants) = self.by_address.get_mut(&address) else {
            return;
        };
        if claimants.remove(key) {
            self.claimants_len -= 1;
        }
        if claimants.is_empty() {
            self.by_address.remove(&address);
        }
    }

    /// Who has an address.
    pub(super) fn owner(&self, address: ServiceAddress) -> Option<&NamespacedName> {
        self.by_address.get(&address)?.first()
    }

    /// Every address and who has it.
    pub(super) fn owners(&self) -> impl Iterator<Item = (ServiceAddress, &NamespacedName)> {
        self.by_address
            .iter()
            .filter_map(|(address, claimants)| Some((*address, claimants.first()?)))
    }

    /// How many addresses are claimed.
    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// How many claims there are.
    pub(super) fn claimants_len(&self) -> usize {
        self.claimants_len
    }
}
