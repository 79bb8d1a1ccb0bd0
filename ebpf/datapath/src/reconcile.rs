//! Brings the service and workload maps to a wanted table, by difference.
//!
//! A copy of what the maps hold is kept in memory, read once from the maps themselves (also after a write that failed): the kernel
//! is the truth, and nothing is written that is there already.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use aya::maps::MapError;
use tulle_abi::{
    Address, BACKENDS_MAX, BackendKey, BackendValue, Endpoint, MemberKey, PROTOCOL_UDP,
    SERVICES_MAX, ServiceKey, ServiceValue, WORKLOADS_MAX,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    Frontend, KernelTable, ReconcileError, ReconcileReport,
    raw::{Raw, Table},
    slots::{Slot, SlotPlan, plan},
};

/// The service and workload maps, with a copy of what they hold.
pub(crate) struct Tables {
    pub(crate) services: Table<ServiceKey, ServiceValue>,
    pub(crate) backends: Table<BackendKey, BackendValue>,
    pub(crate) members: Table<MemberKey, u32>,
    pub(crate) workloads: Table<Address, u32>,
    /// `None` until it is read, and after a write that failed.
    pub(crate) held: Option<Held>,
}

/// What the maps hold.
#[derive(Default)]
pub(crate) struct Held {
    services: HashMap<ServiceKey, HeldService>,
    workloads: HashMap<Address, u32>,
    ids: HashSet<u32>,
    last_id: u32,
}

struct HeldService {
    id: u32,
    slots: Vec<Slot>,
}

impl Tables {
    /// Makes the maps hold the table, and nothing else.
    pub(crate) fn reconcile(
        &mut self,
        table: &KernelTable,
    ) -> Result<ReconcileReport, ReconcileError> {
        let wanted = Wanted::from_table(table)?;
        let mut held = match self.held.take() {
            Some(held) => held,
            None => self.read()?,
        };
        // On the way out with an error `held` is dropped, so the next call reads the maps anew.
        let mut report = ReconcileReport::default();
        self.reconcile_workloads(&wanted, &mut held, &mut report)?;
        self.reconcile_services(&wanted, &mut held, &mut report)?;
        self.held = Some(held);
        Ok(report)
    }

    /// Workloads come before the services that lead to them, so that a direct backend is known as a workload when it is first used.
    fn reconcile_workloads(
        &mut self,
        wanted: &Wanted,
        held: &mut Held,
        report: &mut ReconcileReport,
    ) -> Result<(), ReconcileError> {
        for (address, path) in &wanted.workloads {
            match held.workloads.get(address) {
                Some(known) if known == path => continue,
                Some(_) => report.changed += 1,
                None => report.added += 1,
            }
            write("WORKLOADS", &mut self.workloads, *address, *path)?;
            held.workloads.insert(*address, *path);
        }
        let gone = keys_without(&held.workloads, &wanted.workloads);
        for address in gone {
            delete("WORKLOADS", &mut self.workloads, address)?;
            held.workloads.remove(&address);
            report.removed += 1;
        }
        Ok(())
    }

    fn reconcile_services(
        &mut self,
        wanted: &Wanted,
        held: &mut Held,
        report: &mut ReconcileReport,
    ) -> Result<(), ReconcileError> {
        // Removals first: they make room in full maps.
        for key in keys_without(&held.services, &wanted.services) {
            self.remove_service(key, held)?;
            report.removed += 1;
        }
        for (key, slots) in &wanted.services {
            self.set_service(*key, slots, held, report)?;
        }
        Ok(())
    }

