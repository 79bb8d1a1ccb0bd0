//! Which backend of a service a new connection or conversation gets.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use tulle_abi::{
    ALGORITHM_MAGLEV, AffinityKey, AffinityValue, BackendKey, BackendValue, Endpoint, INLINE_SLOTS,
    InlineSlot, MAGLEV_CHUNK_LEN, MAGLEV_POSITIONS, MaglevKey, MemberKey, Reason, ServiceValue,
};

use crate::{
    maps::{AFFINITIES, BACKENDS, MAGLEV, MEMBERS},
    sock_addr::Client,
};

/// The backend of a service for this client: the one that it keeps, the one that the service's table has for it, or any.
#[inline(always)]
pub(crate) fn pick_backend(client: &Client, service: &ServiceValue) -> Result<InlineSlot, Reason> {
    if service.count == 0 {
        return Err(Reason::NoBackend);
    }
    if service.affinity_seconds == 0 {
        return draw(client, service);
    }
    let key = AffinityKey {
        netns: client.netns,
        service: service.id,
        reserved: 0,
    };
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(kept) = kept_backend(&key, service, now) {
        return Ok(kept);
    }
    let slot = draw(client, service)?;
    let value = AffinityValue {
        used_at: now,
        endpoint: slot.endpoint,
        reserved: 0,
    };
    // Without memory for it the client is merely less steady.
    let _ = AFFINITIES.insert(key, value, 0);
    Ok(slot)
}

/// Whether a backend belongs to a service whose choices are remembered, and the path to it.
#[inline(always)]
pub(crate) fn path_of_member(service: u32, endpoint: &Endpoint) -> Option<u32> {
    let member = MemberKey {
        service,
        endpoint: *endpoint,
    };
    unsafe { MEMBERS.get(member) }.copied()
}

/// The backend that the client used last, if that was recent and it still serves. An entry of such a map may be handed to another
/// key at any moment; what was read is believed only because it is a member of the service.
#[inline(always)]
fn kept_backend(key: &AffinityKey, service: &ServiceValue, now: u64) -> Option<InlineSlot> {
    let kept = AFFINITIES.get_ptr_mut(key)?;
    let (used_at, endpoint) = unsafe { ((*kept).used_at, (*kept).endpoint) };
    if now.saturating_sub(used_at) > u64::from(service.affinity_seconds) * NANOS_PER_SECOND {
        return None;
    }
    let path = path_of_member(service.id, &endpoint)?;
    unsafe { (*kept).used_at = now };
    Some(InlineSlot { endpoint, path })
}

#[inline(always)]
fn draw(client: &Client, service: &ServiceValue) -> Result<InlineSlot, Reason> {
    let id = service.id;
    if service.algorithm == ALGORITHM_MAGLEV
        && let Some(slot) = from_table(id, client.hash)
    {
        return Ok(slot);
    }
    // The entry may be written at any moment, so the count is looked at once more.
    let Some(index) = unsafe { bpf_get_prandom_u32() }.checked_rem(service.count) else {
        return Err(Reason::NoBackend);
    };
    let slot = if service.is_weighted != 0 {
        weighted_slot(id, index)
    } else {
        match inline_slot(service, index) {
            Some(slot) => Some(slot),
            None => slot_at(id, index),
        }
    };
    match slot {
        Some(slot) => Ok(slot),
        // The last slot may go between the two look-ups; the first one is part of the service's entry.
        None => inline_slot(service, 0).ok_or(Reason::MissingSlot),
    }
}

#[inline(always)]
fn inline_slot(service: &ServiceValue, index: u32) -> Option<InlineSlot> {
    // The compiler must not fold the bound into others: the verifier wants to see this one.
    let index = opaque(index);
    if index >= INLINE_SLOTS as u32 {
        return None;
    }
    Some(unsafe { *service.first.as_ptr().add(index as usize) })
}

/// A drawn slot stands for its share, and for the rest of the draw its alias does: two look-ups at most, whatever the weights.
#[inline(always)]
fn weighted_slot(service: u32, index: u32) -> Option<InlineSlot> {
    let backend = backend_at(service, index)?;
    if unsafe { bpf_get_prandom_u32() } <= backend.threshold {
        return Some(slot_of(backend));
    }
    match backend_at(service, backend.alias) {
        Some(alias) => Some(slot_of(alias)),
        None => Some(slot_of(backend)),
    }
}

/// The slot that the service's Maglev table has for a client.
#[inline(always)]
fn from_table(service: u32, hash: u32) -> Option<InlineSlot> {
    let position = hash % MAGLEV_POSITIONS;
    let chunk_len = MAGLEV_CHUNK_LEN as u32;
    let chunk = unsafe {
        MAGLEV.get(MaglevKey {
            service,
            chunk: position / chunk_len,
        })
    }?;
    let place = opaque(position % chunk_len);
    if place >= chunk_len {
        return None;
    }
    let index = unsafe { *chunk.slots.as_ptr().add(place as usize) };
    slot_at(service, u32::from(index))
}

#[inline(always)]
fn slot_at(service: u32, index: u32) -> Option<InlineSlot> {
    backend_at(service, index).map(slot_of)
}

#[inline(always)]
fn backend_at(service: u32, index: u32) -> Option<&'static BackendValue> {
    let backend = unsafe { BACKENDS.get(BackendKey { service, index }) }?;
    (backend.service == service).then_some(backend)
}

#[inline(always)]
fn slot_of(backend: &BackendValue) -> InlineSlot {
    InlineSlot {
        endpoint: backend.endpoint,
        path: backend.path,
    }
}

/// The same number, about which the compiler knows nothing.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    unsafe { core::ptr::read_volatile(&raw const number) }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;
