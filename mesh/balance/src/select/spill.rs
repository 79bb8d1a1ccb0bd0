//! Spill-over: how much of the connections each place of the order takes.
//!
//! A place with `h` percent of healthy endpoints, of which the service wants `spillAt` percent, is *spilling* from `h <
//! spillAt` until `h ≥ spillAt + SPILL_HYSTERESIS` (at most 100). While it is, it takes only `h` of what it would have to be
//! to stop; what is left goes to the next place, which does the same with it. If the last place leaves something, all shares
//! grow by the same factor. So at 69 % of 70 a seventh spills, at 35 % more than half, and at 0 % everything.
//!
//! All endpoints of a place count, ready or not, also those of silent clusters; a place without endpoints takes nothing. An
//! endpoint that was removed on purpose does not count: a service that is scaled down is not sick.

use std::collections::{BTreeMap, BTreeSet};

use tulle_model::{Failover, Service};

use super::rank::{Candidate, Level, Rank, Standing};

/// So many percent above `spillAt` a place stops spilling, so that one endpoint that comes and goes does not move connections
/// to and fro.
const SPILL_HYSTERESIS: u8 = 10;

/// Which places of a service's order are spilling; what one choice hands to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpillState {
    /// The order that the rest speaks of.
    of: Option<Failover>,
    spilling: BTreeSet<Level>,
}

impl SpillState {
    /// Whether some place gives away a share of its connections.
    pub fn is_spilling(&self) -> bool {
        !self.spilling.is_empty()
    }
}

/// A place that takes everything.
pub(super) const WHOLE: u64 = 1_000_000;

/// The groups that serve with their shares, and the state to go on from. `best` is the group that serves without spill-over.
pub(super) fn share(
    service: &Service,
    candidates: &[Candidate],
    best: Rank,
    state: &SpillState,
) -> (Vec<(Rank, u64)>, SpillState) {
    let failover = service.failover.as_ref().filter(|f| f.spill_at > 0);
    let Some(failover) = failover else {
        return (vec![(best, WHOLE)], SpillState::default());
    };
    let start = u64::from(failover.spill_at.min(100));
    let stop = (start + u64::from(SPILL_HYSTERESIS)).min(100);
    let before = (state.of.as_ref() == Some(failover)).then_some(&state.spilling);
    let mut spilling = BTreeSet::new();
    let mut left = WHOLE;
    let mut shares = Vec::new();
    for (level, place) in places(candidates) {
        let percent = place.healthy * 100 / place.all.max(1);
        let was_spilling = before.is_some_and(|before| before.contains(&level));
        let spills = percent < start || (was_spilling && percent < stop);
        if spills {
            spilling.insert(level);
        }
        let Some(group) = place.group else { continue };
        let share = if spills { left * percent / stop } else { left };
        left -= share;
        // One share of nothing is still one healthy endpoint.
        if share > 0 || shares.is_empty() {
            shares.push((group, share.max(1)));
        }
    }
    let of = Some(failover.clone());
    // Nobody is ready by word of a living cluster: then the order alone decides.
    if best.standing != Standing::Sure || shares.is_empty() {
        return (vec![(best, WHOLE)], SpillState { of, spilling });
    }
    (shares, SpillState { of, spilling })
}

#[derive(Debug, Default)]
struct Place {
    all: u64,
    healthy: u64,
    /// The nearest of its healthy endpoints.
    group: Option<Rank>,
}

fn places(candidates: &[Candidate]) -> BTreeMap<Level, Place> {
    let mut places: BTreeMap<Level, Place> = BTreeMap::new();
    for candidate in candidates {
        let place = places.entry(candidate.level).or_default();
        place.all += 1;
        if candidate.is_healthy() {
            place.healthy += 1;
            let rank = candidate.rank.ok();
            place.group = place.group.into_iter().chain(rank).min();
        }
    }
    places
}

/// The weights of endpoints of several groups.
#[derive(Debug)]
pub(super) struct Weights {
    /// By group: its share, and the capacities of its endpoints together.
    groups: BTreeMap<Rank, (u128, u128)>,
    /// The weight before scaling of the heaviest endpoint.
    heaviest: u128,
}

impl Weights {
    pub(super) fn new<'c>(
        serving: impl Iterator<Item = &'c Candidate>,
        shares: &[(Rank, u64)],
    ) -> Self {
        let mut groups: BTreeMap<Rank, (u128, u128)> = BTreeMap::new();
        let mut largest: BTreeMap<Rank, u32> = BTreeMap::new();
        for candidate in serving {
            let Ok(rank) = candidate.rank else { continue };
            let share = shares.iter().find(|(group, _)| *group == rank);
            let share = share.map_or(0, |(_, share)| u128::from(*share));
            let group = groups.entry(rank).or_insert((share, 0));
            group.1 += u128::from(candidate.capacity.max(1));
            let max = largest.entry(rank).or_default();
            *max = (*max).max(candidate.capacity.max(1));
        }
        let mut weights = Weights {
            groups,
            heaviest: 1,
        };
        let raw = largest.iter().map(|(rank, max)| weights.raw(*rank, *max));
        weights.heaviest = raw.max().unwrap_or(1).max(1);
        weights
    }

    /// The weight of an endpoint; its own capacity while only one group serves.
    pub(super) fn of(&self, rank: Rank, capacity: u32) -> u32 {
        if self.groups.len() <= 1 {
            return capacity.max(1);
        }
        let scaled = self.raw(rank, capacity) * WEIGHT_MAX / self.heaviest;
        u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
    }

    fn raw(&self, rank: Rank, capacity: u32) -> u128 {
        let Some((share, capacities)) = self.groups.get(&rank) else {
            return 0;
        };
        share * u128::from(capacity.max(1)) * PRECISION / (*capacities).max(1)
    }
}

/// The weight of the heaviest endpoint when several groups serve; fits the 16 bits that the kernel has for it.
const WEIGHT_MAX: u128 = 10_000;
const PRECISION: u128 = 1 << 32;