    fn set_service(
        &mut self,
        key: ServiceKey,
        wanted: &[Slot],
        held: &mut Held,
        report: &mut ReconcileReport,
    ) -> Result<(), ReconcileError> {
        let known = held.services.get(&key);
        let is_new = known.is_none();
        let (id, old_slots) = match known {
            Some(service) => (service.id, service.slots.as_slice()),
            None => (held.unused_id(), [].as_slice()),
        };
        if !is_new && old_slots == wanted {
            return Ok(());
        }
        let plan = plan(old_slots, wanted);
        let old_len = old_slots.len();
        self.apply(key, id, old_len, is_new, &plan)?;
        report.added += plan.added.len() + usize::from(is_new);
        report.changed += plan.changed;
        report.removed += plan.removed.len();
        held.note(key, id, plan.slots);
        Ok(())
    }

    /// Does the steps of a plan, in the order that keeps every slot below the count filled.
    fn apply(
        &mut self,
        key: ServiceKey,
        id: u32,
        old_len: usize,
        is_new: bool,
        plan: &SlotPlan,
    ) -> Result<(), ReconcileError> {
        let is_udp = key.protocol == PROTOCOL_UDP;
        for endpoint in plan.added.iter().filter(|_| is_udp) {
            write("MEMBERS", &mut self.members, member(id, *endpoint), 1)?;
        }
        for (index, slot) in &plan.writes {
            let value = BackendValue {
                endpoint: slot.endpoint,
                path: slot.path,
                service: id,
            };
            write("BACKENDS", &mut self.backends, slot_key(id, *index)?, value)?;
        }
        if is_new || plan.slots.len() != old_len {
            let count = index_number(plan.slots.len())?;
            write(
                "SERVICES",
                &mut self.services,
                key,
                ServiceValue { id, count },
            )?;
        }
        for index in plan.slots.len()..old_len {
            delete("BACKENDS", &mut self.backends, slot_key(id, index)?)?;
        }
        for endpoint in plan.removed.iter().filter(|_| is_udp) {
            delete("MEMBERS", &mut self.members, member(id, *endpoint))?;
        }
        Ok(())
    }

    fn remove_service(&mut self, key: ServiceKey, held: &mut Held) -> Result<(), ReconcileError> {
        delete("SERVICES", &mut self.services, key)?;
        let Some(service) = held.services.remove(&key) else {
            return Ok(());
        };
        for (index, slot) in service.slots.iter().enumerate() {
            delete("BACKENDS", &mut self.backends, slot_key(service.id, index)?)?;
            if key.protocol == PROTOCOL_UDP {
                delete(
                    "MEMBERS",
                    &mut self.members,
                    member(service.id, slot.endpoint),
                )?;
            }
        }
        held.ids.remove(&service.id);
        Ok(())
    }

    /// Reads what the maps hold, and deletes what belongs to nothing: an earlier process may have died between two steps.
    pub(crate) fn read(&mut self) -> Result<Held, ReconcileError> {
        let services: HashMap<ServiceKey, ServiceValue> = read_all("SERVICES", &self.services)?;
        let mut backends: HashMap<BackendKey, BackendValue> = read_all("BACKENDS", &self.backends)?;
        let mut members: HashMap<MemberKey, u32> = read_all("MEMBERS", &self.members)?;
        let mut held = Held {
            workloads: read_all("WORKLOADS", &self.workloads)?,
            ..Held::default()
        };
        for (key, service) in services {
            let slots: Vec<Slot> = (0..service.count)
                .map_while(|index| {
                    let value = backends.remove(&BackendKey {
                        service: service.id,
                        index,
                    })?;
                    members.remove(&member(service.id, value.endpoint));
                    Some(Slot {
                        endpoint: value.endpoint,
                        path: value.path,
                    })
                })
                .collect();
            held.note(key, service.id, slots);
        }
        for key in backends.into_keys() {
            delete("BACKENDS", &mut self.backends, key)?;
        }
        for key in members.into_keys() {
            delete("MEMBERS", &mut self.members, key)?;
        }
        Ok(held)
    }
}

impl Held {
    fn note(&mut self, key: ServiceKey, id: u32, slots: Vec<Slot>) {
        self.ids.insert(id);
        self.last_id = self.last_id.max(id);
        self.services.insert(key, HeldService { id, slots });
    }

