//! The pinned maps: their names, layout numbers and limits.

use crate::{
    Address, AffinityKey, AffinityValue, BackendKey, BackendValue, BlockKey, COUNTERS_LEN,
    Endpoint, EventRate, EvictionSlot, FlowKey, FlowValue, FragmentKey, ListenerKey, MAGLEV_CHUNKS,
    MaglevChunk, MaglevKey, MemberKey, Membership, OriginalKey, OriginalValue, PodAddressKey,
    PodValue, PolicyKey, PolicyState, PortKey, PortValue, ServiceKey, ServiceValue, SocketNote,
    SocketPointer, TupleKey, UdpFlowKey, UdpFlowValue,
};

/// A pinned map as this build knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapLayout {
    /// The map's name in the object file.
    pub name: &'static str,
    /// Bumped by every change of its key, its value or their meaning.
    pub layout: u32,
    /// Size of a key, in bytes.
    pub key_len: usize,
    /// Size of a value, in bytes.
    pub value_len: usize,
    /// How many entries it holds at most; zero where the kernel sets no limit.
    pub entries_max: usize,
}

/// Services that one node can know.
pub const SERVICES_MAX: usize = 65_536;
/// Backend slots of all services together.
pub const BACKENDS_MAX: usize = 262_144;
/// Backends of all services whose choices are remembered.
pub const MEMBERS_MAX: usize = BACKENDS_MAX;
/// Services with a Maglev table: 35 KiB each, taken only when used. The rest of them choose at random.
pub const MAGLEV_SERVICES_MAX: usize = 1_024;
/// Pairs of client pod and service whose choice is remembered; the one that was not used for longest goes first.
pub const AFFINITIES_MAX: usize = 32_768;
/// Bytes of events that may wait for the proxy, 32 for each.
pub const EVENTS_LEN: usize = 65_536;
/// Workload addresses that one node can know.
pub const WORKLOADS_MAX: usize = 262_144;
/// Captured pods of one node.
pub const PODS_MAX: usize = 4_096;
/// Addresses of captured pods of one node.
pub const POD_ADDRESSES_MAX: usize = 16_384;
/// Inbound listeners of one node: two for each pod.
pub const LISTENERS_MAX: usize = 8_192;
/// Captured connections that the proxy has not looked up yet, with room for the ones that it has.
pub const ORIGINALS_MAX: usize = 65_536;
/// Announced peers whose connection has not been established yet.
pub const PEERS_MAX: usize = 16_384;
/// Direct connections between pods of one node.
pub const DIRECTS_MAX: usize = 65_536;
/// Sockets in the sockmap, of each side.
pub const SOCKETS_MAX: usize = 65_536;
/// Processors that the evictions from the sockmap are made for.
pub const PROCESSORS_MAX: usize = 1_024;
/// Programs that evict: each has a slot on each processor, since a program is never entered twice on one processor.
pub const EVICTORS: usize = 4;
/// Evictions from the sockmap that may be under way.
pub const EVICTIONS_MAX: usize = EVICTORS * PROCESSORS_MAX;
/// Conversations of unconnected UDP sockets, of each direction.
pub const UDP_FLOWS_MAX: usize = 32_768;
/// Addresses of workloads and nodes whose identity one node can know.
pub const IDENTITIES_MAX: usize = WORKLOADS_MAX;
/// Blocks of addresses that the rules of one node's pods speak of.
pub const BLOCKS_MAX: usize = 65_536;
/// Pairs of a subject of this node and a peer, in both directions.
pub const POLICY_MAX: usize = 524_288;
/// Blocks of ports in all port sets together.
pub const PORTS_MAX: usize = 262_144;
/// Flows on the links of one node's pods; the one that was not used for longest goes first, and is judged anew when it goes on.
pub const FLOWS_MAX: usize = 65_536;
/// Packets in fragments that are under way.
pub const FRAGMENTS_MAX: usize = 4_096;
/// Flows that the proxy began.
pub const VOUCHED_MAX: usize = 65_536;
/// Addresses of the node itself.
pub const HOST_ADDRESSES_MAX: usize = 1_024;
/// Bytes of verdict events that may wait for the proxy, 72 for each.
pub const VERDICT_EVENTS_LEN: usize = 1_048_576;
/// Verdict events that a processor tells in one second: a flood of refused packets must not become a flood of reports.
pub const VERDICT_EVENTS_RATE_MAX: u64 = 1_000;

