//! Which keys another cluster has published, so that what it no longer says can be told apart from what was not read yet.
//!
//! The table outlives connections. A new list marks every key stale; reading a key again makes it fresh; only when the list is
//! whole and the cluster has said that it is complete are the keys that stayed stale taken for gone.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    ops::Bound,
};

/// The keys of one cluster.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    keys: BTreeMap<Box<str>, Mark>,
    bytes: usize,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    digest: u64,
    len: usize,
    stale: bool,
}

/// Whether there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// There is.
    Room,
    /// There is no room for another key, or for so large a value.
    NoRoom,
}

impl KeyTable {
    /// Whether the key has this value already; it is fresh then.
    pub(crate) fn is_same(&mut self, key: &str, value: &[u8]) -> bool {
        let digest = self.hasher.hash_one(value);
        let same = self.keys.get_mut(key).filter(|mark| mark.digest == digest);
        same.map(|mark| mark.stale = false).is_some()
    }

    /// A key has a value; `len` is what it costs to keep.
    pub(crate) fn put(&mut self, key: &str, value: &[u8], len: usize) -> Put {
        let digest = self.hasher.hash_one(value);
        let known = self.keys.get_mut(key);
        let before = known.as_ref().map_or(0, |m| m.len);
        if let Some(mark) = known {
            mark.stale = false;
        } else if self.keys.len() >= KEYS_MAX {
            return Put::NoRoom;
        }
        let bytes = self.bytes.saturating_sub(before).saturating_add(len);
        if bytes > STATE_BYTES_MAX {
            return Put::NoRoom;
        }
        self.bytes = bytes;
        let mark = Mark {
            digest,
            len,
            stale: false,
        };
        self.keys.insert(key.into(), mark);
        Put::Room
    }

    /// The key is there, but what it says cannot be taken: what it said last counts on.
    pub(crate) fn keep(&mut self, key: &str) {
        if let Some(mark) = self.keys.get_mut(key) {
            mark.stale = false;
        }
    }

    /// The key is gone.
    pub(crate) fn remove(&mut self, key: &str) {
        if let Some(mark) = self.keys.remove(key) {
            self.bytes = self.bytes.saturating_sub(mark.len);
        }
    }

    /// A list begins.
    pub(crate) fn mark_stale(&mut self) {
        self.keys.values_mut().for_each(|mark| mark.stale = true);
    }

    /// The keys under a prefix that the list did not bring.
    pub(crate) fn stale(&self, prefix: &str) -> Vec<String> {
        let tail = self
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let under = tail.take_while(|(key, _)| key.starts_with(prefix));
        under
            .filter(|(_, mark)| mark.stale)
            .map(|(key, _)| key.to_string())
            .collect()
    }

    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.bytes = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}

/// Two and a half times the keys of the largest mesh that the design speaks of, for one cluster.
pub(crate) const KEYS_MAX: usize = 250_000;
/// Of one cluster, counted before what slices share is shared out.
pub(crate) const STATE_BYTES_MAX: usize = 1 << 30;

#[cfg(test)]
mod tests;
