//! Shared structs as aya wants them.

#![expect(unsafe_code, reason = "aya's marker trait is unsafe to implement")]

use tulle_abi as abi;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A struct of `tulle-abi` in the form of a map key or value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(crate) struct Raw<T>(pub(crate) T);

// SAFETY: the bounds say that `T` has no padding, that any bytes are a valid `T` and that it holds no cell, which is what plain
// old data means; `repr(transparent)` keeps all that.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> aya::Pod for Raw<T> {}

/// A map from one shared struct to another.
pub(crate) type Table<K, V> = aya::maps::HashMap<aya::maps::MapData, Raw<K>, Raw<V>>;
/// A map from prefixes of one shared struct to another.
pub(crate) type Trie<K, V> = aya::maps::lpm_trie::LpmTrie<aya::maps::MapData, Raw<K>, Raw<V>>;
/// Listening sockets by pod and family.
pub(crate) type Listeners = aya::maps::SockHash<aya::maps::MapData, Raw<abi::ListenerKey>>;
