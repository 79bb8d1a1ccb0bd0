//! The copy of what the maps hold.

use std::collections::{HashMap, HashSet};

use tulle_abi::{
    ALGORITHM_MAGLEV, Address, BackendKey, BackendValue, MAGLEV_CHUNKS, MaglevKey, MemberKey,
    ServiceKey, ServiceValue,
};
use tulle_model::Algorithm;

use super::{
    Tables, WantedService,
    maps::{delete, read_all, read_keys},
    member,
    service::{Features, HeldService},
};
use crate::{ReconcileError, slots::Slot};

/// What the maps hold.
#[derive(Default)]
pub(crate) struct Held {
    pub(super) services: HashMap<ServiceKey, HeldService>,
    pub(super) workloads: HashMap<Address, u32>,
    ids: HashSet<u32>,
    last_id: u32,
    /// Slots of all services together.
    pub(super) slots_len: usize,
    /// Services with a Maglev table.
    pub(super) tables_len: usize,
    /// Services that should have one and have none.
    pub(super) without_table: usize,
}

impl Held {
    pub(super) fn put(&mut self, key: ServiceKey, service: HeldService) {
        self.ids.insert(service.id);
        self.last_id = self.last_id.max(service.id);
        self.slots_len += service.slots.len();
        self.tables_len += usize::from(service.has_table);
        self.without_table += usize::from(service.lacks_table());
        self.services.insert(key, service);
    }

    pub(super) fn take(&mut self, key: ServiceKey) -> Option<HeldService> {
        let service = self.services.remove(&key)?;
        self.ids.remove(&service.id);
        self.slots_len -= service.slots.len();
        self.tables_len -= usize::from(service.has_table);
        self.without_table -= usize::from(service.lacks_table());
        Some(service)
    }

    /// An id that no service has. A freed id comes back last, so that a connection that is being decided now does not meet its new
    /// owner; zero is nobody's.
    pub(super) fn unused_id(&self) -> u32 {
        (self.last_id.saturating_add(1)..=u32::MAX)
            .chain(1..)
            .find(|id| !self.ids.contains(id))
            .unwrap_or(1)
    }

    /// How many services there would be, and how many slots, with these in place of those of the same key.
    pub(super) fn sizes_with(
        &self,
        wanted: &HashMap<ServiceKey, WantedService>,
        gone: &HashSet<ServiceKey>,
    ) -> (usize, usize) {
        let (mut services, mut slots) = (self.services.len(), self.slots_len);
        for (key, service) in wanted {
            match self.services.get(key) {
                Some(held) => slots -= held.slots.len(),
                None => services += 1,
            }
            slots += service.slots.len();
        }
        for held in gone.iter().filter_map(|key| self.services.get(key)) {
            services -= 1;
            slots -= held.slots.len();
        }
        (services, slots)
    }
}

impl HeldService {
    fn lacks_table(&self) -> bool {
        self.features.algorithm == Algorithm::Maglev && !self.has_table
    }
}

impl Tables {
    /// Reads what the maps hold, and deletes what belongs to nothing: an earlier process may have died between two steps.
    pub(crate) fn read(&mut self) -> Result<Held, ReconcileError> {
        let services: HashMap<ServiceKey, ServiceValue> = read_all("SERVICES", &self.services)?;
        let mut backends: HashMap<BackendKey, BackendValue> = read_all("BACKENDS", &self.backends)?;
        let mut members: HashMap<MemberKey, u32> = read_all("MEMBERS", &self.members)?;
        let mut tables: HashMap<u32, Vec<MaglevKey>> = HashMap::new();
        for key in read_keys("MAGLEV", &self.maglev)? {
            tables.entry(key.service).or_default().push(key);
        }
        let mut held = Held {
            workloads: read_all("WORKLOADS", &self.workloads)?,
            ..Held::default()
        };
        for (key, value) in services {
            let has_table = value.algorithm == ALGORITHM_MAGLEV
                && tables
                    .remove(&value.id)
                    .is_some_and(|chunks| chunks.len() == MAGLEV_CHUNKS);
            let service = read_service(key, &value, has_table, &mut backends, &mut members)?;
            held.put(key, service);
        }
        for key in backends.into_keys() {
            delete("BACKENDS", &mut self.backends, key)?;
        }
        for key in members.into_keys() {
            delete("MEMBERS", &mut self.members, key)?;
        }
        for key in tables.into_values().flatten() {
            delete("MAGLEV", &mut self.maglev, key)?;
        }
        Ok(held)
    }
}

/// Takes what belongs to one service out of what was read.
fn read_service(
    key: ServiceKey,
    value: &ServiceValue,
    has_table: bool,
    backends: &mut HashMap<BackendKey, BackendValue>,
    members: &mut HashMap<MemberKey, u32>,
) -> Result<HeldService, ReconcileError> {
    let found: Vec<BackendValue> = (0..value.count)
        .map_while(|index| {
            backends.remove(&BackendKey {
                service: value.id,
                index,
            })
        })
        .collect();
    let slot = |backend: &BackendValue| Slot {
        endpoint: backend.endpoint,
        path: backend.path,
        weight: backend.weight,
    };
    let mut service = HeldService {
        id: value.id,
        slots: found.iter().map(slot).collect(),
        features: Features {
            affinity_seconds: value.affinity_seconds,
            algorithm: if value.algorithm == ALGORITHM_MAGLEV {
                Algorithm::Maglev
            } else {
                Algorithm::Random
            },
        },
        has_table,
        positions: Vec::new(),
        is_sure: false,
    };
    let mut is_sure = service.value()? == *value && service.backends()? == found;
    for slot in &service.slots {
        let path = members.remove(&member(value.id, slot.endpoint));
        is_sure &= !service.remembers(key) || path == Some(slot.path);
    }
    // A table is too long to be compared: it is written once more.
    service.is_sure = is_sure && !has_table;
    Ok(service)
}
