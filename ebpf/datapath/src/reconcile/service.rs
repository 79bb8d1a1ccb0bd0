//! One service as its maps hold it: which entries follow from what it has.
//!
//! Pure: what is here is computed, the caller writes.

use tulle_abi::{
    ALGORITHM_MAGLEV, ALGORITHM_RANDOM, BackendValue, INLINE_SLOTS, InlineSlot, MAGLEV_CHUNK_LEN,
    MAGLEV_CHUNKS, MaglevChunk, PROTOCOL_UDP, ServiceKey, ServiceValue,
};
use tulle_model::Algorithm;

use super::index_number;
use crate::{
    Frontend, ReconcileError,
    slots::Slot,
    weights::{is_weighted, shares},
};

/// A service as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct WantedService {
    pub(super) slots: Vec<Slot>,
    pub(super) features: Features,
}

/// How a service's backends are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features {
    pub(super) affinity_seconds: u32,
    pub(super) algorithm: Algorithm,
}

/// A service as the maps hold it.
#[derive(Debug, Clone)]
pub(super) struct HeldService {
    pub(super) id: u32,
    pub(super) slots: Vec<Slot>,
    pub(super) features: Features,
    /// It has a Maglev table.
    pub(super) has_table: bool,
    /// The table's positions, 32 KiB; empty without one, and as long as only the maps know them.
    pub(super) positions: Vec<u16>,
    /// The maps hold exactly what follows from the rest. An earlier process may have died between two steps.
    pub(super) is_sure: bool,
}

impl WantedService {
    pub(super) fn from_frontend(frontend: &Frontend) -> Self {
        let slot = |backend: &crate::Backend| Slot {
            endpoint: backend.address.into(),
            path: backend.path.number(),
            weight: backend.weight,
        };
        WantedService {
            slots: frontend.backends.iter().map(slot).collect(),
            features: Features {
                affinity_seconds: frontend.session_affinity,
                algorithm: frontend.algorithm,
            },
        }
    }
}

impl HeldService {
    /// A service that the maps do not hold yet.
    pub(super) fn new(id: u32) -> Self {
        HeldService {
            id,
            slots: Vec::new(),
            features: Features::default(),
            has_table: false,
            positions: Vec::new(),
            is_sure: false,
        }
    }

    /// Whether nothing is to be done for `wanted`.
    pub(super) fn is(&self, wanted: &WantedService) -> bool {
        self.is_sure && self.slots == wanted.slots && self.features == wanted.features
    }

    /// Whether earlier choices are remembered, so that it must be known who belongs to it.
    pub(super) fn remembers(&self, key: ServiceKey) -> bool {
        key.protocol == PROTOCOL_UDP || self.features.affinity_seconds > 0
    }

    pub(super) fn is_weighted(&self) -> bool {
        is_weighted(self.slots.iter().map(|slot| slot.weight))
    }

    /// The service's own entry.
    pub(super) fn value(&self) -> Result<ServiceValue, ReconcileError> {
        let mut first = [InlineSlot::default(); INLINE_SLOTS];
        for (place, slot) in first.iter_mut().zip(&self.slots) {
            *place = InlineSlot {
                endpoint: slot.endpoint,
                path: slot.path,
            };
        }
        Ok(ServiceValue {
            id: self.id,
            count: index_number(self.slots.len())?,
            affinity_seconds: self.features.affinity_seconds,
            algorithm: if self.has_table {
                ALGORITHM_MAGLEV
            } else {
                ALGORITHM_RANDOM
            },
            is_weighted: u16::from(self.is_weighted()),
            first,
        })
    }

    /// The entries of all slots, by slot number.
    pub(super) fn backends(&self) -> Result<Vec<BackendValue>, ReconcileError> {
        let weights: Vec<u32> = self.slots.iter().map(|slot| slot.weight).collect();
        let slots = self.slots.iter().zip(shares(&weights));
        slots
            .map(|(slot, share)| {
                Ok(BackendValue {
                    endpoint: slot.endpoint,
                    path: slot.path,
                    service: self.id,
                    weight: slot.weight,
                    threshold: share.threshold,
                    alias: index_number(share.alias)?,
                })
            })
            .collect()
    }

    /// The entries of the Maglev table, by chunk.
    pub(super) fn table(&self) -> Vec<MaglevChunk> {
        let mut chunks = vec![
            MaglevChunk {
                slots: [0; MAGLEV_CHUNK_LEN],
            };
            MAGLEV_CHUNKS
        ];
        for (chunk, part) in chunks
            .iter_mut()
            .zip(self.positions.chunks(MAGLEV_CHUNK_LEN))
        {
            for (place, slot) in chunk.slots.iter_mut().zip(part) {
                *place = *slot;
            }
        }
        chunks
    }
}
