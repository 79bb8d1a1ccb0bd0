//! Maglev's table: a stable choice by hash.
//!
//! Every node that knows the same backends with the same weights builds the same table, in whatever order they came, and a
//! client's hash picks a slot (Eisenbud et al., NSDI 2016, §3.4).
//!
//! In one thing this is not the paper's table. There the backends take slots in turns, so a backend that goes changes whose
//! turn it is for all slots after it: of 100 backends one goes, and 1.4 % of the others' slots move (measured; 0.2 % of 4).
//! Here each slot goes to the backend with the highest random weight for it (rendezvous hashing: Thaler and Ravishankar 1998;
//! with weights: Mosko et al., draft-ietf-bess-weighted-hrw). Then *only* the slots of the one that goes move, each to whom it
//! would have had without it; the slots that a new backend gets are all that move when it comes. The price is evenness: of 100
//! equal backends each has its share give or take 8 %, which is far below what the clients' own hashes scatter.

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
    /// A backend of weight 0 gets no slot, unless all have weight 0: then all are alike. The work is a draw for each slot and
    /// backend; where a table is at hand and little has changed, [`Table::rebuild`] needs far fewer.
    pub fn build(backends: &[(SocketAddr, u32)]) -> Self {
        let classes = classes_of(&entries_of(backends));
        let slots = slots().filter_map(|slot| Some(winner(&classes, slot)?.position));
        Table {
            slots: slots.collect(),
        }
    }

    /// As [`Table::build`] of `after`, from slots which that gave for `before`: each slot is drawn for by those who are new, and
    /// by all only if its owner is gone.
    pub fn rebuild(old: &[u16], before: &[(SocketAddr, u32)], after: &[(SocketAddr, u32)]) -> Self {
        let entries = entries_of(after);
        let (kept, new) = compare(&entries_of(before), &entries);
        if old.len() != TABLE_LEN || new.len() * 2 > entries.len() {
            return Table::build(after);
        }
        let (all, new) = (classes_of(&entries), classes_of(&new));
        let slots = slots().zip(old).filter_map(|(slot, owner)| {
            let owner = kept.get(usize::from(*owner)).copied().flatten();
            let owner = owner.map(|entry| entry.bid(slot));
            let best = match owner {
                Some(owner) => [Some(owner), winner(&new, slot)]
                    .into_iter()
                    .flatten()
                    .reduce(Bid::better),
                None => winner(&all, slot),
            };
            Some(best?.position)
        });
        Table {
            slots: slots.collect(),
        }
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

/// A backend that takes part.
#[derive(Debug, Clone, Copy)]
struct Entry {
    weight: u32,
    address: SocketAddr,
    hash: u64,
    position: u16,
}

/// What a backend bids for a slot.
#[derive(Debug, Clone, Copy)]
struct Bid {
    draw: u64,
    weight: u32,
    position: u16,
}

impl Entry {
    fn bid(self, slot: u64) -> Bid {
        Bid {
            draw: draw(self.hash, slot),
            weight: self.weight,
            position: self.position,
        }
    }
}

impl Bid {
    /// Who waits less long, as if drawn from an exponential distribution with the weight as its rate. Among equal weights that is
    /// the higher draw, without a logarithm. Positions differ between nodes, so they decide nothing.
    fn better(self, other: Bid) -> Bid {
        let wait = |bid: Bid| minus_ln(bid.draw) / f64::from(bid.weight);
        let other_wins = if self.weight == other.weight {
            other.draw > self.draw
        } else {
            let (own, others) = (wait(self), wait(other));
            others < own || (others <= own && other.weight < self.weight)
        };
        if other_wins { other } else { self }
    }
}

/// A hash for each slot.
fn slots() -> impl Iterator<Item = u64> {
    (0..SLOTS).map(|number| mix(number ^ SLOT_SEED))
}

/// The best bid for a slot, if there are backends. Each class is of one weight.
fn winner(classes: &[Vec<Entry>], slot: u64) -> Option<Bid> {
    let of_class = |class: &Vec<Entry>| class.iter().map(|e| e.bid(slot)).reduce(Bid::better);
    classes.iter().filter_map(of_class).reduce(Bid::better)
}

/// The backends that take part, by weight and address.
fn entries_of(backends: &[(SocketAddr, u32)]) -> Vec<Entry> {
    let all_zero = backends.iter().all(|(_, weight)| *weight == 0);
    let mut entries: Vec<Entry> = (0..BACKENDS_MAX)
        .zip(backends)
        .filter(|(_, (_, weight))| all_zero || *weight > 0)
        .map(|(position, (address, weight))| Entry {
            weight: (*weight).max(1),
            address: *address,
            hash: hash_of(*address),
            position,
        })
        .collect();
    entries.sort_unstable_by_key(|entry| (entry.weight, entry.address, entry.position));
    entries
}

fn classes_of(entries: &[Entry]) -> Vec<Vec<Entry>> {
    let classes = entries.chunk_by(|one, next| one.weight == next.weight);
    classes.map(<[Entry]>::to_vec).collect()
}

/// For each position of `before` who is there still, as it is in `after`; and who is new.
fn compare(before: &[Entry], after: &[Entry]) -> (Vec<Option<Entry>>, Vec<Entry>) {
    let positions = before.iter().map(|entry| usize::from(entry.position) + 1);
    let mut kept = vec![None; positions.max().unwrap_or(0)];
    let mut new = Vec::new();
    let mut before = before.iter().peekable();
    for entry in after {
        let key = |entry: &Entry| (entry.weight, entry.address);
        while before.next_if(|old| key(old) < key(entry)).is_some() {}
        match before.next_if(|old| key(old) == key(entry)) {
            Some(old) => {
                if let Some(place) = kept.get_mut(usize::from(old.position)) {
                    *place = Some(*entry);
                }
            }
            None => new.push(*entry),
        }
    }
    (kept, new)
}

/// A number between 0 and 2^64 that only this backend has for this slot: both halves of a product, folded.
fn draw(backend: u64, slot: u64) -> u64 {
    let product = u128::from(backend ^ slot) * u128::from(GOLDEN);
    let (low, high) = (product & u128::from(u64::MAX), product >> 64);
    u64::try_from(low ^ high).unwrap_or(0)
}

/// The natural logarithm of `draw / 2^64`, negated. By additions, multiplications and divisions alone, which IEEE 754 leaves no
/// choice in: the logarithms of two C libraries differ in the last bit, and then two nodes would.
fn minus_ln(draw: u64) -> f64 {
    let shift = draw.max(1).leading_zeros();
    // The upper half of what is left, with its highest bit set: 32 bits decide.
    let mantissa = u32::try_from((draw.max(1) << shift) >> 32).unwrap_or(u32::MAX);
    let part = (f64::from(mantissa) + 0.5) / TWO_TO_32;
    let s = (part - 1.0) / (part + 1.0);
    let square = s * s;
    // 2 artanh(s), as far as its terms are above 1e-8.
    let series = (0..12u32)
        .rev()
        .fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1));
    f64::from(shift) * LN_2 - 2.0 * s * series
}

/// Must never change: nodes of two versions have to agree.
fn hash_of(address: SocketAddr) -> u64 {
    let (family, bits) = match address.ip() {
        IpAddr::V4(v4) => (4, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (6, v6.to_bits()),
    };
    let low = u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    let high = u64::try_from(bits >> 64).unwrap_or(0);
    let words = [family, high, low, u64::from(address.port())];
    words.into_iter().fold(BACKEND_SEED, |hash, word| {
        mix(hash ^ mix(word.wrapping_add(GOLDEN)))
    })
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input moves every bit of the output.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The sequence's increment in SplitMix64: without it, the word 0 would be mixed to 0.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const BACKEND_SEED: u64 = 0x7475_6c6c_655f_6f66;
const SLOT_SEED: u64 = 0x7475_6c6c_655f_736b;
const SLOTS: u64 = TABLE_LEN as u64;
const TWO_TO_32: f64 = 4_294_967_296.0;
const LN_2: f64 = std::f64::consts::LN_2;
/// Positions are 16 bits wide.
const BACKENDS_MAX: u16 = u16::MAX;

#[cfg(test)]
mod tests;
