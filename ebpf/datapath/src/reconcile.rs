//! Brings the service and workload maps to a wanted table: whole, or only what changed.
//!
//! A copy of what the maps hold is kept in memory, read once from the maps themselves (also after a write that failed): the kernel
//! is the truth, and nothing is written that is there already.
//!
//! **Invariant:** at every moment each slot below a service's count is filled, by somebody who serves it before or after the change:
//! new slots are written before whatever leads to them, and old ones are deleted last. Held by the test
//! `connections_never_miss_while_backends_change`.

mod held;
mod maps;
mod service;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
};

use tulle_abi::{
    Address, BACKENDS_MAX, BackendKey, BackendValue, Endpoint, MAGLEV_SERVICES_MAX, MaglevChunk,
    MaglevKey, MemberKey, SERVICES_MAX, ServiceKey, ServiceValue, WORKLOADS_MAX,
};
use tulle_model::{Algorithm, ServiceAddress};

use self::service::{HeldService, WantedService};
use crate::{
    Frontend, KernelTable, ReconcileError, ReconcileReport, TableChanges, WorkloadRoute, maglev,
    raw::Table,
    slots::{SlotPlan, plan},
};

pub(crate) use self::{
    held::Held,
    maps::{Plain, delete, failed, is_absent, read_all, write},
};

/// The service and workload maps, with a copy of what they hold.
pub(crate) struct Tables {
    pub(crate) services: Table<ServiceKey, ServiceValue>,
    pub(crate) backends: Table<BackendKey, BackendValue>,
    pub(crate) members: Table<MemberKey, u32>,
    pub(crate) maglev: Table<MaglevKey, MaglevChunk>,
    pub(crate) workloads: Table<Address, u32>,
    /// `None` until it is read, and after a write that failed.
    pub(crate) held: Option<Held>,
}

impl Tables {
    /// Makes the maps hold the table, and nothing else.
    pub(crate) fn reconcile(
        &mut self,
        table: &KernelTable,
    ) -> Result<ReconcileReport, ReconcileError> {
        let services = wanted_services(&table.frontends);
        let workloads = wanted_workloads(&table.workloads);
        let slots = services.values().map(|service| service.slots.len()).sum();
        require_room(services.len(), slots, workloads.len())?;
        let mut held = match self.held.take() {
            Some(held) => held,
            None => self.read()?,
        };
        // On the way out with an error `held` is dropped, so the next call reads the maps anew.
        let gone = Gone {
            services: keys_without(&held.services, &services),
            workloads: keys_without(&held.workloads, &workloads),
        };
        let report = self.change(&mut held, &services, &workloads, &gone)?;
        self.held = Some(held);
        Ok(report)
    }

    /// Writes what changed since the last table. Costs what the change costs, however much the maps hold.
    pub(crate) fn apply(
        &mut self,
        changes: &TableChanges,
    ) -> Result<ReconcileReport, ReconcileError> {
        let services = wanted_services(&changes.frontends);
        let workloads = wanted_workloads(&changes.workloads);
        let gone = Gone {
            services: gone_keys(&changes.frontends_gone, service_key, &services),
            workloads: gone_keys(
                &changes.workloads_gone,
                |ip: &IpAddr| (*ip).into(),
                &workloads,
            ),
        };
        let mut held = self.held.take().ok_or(ReconcileError::Unknown)?;
        let (services_len, slots_len) = held.sizes_with(&services, &gone.services);
        let new_workloads = workloads
            .keys()
            .filter(|address| !held.workloads.contains_key(*address));
        let workloads_len = held.workloads.len() + new_workloads.count();
        if let Err(err) = require_room(services_len, slots_len, workloads_len) {
            self.held = Some(held);
            return Err(err);
        }
        let report = self.change(&mut held, &services, &workloads, &gone)?;
        self.held = Some(held);
        Ok(report)
    }

