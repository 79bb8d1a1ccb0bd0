//! Every map of the node's object file. Names and layout numbers are listed in `tulle_abi::MAPS`; the loader pins them.

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, RingBuf, SockHash},
    helpers::bpf_map_delete_elem,
    macros::btf_map,
};
use tulle_abi::{
    AFFINITIES_MAX, Address, AffinityKey, AffinityValue, BACKENDS_MAX, BackendKey, BackendValue,
    ConnectEvent, EVENTS_LEN, EVICTIONS_MAX, Endpoint, EvictionSlot, MAGLEV_CHUNKS,
    MAGLEV_SERVICES_MAX, MEMBERS_MAX, MaglevChunk, MaglevKey, MemberKey, Membership, ORIGINALS_MAX,
    OriginalKey, OriginalValue, PEERS_MAX, SERVICES_MAX, SOCKETS_MAX, ServiceKey, ServiceValue,
    SocketNote, SocketPointer, TupleKey, UDP_FLOWS_MAX, UdpFlowKey, UdpFlowValue, WORKLOADS_MAX,
};

pub(crate) use self::shared::{
    BLOCKS, COUNTERS, DIRECTS, EVENT_RATE, FLOWS, IDENTITIES, OWNERS, POD_ADDRESSES, PODS, POLICY,
    PORTS, VERDICTS, VOUCHED,
};
use crate::storage::SocketStorage;

mod shared;

/// Maps that are usually far from full take memory as they grow.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
/// Children of a listener begin with its value.
const INHERITED: usize = ON_DEMAND | BPF_F_CLONE as usize;

#[btf_map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceValue, SERVICES_MAX, ON_DEMAND> =
    HashMap::new();
#[btf_map]
pub(crate) static BACKENDS: HashMap<BackendKey, BackendValue, BACKENDS_MAX, ON_DEMAND> =
    HashMap::new();
/// Members of services whose choices are remembered: tells whether an earlier choice still holds, and the path to it.
#[btf_map]
pub(crate) static MEMBERS: HashMap<MemberKey, u32, MEMBERS_MAX, ON_DEMAND> = HashMap::new();
#[btf_map]
pub(crate) static MAGLEV: HashMap<
    MaglevKey,
    MaglevChunk,
    { MAGLEV_SERVICES_MAX * MAGLEV_CHUNKS },
    ON_DEMAND,
> = HashMap::new();
/// The backend that a client pod keeps.
#[btf_map]
pub(crate) static AFFINITIES: LruHashMap<AffinityKey, AffinityValue, AFFINITIES_MAX> =
    LruHashMap::new();
/// What became of connections that lead straight to a backend, for the proxy to read.
#[btf_map]
pub(crate) static EVENTS: RingBuf<ConnectEvent, EVENTS_LEN> = RingBuf::new();
/// The path to each workload's own address.
#[btf_map]
pub(crate) static WORKLOADS: HashMap<Address, u32, WORKLOADS_MAX, ON_DEMAND> = HashMap::new();
/// Destinations of captured connections, for the proxy to look up.
#[btf_map]
pub(crate) static ORIGINALS: LruHashMap<OriginalKey, OriginalValue, ORIGINALS_MAX> =
    LruHashMap::new();
/// Peers announced by socket cookie, before the proxy's connect.
#[btf_map]
pub(crate) static ANNOUNCED: LruHashMap<u64, Endpoint, PEERS_MAX> = LruHashMap::new();
/// The same, as the accepting end will name the connection.
#[btf_map]
pub(crate) static PEERS: LruHashMap<TupleKey, Endpoint, PEERS_MAX> = LruHashMap::new();
/// What a socket carries until the kernel frees it.
#[btf_map]
pub(crate) static NOTES: SocketStorage<SocketNote, ON_DEMAND> = SocketStorage::new();
/// Where the listener of an accepted socket lies in memory: the kernel copies a listener's value to its children.
#[btf_map]
pub(crate) static PARENTS: SocketStorage<u64, INHERITED> = SocketStorage::new();
/// Whether and by which name the socket of an application is in the sockmap: readable where no name can be computed.
#[btf_map]
pub(crate) static JOINED: SocketStorage<Membership, ON_DEMAND> = SocketStorage::new();
/// One slot for each program that evicts, on each processor.
#[btf_map]
pub(crate) static EVICTIONS: Array<EvictionSlot, EVICTIONS_MAX> = Array::new();
/// Sockets of applications that may skip the TCP stack.
#[btf_map]
pub(crate) static APPLICATIONS: SockHash<TupleKey, SOCKETS_MAX> = SockHash::new();
/// Sockets of the proxy, likewise. A map of its own: the redirecting program hangs on it only where the mode asks for it.
#[btf_map]
pub(crate) static PROXIES: SockHash<TupleKey, SOCKETS_MAX> = SockHash::new();
/// Where the sockets of the two maps above lie in memory.
#[btf_map]
pub(crate) static SOCKETS: LruHashMap<TupleKey, SocketPointer, SOCKETS_MAX> = LruHashMap::new();
/// (socket, service) to the chosen backend.
#[btf_map]
pub(crate) static UDP_FORWARD: LruHashMap<UdpFlowKey, UdpFlowValue, UDP_FLOWS_MAX> =
    LruHashMap::new();
/// (socket, backend) to what the application asked for.
#[btf_map]
pub(crate) static UDP_REVERSE: LruHashMap<UdpFlowKey, UdpFlowValue, UDP_FLOWS_MAX> =
    LruHashMap::new();

/// Takes an entry out of a sockhash. True if it was there.
#[inline(always)]
pub(crate) fn evict(map: &'static SockHash<TupleKey, SOCKETS_MAX>, key: &TupleKey) -> bool {
    let status = unsafe {
        bpf_map_delete_elem(
            core::ptr::from_ref(map).cast_mut().cast(),
            core::ptr::from_ref(key).cast(),
        )
    };
    status == 0
}
