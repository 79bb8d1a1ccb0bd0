//! The maps that both object files use.

use aya_ebpf::{
    btf_maps::{LruHashMap, PerCpuArray, SockHash},
    macros::btf_map,
};
use tulle_abi::{COUNTERS_LEN, DIRECTS_MAX, LISTENERS_MAX, ListenerKey, TupleKey};

/// The proxy's listeners for inbound plaintext. The kernel removes a listener when it closes.
#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, LISTENERS_MAX> = SockHash::new();
/// Direct connections between pods of this node, as the accepting end names them.
#[btf_map]
pub(crate) static DIRECTS: LruHashMap<TupleKey, u32, DIRECTS_MAX> = LruHashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();
