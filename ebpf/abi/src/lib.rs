//! The only layout that kernel and user space share.
//!
//! Decides what every map key, map value, load-time setting and counter looks like. It holds no behaviour beyond
//! constructors and tests on the values themselves, and it must compile for the kernel: no `std`, no allocation.
//!
//! **Invariant:** every shared struct is `repr(C)`, of fixed width and without hidden padding; the `zerocopy` derives refuse
//! anything else, and each size is asserted beside the struct.

#![no_std]

mod count;
mod endpoint;
mod flow;
mod maps;
mod policy;
mod records;
mod settings;

pub use count::{COUNTERS_LEN, Program, Reason, counter_index};
pub use endpoint::{Address, Endpoint, LOOPBACK_V4, LOOPBACK_V6};
pub use flow::{
    BEGUN_BY_FAR, BEGUN_BY_POD, BEGUN_BY_PROXY, BEGUN_TRUSTED, FlowKey, FlowValue, FragmentKey,
};
pub use maps::{
    AFFINITIES_MAX, BACKENDS_MAX, BLOCKS_MAX, DIRECTS_MAX, EVENTS_LEN, EVICTIONS_MAX, EVICTORS,
    FLOWS_MAX, FRAGMENTS_MAX, HOST_ADDRESSES_MAX, IDENTITIES_MAX, LISTENERS_MAX,
    MAGLEV_SERVICES_MAX, MAPS, MEMBERS_MAX, MapLayout, ORIGINALS_MAX, PEERS_MAX, POD_ADDRESSES_MAX,
    PODS_MAX, POLICY_MAX, PORTS_MAX, PROCESSORS_MAX, SERVICES_MAX, SOCKETS_MAX, UDP_FLOWS_MAX,
    VERDICT_EVENTS_LEN, VERDICT_EVENTS_RATE_MAX, VOUCHED_MAX, WORKLOADS_MAX,
};
pub use policy::{
    BLOCK_KEY_BITS, BLOCK_KEY_V4_BITS, BLOCK_KEY_V6_BITS, BlockKey, DIRECTION_EGRESS,
    DIRECTION_INGRESS, EventRate, IDENTITY_NONE, POD_EGRESS_ENFORCED, POD_EGRESS_PROXIED,
    POD_INGRESS_ENFORCED, POD_INGRESS_PROXIED, POD_WITHOUT_SOCKMAP, PORT_KEY_BITS,
    PORT_KEY_FIXED_BITS, PORT_SET_ALLOW, PORT_SET_DENY, PolicyKey, PolicyState, PortKey, PortValue,
    SEEN_AT_CALL, SEEN_ON_WIRE, VERDICT_ALLOW, VERDICT_DENY, VERDICT_PROXY, VerdictEvent,
};
pub use records::{
    ALGORITHM_MAGLEV, ALGORITHM_RANDOM, AffinityKey, AffinityValue, BackendKey, BackendValue,
    CONNECT_RECOVERED, CONNECT_REFUSED, CONNECT_SILENT, CONNECT_UNREACHABLE, ConnectEvent,
    EvictionSlot, INLINE_SLOTS, InlineSlot, JoinRequest, ListenerKey, MAGLEV_CHUNK_LEN,
    MAGLEV_CHUNKS, MAGLEV_POSITIONS, MEMBER_JOINED, MEMBER_LEFT, MaglevChunk, MaglevKey, MemberKey,
    Membership, NOTE_ACCEPTED, NOTE_ANNOUNCING, NOTE_DENIED, NOTE_DIRECT, NOTE_DNS, NOTE_PROXIED,
    NOTE_PROXIED_OUTSIDE, NOTE_TRANSLATED, OriginalKey, OriginalValue, PATH_DIRECT, PATH_PLAIN,
    PATH_PROXY, PodAddressKey, PodValue, SIDE_APPLICATION, SIDE_PROXY, ServiceKey, ServiceValue,
    SocketNote, SocketPointer, TupleKey, UdpFlowKey, UdpFlowValue, bpf_timer,
};
pub use settings::{
    ENFORCEMENT_DROP, ENFORCEMENT_OFF, ENFORCEMENT_REJECT, KernelOffsets, PodSettings,
    SOCKMAP_FULL, SOCKMAP_OFF, SOCKMAP_TO_PROXY, Settings,
};

/// The number of TCP in an IP header.
pub const PROTOCOL_TCP: u8 = 6;
/// The number of UDP in an IP header.
pub const PROTOCOL_UDP: u8 = 17;
/// Address family of IPv4 sockets.
pub const FAMILY_V4: u32 = 2;
/// Address family of IPv6 sockets.
pub const FAMILY_V6: u32 = 10;
