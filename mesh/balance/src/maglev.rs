//! Maglev's table: a stable choice by hash.
//!
//! Every node that knows the same backends with the same weights builds the same table, in whatever order they came; when one
//! backend goes, its slots go to others and nearly all other slots stay (Eisenbud et al., NSDI 2016, §3.4). Weights as in
//! Envoy: a backend takes its turn as often as its share of the largest weight says.
//!
//! In one thing this is not the paper's table. There the backends take turns until no slot is free, and the last turns are
//! long searches that any change upsets: of 100 backends one goes, and 1.3 % of the others' slots move (measured). Here
//! they take turns for five eighths of the slots; each slot that is left follows a random one that is taken. So less than
//! 1 % move, the table is built faster, and the price is that equal backends have slots within some percent of each other
//! instead of equally many.

use std::net::{IpAddr, SocketAddr};

/// How many slots a table has: a prime, more than a hundred times as many as a service usually has backends.
pub const TABLE_LEN: usize = 16381;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Positions in the list that the table was built of.
    slots: Vec<u16>,
}

impl Table {
    /// The table of these backends with their weights. Of more than `BACKENDS_MAX` the rest is left out.
    ///
    /// A backend of weight 0 gets no slot, unless all have weight 0: then all are alike.
    pub fn build(backends: &[(SocketAddr, u32)]) -> Self {
        let mut turns = turns_of(backends);
        let max = turns.iter().map(|turn| turn.weight).max().unwrap_or(0);
        let mut slots = vec![FREE; TABLE_LEN];
        let mut left = if turns.is_empty() { 0 } else { TURNS };
        // In each round the heaviest takes a slot, so there are at most as many rounds as slots.
        while left > 0 {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < max {
                    continue;
                }
                turn.credit -= max;
                turn.take_slot(&mut slots);
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        follow(&mut slots);
        Table { slots }
    }

    /// The position of the backend for a client with this hash; `None` if there are no backends.
    pub fn pick(&self, hash: u64) -> Option<usize> {
        let len = u64::try_from(self.slots.len())
            .ok()
            .filter(|len| *len > 0)?;
        let slot = usize::try_from(hash % len).ok()?;
        self.slots.get(slot).map(|position| usize::from(*position))
    }

    /// For each slot the position of its backend; empty if there are no backends.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// A backend's way through the slots.
struct Turn {
    position: u16,
    weight: u64,
    credit: u64,
    next: usize,
    skip: usize,
}

impl Turn {
    fn new(position: u16, address: SocketAddr, weight: u32) -> Self {
        let len = u64::try_from(TABLE_LEN).unwrap_or(u64::MAX);
        let below = |hash: u64, limit: u64| usize::try_from(hash % limit).unwrap_or(0);
        Turn {
            position,
            weight: u64::from(weight),
            credit: 0,
            next: below(hash_of(address, OFFSET_SEED), len),
            skip: 1 + below(hash_of(address, SKIP_SEED), len - 1),
        }
    }

    /// Takes the next free slot on its way. The length is a prime, so the way leads past every slot.
    fn take_slot(&mut self, slots: &mut [u16]) {
        for _ in 0..TABLE_LEN {
            let slot = slots.get_mut(self.next);
            self.next = (self.next + self.skip) % TABLE_LEN;
            if let Some(slot) = slot.filter(|slot| **slot == FREE) {
                *slot = self.position;
                return;
            }
        }
    }
}

/// Gives each free slot to the backend of a taken one that a hash of the slot's number names.
fn follow(slots: &mut Vec<u16>) {
    let taken = slots.clone();
    for (slot, owner) in slots.iter_mut().enumerate().filter(|(_, o)| **o == FREE) {
        let number = u64::try_from(slot).unwrap_or(u64::MAX);
        let probes = (0..PROBES_MAX).map(|probe| {
            let hash = mix(mix(number.wrapping_add(FOLLOW_SEED)) ^ probe.wrapping_mul(GOLDEN));
            usize::try_from(hash).unwrap_or(slot) % TABLE_LEN
        });
        let mut found = probes
            .filter_map(|at| taken.get(at))
            .filter(|o| **o != FREE);
        // Three probes in eight miss, so with this many none misses all; whoever is first in the table stands in.
        let fallback = || taken.iter().find(|o| **o != FREE);
        if let Some(found) = found.next().or_else(fallback) {
            *owner = *found;
        }
    }
    slots.retain(|slot| *slot != FREE);
}

/// The backends that take part, in an order that does not depend on how they were listed.
fn turns_of(backends: &[(SocketAddr, u32)]) -> Vec<Turn> {
    let all_zero = backends.iter().all(|(_, weight)| *weight == 0);
    let mut ordered: Vec<(SocketAddr, u32, u16)> = (0..BACKENDS_MAX)
        .zip(backends)
        .filter(|(_, (_, weight))| all_zero || *weight > 0)
        .map(|(position, (address, weight))| (*address, (*weight).max(1), position))
        .collect();
    ordered.sort_unstable();
    let turn =
        |(address, weight, position): (SocketAddr, u32, u16)| Turn::new(position, address, weight);
    ordered.into_iter().map(turn).collect()
}

/// Must never change: nodes of two versions have to agree.
fn hash_of(address: SocketAddr, seed: u64) -> u64 {
    let (family, bits) = match address.ip() {
        IpAddr::V4(v4) => (4, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (6, v6.to_bits()),
    };
    let low = u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    let high = u64::try_from(bits >> 64).unwrap_or(0);
    let words = [family, high, low, u64::from(address.port())];
    words.into_iter().fold(
        seed,
        |hash, word| mix(hash ^ mix(word.wrapping_add(GOLDEN))),
    )
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input moves every bit of the output.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The sequence's increment in SplitMix64: without it, the word 0 would be mixed to 0.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const OFFSET_SEED: u64 = 0x7475_6c6c_655f_6f66;
const SKIP_SEED: u64 = 0x7475_6c6c_655f_736b;
const FOLLOW_SEED: u64 = 0x7475_6c6c_655f_666f;
/// Slots that the backends take in turns.
const TURNS: usize = TABLE_LEN / 8 * 5;
const PROBES_MAX: u64 = 64;
/// Positions are 16 bits wide, and the last of them means that a slot is free.
const BACKENDS_MAX: u16 = u16::MAX;
const FREE: u16 = u16::MAX;

#[cfg(test)]
mod tests;
