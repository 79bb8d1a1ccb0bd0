//! Address blocks, and the longest of them that holds an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::HashMap;
use tulle_model::AddressRange;

/// A block with the bits behind its prefix cleared. Blocks that lie in another follow it in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix {
    is_v6: bool,
    /// The address, in the upper bits.
    bits: u128,
    len: u8,
}

impl Prefix {
    pub(crate) const WORLD: [Prefix; 2] = [Prefix::world(false), Prefix::world(true)];

    const fn world(is_v6: bool) -> Self {
        Prefix {
            is_v6,
            bits: 0,
            len: 0,
        }
    }

    pub(crate) fn of(range: &AddressRange) -> Self {
        Prefix::host(range.address).cut(range.prefix_len)
    }

    /// The address alone.
    pub(crate) fn host(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Prefix {
                is_v6: false,
                bits: u128::from(u32::from(address)) << 96,
                len: 32,
            },
            IpAddr::V6(address) => Prefix {
                is_v6: true,
                bits: u128::from(address),
                len: 128,
            },
        }
    }

    /// The block of that length in which it lies; itself if it is not longer.
    pub(crate) fn cut(self, len: u8) -> Self {
        let len = len.min(self.len);
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Prefix {
            bits: self.bits & mask,
            len,
            ..self
        }
    }

    pub(crate) fn covers(self, other: Prefix) -> bool {
        self.is_v6 == other.is_v6 && self.len <= other.len && other.cut(self.len) == self
    }

    pub(crate) fn is_v6(self) -> bool {
        self.is_v6
    }

    /// All blocks in which it lies, itself first, the world last.
    pub(crate) fn enclosing(self) -> impl Iterator<Item = Prefix> {
        (0..=self.len).rev().map(move |len| self.cut(len))
    }

    pub(crate) fn range(self) -> AddressRange {
        AddressRange {
            address: address(self.is_v6, self.bits),
            prefix_len: self.len,
        }
    }

    /// The first and the last address.
    pub(crate) fn ends(self) -> (IpAddr, IpAddr) {
        let rest = u128::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
        (
            address(self.is_v6, self.bits),
            address(self.is_v6, self.bits | rest),
        )
    }
}

fn address(is_v6: bool, bits: u128) -> IpAddr {
    if is_v6 {
        Ipv6Addr::from(bits).into()
    } else {
        // The upper 32 bits are the address.
        Ipv4Addr::from(u32::try_from(bits >> 96).unwrap_or(0)).into()
    }
}

/// Blocks with values. A clone shares everything.
#[derive(Debug, Clone)]
pub(crate) struct PrefixTable<V> {
    blocks: HashMap<Prefix, V>,
    /// How many blocks there are of each family and length: only lengths in use are looked up.
    lens: imbl::OrdMap<(bool, u8), usize>,
}

impl<V: Clone> Default for PrefixTable<V> {
    fn default() -> Self {
        PrefixTable {
            blocks: HashMap::new(),
            lens: imbl::OrdMap::new(),
        }
    }
}

impl<V: Clone> PrefixTable<V> {
    pub(crate) fn insert(&mut self, prefix: Prefix, value: V) {
        if self.blocks.insert(prefix, value).is_none() {
            *self.lens.entry((prefix.is_v6, prefix.len)).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, prefix: Prefix) -> Option<V> {
        let value = self.blocks.remove(&prefix)?;
        let key = (prefix.is_v6, prefix.len);
        match self.lens.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                self.lens.remove(&key);
            }
        }
        Some(value)
    }

    pub(crate) fn get(&self, prefix: Prefix) -> Option<&V> {
        self.blocks.get(&prefix)
    }

    pub(crate) fn get_mut(&mut self, prefix: Prefix) -> Option<&mut V> {
        self.blocks.get_mut(&prefix)
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The longest block that holds all of `of`.
    pub(crate) fn longest(&self, of: Prefix) -> Option<(Prefix, &V)> {
        let lens = self.lens.range((of.is_v6, 0)..=(of.is_v6, of.len));
        lens.rev().find_map(|((_, len), _)| {
            let prefix = of.cut(*len);
            self.blocks.get(&prefix).map(|value| (prefix, value))
        })
    }
}

#[cfg(test)]
mod tests;