/// Every map that is pinned.
pub const MAPS: &[MapLayout] = &[
    map::<ServiceKey, ServiceValue>("SERVICES", 2, SERVICES_MAX),
    map::<BackendKey, BackendValue>("BACKENDS", 2, BACKENDS_MAX),
    map::<MemberKey, u32>("MEMBERS", 2, MEMBERS_MAX),
    map::<MaglevKey, MaglevChunk>("MAGLEV", 1, MAGLEV_SERVICES_MAX * MAGLEV_CHUNKS),
    map::<AffinityKey, AffinityValue>("AFFINITIES", 1, AFFINITIES_MAX),
    map::<Address, u32>("WORKLOADS", 1, WORKLOADS_MAX),
    map::<u64, PodValue>("PODS", 3, PODS_MAX),
    map::<Address, u64>("OWNERS", 1, POD_ADDRESSES_MAX),
    map::<PodAddressKey, u32>("POD_ADDRESSES", 1, POD_ADDRESSES_MAX),
    map::<ListenerKey, u32>("LISTENERS", 1, LISTENERS_MAX),
    map::<OriginalKey, OriginalValue>("ORIGINALS", 2, ORIGINALS_MAX),
    map::<u64, Endpoint>("ANNOUNCED", 1, PEERS_MAX),
    map::<TupleKey, Endpoint>("PEERS", 1, PEERS_MAX),
    map::<TupleKey, u32>("DIRECTS", 1, DIRECTS_MAX),
    map::<u32, SocketNote>("NOTES", 1, 0),
    map::<u32, u64>("PARENTS", 1, 0),
    map::<u32, Membership>("JOINED", 1, 0),
    map::<u32, EvictionSlot>("EVICTIONS", 1, EVICTIONS_MAX),
    map::<TupleKey, u32>("APPLICATIONS", 1, SOCKETS_MAX),
    map::<TupleKey, u32>("PROXIES", 1, SOCKETS_MAX),
    map::<TupleKey, SocketPointer>("SOCKETS", 1, SOCKETS_MAX),
    map::<UdpFlowKey, UdpFlowValue>("UDP_FORWARD", 1, UDP_FLOWS_MAX),
    map::<UdpFlowKey, UdpFlowValue>("UDP_REVERSE", 1, UDP_FLOWS_MAX),
    map::<u32, u64>("COUNTERS", 5, COUNTERS_LEN),
    map::<(), ()>("EVENTS", 1, EVENTS_LEN),
    map::<Address, u32>("IDENTITIES", 1, IDENTITIES_MAX),
    trie::<BlockKey, u32>("BLOCKS", 2, BLOCKS_MAX),
    map::<PolicyKey, u32>("POLICY", 1, POLICY_MAX),
    trie::<PortKey, PortValue>("PORTS", 1, PORTS_MAX),
    map::<u32, PolicyState>("POLICY_STATE", 1, 1),
    map::<u32, EventRate>("EVENT_RATE", 1, 1),
    map::<FlowKey, FlowValue>("FLOWS", 1, FLOWS_MAX),
    map::<FragmentKey, u32>("FRAGMENTS", 1, FRAGMENTS_MAX),
    map::<FlowKey, u64>("VOUCHED", 1, VOUCHED_MAX),
    map::<Address, u32>("HOST_ADDRESSES", 1, HOST_ADDRESSES_MAX),
    map::<(), ()>("VERDICTS", 1, VERDICT_EVENTS_LEN),
];

const fn map<K, V>(name: &'static str, layout: u32, entries_max: usize) -> MapLayout {
    MapLayout {
        name,
        layout,
        key_len: size_of::<K>(),
        value_len: size_of::<V>(),
        entries_max,
    }
}

/// A map of prefixes: the key begins with their length.
const fn trie<K, V>(name: &'static str, layout: u32, entries_max: usize) -> MapLayout {
    MapLayout {
        name,
        layout,
        key_len: size_of::<u32>() + size_of::<K>(),
        value_len: size_of::<V>(),
        entries_max,
    }
}
