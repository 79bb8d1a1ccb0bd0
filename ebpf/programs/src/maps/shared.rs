//! The maps that both object files use.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
    macros::btf_map,
};
use tulle_abi::{
    Address, BLOCKS_MAX, BlockKey, COUNTERS_LEN, DIRECTS_MAX, EventRate, FLOWS_MAX, FRAGMENTS_MAX,
    FlowKey, FlowValue, FragmentKey, HOST_ADDRESSES_MAX, IDENTITIES_MAX, LISTENERS_MAX,
    ListenerKey, POD_ADDRESSES_MAX, PODS_MAX, POLICY_MAX, PORTS_MAX, PodAddressKey, PodValue,
    PolicyKey, PolicyState, PortKey, PortValue, TupleKey, VERDICT_EVENTS_LEN, VOUCHED_MAX,
    VerdictEvent,
};

/// Maps that are usually far from full take memory as they grow.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// The proxy's listeners for inbound plaintext. The kernel removes a listener when it closes.
#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, LISTENERS_MAX> = SockHash::new();
/// Direct connections between pods of this node, as the accepting end names them.
#[btf_map]
pub(crate) static DIRECTS: LruHashMap<TupleKey, u32, DIRECTS_MAX> = LruHashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();
/// Captured pods by the cookie of their network namespace.
#[btf_map]
pub(crate) static PODS: HashMap<u64, PodValue, PODS_MAX, ON_DEMAND> = HashMap::new();
#[btf_map]
pub(crate) static POD_ADDRESSES: HashMap<PodAddressKey, u32, POD_ADDRESSES_MAX, ON_DEMAND> =
    HashMap::new();
/// Whose an address is: the key of a captured pod.
#[btf_map]
pub(crate) static OWNERS: HashMap<Address, u64, POD_ADDRESSES_MAX, ON_DEMAND> = HashMap::new();
/// Identities of workloads and nodes.
#[btf_map]
pub(crate) static IDENTITIES: HashMap<Address, u32, IDENTITIES_MAX, ON_DEMAND> = HashMap::new();
/// Identities of blocks of addresses, for everybody else.
#[btf_map]
pub(crate) static BLOCKS: LpmTrie<BlockKey, u32, BLOCKS_MAX> = LpmTrie::new();
/// The port set of each subject and peer.
#[btf_map]
pub(crate) static POLICY: HashMap<PolicyKey, u32, POLICY_MAX, ON_DEMAND> = HashMap::new();
#[btf_map]
pub(crate) static PORTS: LpmTrie<PortKey, PortValue, PORTS_MAX> = LpmTrie::new();
#[btf_map]
pub(crate) static POLICY_STATE: Array<PolicyState, 1> = Array::new();
/// What was denied, for the proxy to read.
#[btf_map]
pub(crate) static VERDICTS: RingBuf<VerdictEvent, VERDICT_EVENTS_LEN> = RingBuf::new();
#[btf_map]
pub(crate) static EVENT_RATE: PerCpuArray<EventRate, 1> = PerCpuArray::new();
/// Flows on the links of pods.
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowValue, FLOWS_MAX> = LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, u32, FRAGMENTS_MAX> = LruHashMap::new();
/// When the proxy last began or continued a flow.
#[btf_map]
pub(crate) static VOUCHED: LruHashMap<FlowKey, u64, VOUCHED_MAX> = LruHashMap::new();
/// Addresses of the node itself.
#[btf_map]
pub(crate) static HOST_ADDRESSES: HashMap<Address, u32, HOST_ADDRESSES_MAX, ON_DEMAND> =
    HashMap::new();