    /// An id that no service has. A freed id comes back last, so that a connection that is being decided now does not meet its new
    /// owner; zero is nobody's.
    fn unused_id(&self) -> u32 {
        (self.last_id.saturating_add(1)..=u32::MAX)
            .chain(1..)
            .find(|id| !self.ids.contains(id))
            .unwrap_or(1)
    }
}

/// A table in the form of the maps.
struct Wanted {
    services: HashMap<ServiceKey, Vec<Slot>>,
    workloads: HashMap<Address, u32>,
}

impl Wanted {
    fn from_table(table: &KernelTable) -> Result<Self, ReconcileError> {
        let mut services = HashMap::with_capacity(table.frontends.len());
        for frontend in &table.frontends {
            services.insert(service_key(frontend), slots_of(frontend));
        }
        let workloads: HashMap<Address, u32> = table
            .workloads
            .iter()
            .map(|route| (route.address.into(), route.path.number()))
            .collect();
        let slots = services.values().map(Vec::len).sum();
        require_room("SERVICES", services.len(), SERVICES_MAX)?;
        require_room("BACKENDS", slots, BACKENDS_MAX)?;
        require_room("WORKLOADS", workloads.len(), WORKLOADS_MAX)?;
        Ok(Wanted {
            services,
            workloads,
        })
    }
}

fn service_key(frontend: &Frontend) -> ServiceKey {
    ServiceKey {
        address: frontend.address.socket.ip().into(),
        port: frontend.address.socket.port(),
        protocol: frontend.address.protocol.number(),
        reserved: 0,
    }
}

fn slots_of(frontend: &Frontend) -> Vec<Slot> {
    let backends = frontend.backends.iter();
    backends
        .map(|backend| Slot {
            endpoint: backend.address.into(),
            path: backend.path.number(),
        })
        .collect()
}

fn require_room(map: &'static str, wanted: usize, limit: usize) -> Result<(), ReconcileError> {
    if wanted <= limit {
        Ok(())
    } else {
        Err(ReconcileError::TooLarge { map, wanted, limit })
    }
}

fn keys_without<K: Copy + Eq + Hash, A, B>(held: &HashMap<K, A>, wanted: &HashMap<K, B>) -> Vec<K> {
    let gone = held.keys().filter(|key| !wanted.contains_key(*key));
    gone.copied().collect()
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

/// What a shared struct must be to lie in a map.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Plain for T {}

fn read_all<K: Plain + Eq + Hash, V: Plain>(
    map: &'static str,
    table: &Table<K, V>,
) -> Result<HashMap<K, V>, ReconcileError> {
    let entries = table
        .iter()
        .map(|entry| entry.map(|(key, value)| (key.0, value.0)));
    entries
        .collect::<Result<_, MapError>>()
        .map_err(|source| failed("read", map, source))
}

fn write<K: Plain, V: Plain>(
    map: &'static str,
    table: &mut Table<K, V>,
    key: K,
    value: V,
) -> Result<(), ReconcileError> {
    table
        .insert(Raw(key), Raw(value), 0)
        .map_err(|source| failed("write", map, source))
}

/// Deletes an entry. One that is not there counts as deleted.
fn delete<K: Plain, V: Plain>(
    map: &'static str,
    table: &mut Table<K, V>,
    key: K,
) -> Result<(), ReconcileError> {
    match table.remove(&Raw(key)) {
        Err(err) if !is_absent(&err) => Err(failed("delete", map, err)),
        _ => Ok(()),
    }
}

/// Whether a map's error only says that there is no such entry.
pub(crate) fn is_absent(err: &MapError) -> bool {
    match err {
        MapError::KeyNotFound => true,
        MapError::SyscallError(err) => err.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn failed(action: &'static str, map: &'static str, source: MapError) -> ReconcileError {
    ReconcileError::Write {
        action,
        map,
        source: Box::new(source),
    }
}