    /// Workloads come before the services that lead to them, so that a direct backend is known as a workload when it is first used.
    /// Removals come before additions: they make room in full maps.
    fn change(
        &mut self,
        held: &mut Held,
        services: &HashMap<ServiceKey, WantedService>,
        workloads: &HashMap<Address, u32>,
        gone: &Gone,
    ) -> Result<ReconcileReport, ReconcileError> {
        let mut report = ReconcileReport::default();
        for (address, path) in workloads {
            match held.workloads.get(address) {
                Some(known) if known == path => continue,
                Some(_) => report.changed += 1,
                None => report.added += 1,
            }
            write("WORKLOADS", &mut self.workloads, *address, *path)?;
            held.workloads.insert(*address, *path);
        }
        for address in &gone.workloads {
            if held.workloads.remove(address).is_some() {
                delete("WORKLOADS", &mut self.workloads, *address)?;
                report.removed += 1;
            }
        }
        for key in &gone.services {
            if let Some(service) = held.take(*key) {
                self.remove_service(*key, &service)?;
                report.removed += 1;
            }
        }
        for (key, wanted) in services {
            self.set_service(*key, wanted, held, &mut report)?;
        }
        report.without_table = held.without_table;
        Ok(report)
    }

    fn set_service(
        &mut self,
        key: ServiceKey,
        wanted: &WantedService,
        held: &mut Held,
        report: &mut ReconcileReport,
    ) -> Result<(), ReconcileError> {
        let known = held.services.get(&key);
        if known.is_some_and(|service| service.is(wanted)) {
            return Ok(());
        }
        let known = held.take(key);
        let is_new = known.is_none();
        let before = known.unwrap_or_else(|| HeldService::new(held.unused_id()));
        let plan = plan(&before.slots, &wanted.slots);
        let has_table = wanted.features.algorithm == Algorithm::Maglev
            && (before.has_table || held.tables_len < MAGLEV_SERVICES_MAX);
        let positions = if has_table {
            maglev::positions(&before.positions, &before.slots, &plan.slots)
        } else {
            Vec::new()
        };
        let after = HeldService {
            id: before.id,
            slots: plan.slots.clone(),
            features: wanted.features,
            has_table,
            positions,
            is_sure: true,
        };
        self.write_service(key, &before, &after, &plan)?;
        report.added += plan.added.len() + usize::from(is_new);
        report.changed += plan.changed;
        report.changed += usize::from(!is_new && before.features != after.features);
        report.removed += plan.removed.len();
        held.put(key, after);
        Ok(())
    }

    /// Does the steps of a plan, in the order that keeps every slot below the count filled.
    fn write_service(
        &mut self,
        key: ServiceKey,
        before: &HeldService,
        after: &HeldService,
        plan: &SlotPlan,
    ) -> Result<(), ReconcileError> {
        let id = after.id;
        if after.remembers(key) {
            let is_known = before.remembers(key) && before.is_sure;
            let changed = plan.writes.iter().map(|(_, slot)| slot);
            let all = after
                .slots
                .iter()
                .take(if is_known { 0 } else { usize::MAX });
            for slot in changed.chain(all) {
                write(
                    "MEMBERS",
                    &mut self.members,
                    member(id, slot.endpoint),
                    slot.path,
                )?;
            }
        }
        let backends = after.backends()?;
        let is_shared = before.is_weighted() || after.is_weighted() || !before.is_sure;
        let changed: HashSet<usize> = plan.writes.iter().map(|(index, _)| *index).collect();
        for (index, value) in backends.into_iter().enumerate() {
            if is_shared || changed.contains(&index) {
                write("BACKENDS", &mut self.backends, slot_key(id, index)?, value)?;
            }
        }
        let is_table_due = !(before.has_table && before.is_sure && before.slots == after.slots);
        if after.has_table && is_table_due {
            for (chunk, value) in (0..).zip(after.table()) {
                write(
                    "MAGLEV",
                    &mut self.maglev,
                    MaglevKey { service: id, chunk },
                    value,
                )?;
            }
        }
        let value = after.value()?;
        if !before.is_sure || before.value()? != value {
            write("SERVICES", &mut self.services, key, value)?;
        }
        if before.has_table && !after.has_table {
            self.remove_table(id)?;
        }
        for index in after.slots.len()..before.slots.len() {
            delete("BACKENDS", &mut self.backends, slot_key(id, index)?)?;
        }
        if before.remembers(key) {
            let all = before.slots.iter().map(|slot| slot.endpoint);
            let all = all.take(if after.remembers(key) { 0 } else { usize::MAX });
            for endpoint in plan.removed.iter().copied().chain(all) {
                delete("MEMBERS", &mut self.members, member(id, endpoint))?;
            }
        }
        Ok(())
    }

    fn remove_service(
        &mut self,
        key: ServiceKey,
        service: &HeldService,
    ) -> Result<(), ReconcileError> {
        delete("SERVICES", &mut self.services, key)?;
        if service.has_table {
            self.remove_table(service.id)?;
        }
        for (index, slot) in service.slots.iter().enumerate() {
            delete("BACKENDS", &mut self.backends, slot_key(service.id, index)?)?;
            if service.remembers(key) {
                delete(
                    "MEMBERS",
                    &mut self.members,
                    member(service.id, slot.endpoint),
                )?;
            }
        }
        Ok(())
    }

    fn remove_table(&mut self, service: u32) -> Result<(), ReconcileError> {
        for chunk in 0..index_number(tulle_abi::MAGLEV_CHUNKS)? {
            delete("MAGLEV", &mut self.maglev, MaglevKey { service, chunk })?;
        }
        Ok(())
    }
}

/// What is to be removed.
struct Gone {
    services: HashSet<ServiceKey>,
    workloads: HashSet<Address>,
}

fn wanted_services(frontends: &[Frontend]) -> HashMap<ServiceKey, WantedService> {
    let services = frontends.iter().map(|frontend| {
        (
            service_key(&frontend.address),
            WantedService::from_frontend(frontend),
        )
    });
    services.collect()
}

fn wanted_workloads(routes: &[WorkloadRoute]) -> HashMap<Address, u32> {
    let workloads = routes
        .iter()
        .map(|route| (route.address.into(), route.path.number()));
    workloads.collect()
}

fn service_key(address: &ServiceAddress) -> ServiceKey {
    ServiceKey {
        address: address.socket.ip().into(),
        port: address.socket.port(),
        protocol: address.protocol.number(),
        reserved: 0,
    }
}

fn require_room(services: usize, slots: usize, workloads: usize) -> Result<(), ReconcileError> {
    for (map, wanted, limit) in [
        ("SERVICES", services, SERVICES_MAX),
        ("BACKENDS", slots, BACKENDS_MAX),
        ("WORKLOADS", workloads, WORKLOADS_MAX),
    ] {
        if wanted > limit {
            return Err(ReconcileError::TooLarge { map, wanted, limit });
        }
    }
    Ok(())
}

fn keys_without<K: Copy + Eq + Hash, A, B>(
    held: &HashMap<K, A>,
    wanted: &HashMap<K, B>,
) -> HashSet<K> {
    let gone = held.keys().filter(|key| !wanted.contains_key(*key));
    gone.copied().collect()
}

/// The keys of what is gone. What is also wanted is not gone.
fn gone_keys<T, K: Eq + Hash, V>(
    gone: &[T],
    key_of: impl Fn(&T) -> K,
    wanted: &HashMap<K, V>,
) -> HashSet<K> {
    let keys = gone.iter().map(key_of);
    keys.filter(|key| !wanted.contains_key(key)).collect()
}

fn member(service: u32, endpoint: Endpoint) -> MemberKey {
    MemberKey { service, endpoint }
}

fn slot_key(service: u32, index: usize) -> Result<BackendKey, ReconcileError> {
    Ok(BackendKey {
        service,
        index: index_number(index)?,
    })
}

fn index_number(index: usize) -> Result<u32, ReconcileError> {
    u32::try_from(index).map_err(|_too_large| ReconcileError::TooLarge {
        map: "BACKENDS",
        wanted: index,
        limit: BACKENDS_MAX,
    })
}
