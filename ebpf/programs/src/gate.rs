//! tc on a pod's link: what no judged call sent is judged here, packet by packet.
//!
//! The calls of an application are judged at `connect` and `sendmsg`. Raw sockets, processes that left the pod's cgroup and whoever
//! is outside make packets without such a call; they all pass here, where a pod has nothing to say. A flow is judged when it begins,
//! and again when the tables change; its answers pass.
//!
//! **Invariant:** a packet leaves the pod only from an address of the pod. So the source address of a captured pod of this node is
//! proof of who sends. Test: `a_pod_cannot_send_as_another`.

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_ktime_get_ns, macros::classifier,
    programs::TcContext,
};
use tulle_abi::{
    Address, BEGUN_BY_FAR, BEGUN_BY_POD, BEGUN_BY_PROXY, BEGUN_TRUSTED, DIRECTION_EGRESS,
    DIRECTION_INGRESS, Endpoint, FlowKey, FlowValue, FragmentKey, IDENTITY_NONE,
    POD_EGRESS_ENFORCED, POD_INGRESS_ENFORCED, PROTOCOL_TCP, PROTOCOL_UDP, PodAddressKey, PodValue,
    Program, Reason, SEEN_ON_WIRE, TupleKey, VERDICT_ALLOW, VERDICT_DENY, VERDICT_PROXY,
    VerdictEvent,
};

use crate::{
    count::exit,
    maps::{
        DIRECTS, FLOWS, FRAGMENTS, HOST_ADDRESSES, OWNERS, POD_ADDRESSES, PODS, POLICY_STATE,
        VOUCHED,
    },
    packet::{
        KIND_BEGIN, KIND_ERROR, KIND_LATER_FRAGMENT, KIND_NEIGHBOUR, KIND_PLAIN, PROTOCOL_ICMP,
        PROTOCOL_ICMPV6, Packet, parse,
    },
    pod,
    verdict::{Question, Verdict, block_of, identity_of, look_up, tell},
};

/// The next program's turn, or the packet's way.
const PASS: i32 = -1;
const DROP: i32 = 2;

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    gate(ctx.skb.skb, Program::FromPod, true)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    gate(ctx.skb.skb, Program::ToPod, false)
}

#[inline(always)]
fn gate(skb: *mut __sk_buff, program: Program, outbound: bool) -> i32 {
    match judge(skb, program, outbound) {
        Ok(reason) => exit(program, reason, PASS),
        Err(reason) => exit(program, reason, DROP),
    }
}

#[inline(always)]
fn judge(skb: *mut __sk_buff, program: Program, outbound: bool) -> Result<Reason, Reason> {
    if unsafe { (*skb).vlan_present } != 0 {
        return Err(Reason::Encapsulated);
    }
    let is_v4 = match u16::from_be(unsafe { (*skb).protocol } as u16) {
        ETHERTYPE_IPV4 => true,
        ETHERTYPE_IPV6 => false,
        // Behind a tag there may be anything.
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => return Err(Reason::Encapsulated),
        _ => return Ok(Reason::Passed),
    };
    let Some(pod) = (unsafe { PODS.get(pod::netns_cookie()) }) else {
        return Ok(Reason::Passed);
    };
    let Some(packet) = parse(skb, ETHERNET_LEN, is_v4) else {
        return Err(Reason::Malformed);
    };
    if packet.kind == KIND_NEIGHBOUR {
        return Ok(Reason::Passed);
    }
    if outbound && !is_own(pod, &packet.source) {
        return Err(Reason::Spoofed);
    }
    if pod.identity != IDENTITY_NONE && pod.flags & ENFORCED == 0 {
        if packet.protocol == PROTOCOL_UDP && packet.kind == KIND_PLAIN {
            note_beginning(skb, &packet, outbound);
        }
        return Ok(Reason::Unenforced);
    }
    match packet.kind {
        KIND_LATER_FRAGMENT => judge_fragment(&packet),
        KIND_ERROR => judge_error(skb, &packet, is_v4, outbound),
        _ => {
            let reason = judge_flow(skb, &packet, pod, program, outbound)?;
            if packet.is_first_fragment != 0 {
                let _ = FRAGMENTS.insert(fragment_key(&packet), 1, 0);
            }
            Ok(reason)
        }
    }
}

/// Whether an address is the pod's. Those of the link itself count as its own: nobody else can be reached through them.
#[inline(always)]
fn is_own(pod: &PodValue, address: &Address) -> bool {
    let [first, second] = &pod.addresses;
    if address == first || address == second || is_link_local(address) {
        return true;
    }
    let key = PodAddressKey {
        netns: pod::netns_cookie(),
        address: *address,
    };
    pod.has_more != 0 && unsafe { POD_ADDRESSES.get(key) }.is_some()
}

/// `fe80::/10`
#[inline(always)]
fn is_link_local(address: &Address) -> bool {
    let [a, b, _, _] = address.words[0].to_ne_bytes();
    a == 0xfe && b & 0xc0 == 0x80
}

#[inline(always)]
fn fragment_key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.fragment_id,
        protocol: u32::from(packet.protocol),
    }
}

/// The first part came this way, and might.
#[inline(always)]
fn judge_fragment(packet: &Packet) -> Result<Reason, Reason> {
    match unsafe { FRAGMENTS.get(fragment_key(packet)) } {
        Some(_) => Ok(Reason::FlowKnown),
        None => Err(Reason::Unrelated),
    }
}

/// An error passes if it speaks of a packet of a known flow, which went the other way.
#[inline(always)]
fn judge_error(
    skb: *mut __sk_buff,
    packet: &Packet,
    is_v4: bool,
    outbound: bool,
) -> Result<Reason, Reason> {
    let Some(cause) = parse(skb, packet.payload + ICMP_LEN, is_v4) else {
        return Err(Reason::Unrelated);
    };
    let key = flow_key(&cause, !outbound);
    if unsafe { FLOWS.get(key) }.is_some() {
        return Ok(Reason::FlowKnown);
    }
    Err(Reason::Unrelated)
}

#[inline(always)]
fn flow_key(packet: &Packet, outbound: bool) -> FlowKey {
    let source = Endpoint::new(packet.source, packet.source_port);
    let destination = Endpoint::new(packet.destination, packet.destination_port);
    let (pod, far) = if outbound {
        (source, destination)
    } else {
        (destination, source)
    };
    FlowKey {
        pod,
        far,
        protocol: u32::from(packet.protocol),
    }
}

#[inline(always)]
fn judge_flow(
    skb: *mut __sk_buff,
    packet: &Packet,
    pod: &PodValue,
    program: Program,
    outbound: bool,
) -> Result<Reason, Reason> {
    let key = flow_key(packet, outbound);
    let generation = match POLICY_STATE.get(0) {
        Some(state) => state.generation,
        None => 0,
    };
    let known = match unsafe { FLOWS.get(&key) } {
        Some(flow) if packet.kind != KIND_BEGIN => *flow,
        _ => FlowValue::default(),
    };
    let mut begun = known.begun;
    if begun == BEGUN_BY_PROXY && (!outbound || packet.protocol == PROTOCOL_TCP)
        || begun == BEGUN_TRUSTED
        || begun != 0
            && begun != BEGUN_BY_PROXY
            && (known.generation == generation || pod.identity == IDENTITY_NONE)
    {
        return Ok(Reason::FlowKnown);
    }
    if (begun == 0 || begun == BEGUN_BY_PROXY)
        && let Some(reason) = exempt(skb, packet, &key, outbound, &mut begun)
    {
        remember(&key, generation, begun);
        return Ok(reason);
    }
    let first = if begun == BEGUN_BY_POD || begun == BEGUN_BY_FAR {
        begun
    } else if outbound {
        BEGUN_BY_POD
    } else {
        BEGUN_BY_FAR
    };
    if pod.identity == IDENTITY_NONE {
        // What comes in by TCP is led to the proxy, which waits for the rules.
        if outbound || packet.protocol != PROTOCOL_TCP {
            return Err(Reason::Pending);
        }
        remember(&key, generation, first);
        return Ok(Reason::Passed);
    }
    let question = question(packet, pod, &key, first);
    let verdict = ask(pod, &question);
    if may(&verdict, first, packet.protocol) {
        // Once for each flow, not once for each change of the tables.
        if begun == 0 && verdict.is_audited {
            tell_of(program, packet, &question, &verdict, verdict.verdict);
        }
        remember(&key, generation, first);
        return Ok(Reason::FlowBegun);
    }
    // Of a connection that is older than its entry it is not known who began it.
    if begun == 0 && packet.protocol == PROTOCOL_TCP && packet.kind != KIND_BEGIN {
        let other = if outbound { BEGUN_BY_FAR } else { BEGUN_BY_POD };
        let reverse = self::question(packet, pod, &key, other);
        if may(&ask(pod, &reverse), other, packet.protocol) {
            remember(&key, generation, other);
            return Ok(Reason::FlowBegun);
        }
    }
    tell_of(program, packet, &question, &verdict, VERDICT_DENY);
    Err(if verdict.verdict == VERDICT_PROXY {
        Reason::ProxyOnly
    } else if first == BEGUN_BY_POD {
        Reason::EgressDenied
    } else {
        Reason::IngressDenied
    })
}

/// Flows that others have judged, or that need no judge.
#[inline(always)]
fn exempt(
    skb: *mut __sk_buff,
    packet: &Packet,
    key: &FlowKey,
    outbound: bool,
    begun: &mut u32,
) -> Option<Reason> {
    let is_tcp = packet.protocol == PROTOCOL_TCP;
    let is_begin = packet.kind == KIND_BEGIN;
    if !outbound && is_tcp && key.pod.port == pod::tunnel_port()
        || !outbound && is_nodes(skb, &key.far.address)
    {
        *begun = BEGUN_TRUSTED;
        return Some(Reason::Trusted);
    }
    // An answer may come late, and a connection live long; who begins must be the proxy now.
    let age_max = if !outbound || is_tcp && !is_begin {
        u64::MAX
    } else {
        VOUCHED_AGE_MAX
    };
    if (outbound || !is_begin) && is_vouched(key, age_max) {
        *begun = BEGUN_BY_PROXY;
        return Some(Reason::Vouched);
    }
    if is_tcp && is_direct(&key.far, &key.pod) && (outbound || !is_begin) {
        *begun = BEGUN_BY_POD;
        return Some(Reason::Direct);
    }
    if is_tcp && is_direct(&key.pod, &key.far) && (!outbound || !is_begin) {
        *begun = BEGUN_BY_FAR;
        return Some(Reason::Direct);
    }
    None
}

/// Whether a packet comes from this node itself. On the host's side of the link such a packet never came in anywhere.
#[inline(always)]
fn is_nodes(skb: *mut __sk_buff, source: &Address) -> bool {
    if !pod::is_gate_inside() && unsafe { (*skb).ingress_ifindex } == 0 {
        return true;
    }
    unsafe { HOST_ADDRESSES.get(source) }.is_some()
}

#[inline(always)]
fn is_vouched(key: &FlowKey, age_max: u64) -> bool {
    match unsafe { VOUCHED.get(key) } {
        Some(time) => unsafe { bpf_ktime_get_ns() }.wrapping_sub(*time) <= age_max,
        None => false,
    }
}

/// Whether a call that was judged began a connection straight to another pod of this node.
#[inline(always)]
fn is_direct(acceptor: &Endpoint, connector: &Endpoint) -> bool {
    let key = TupleKey {
        netns: 0,
        local: *acceptor,
        remote: *connector,
    };
    unsafe { DIRECTS.get(key) }.is_some()
}

#[inline(always)]
fn remember(key: &FlowKey, generation: u32, begun: u32) {
    // Without memory for it the next packet is judged anew.
    let _ = FLOWS.insert(key, FlowValue { generation, begun }, 0);
}

/// Remembers who began a flow of datagrams that nobody judges yet: when rules come, an answer that is under way then must not look
/// like the first word, since what the pod sends on would pass as an answer to it.
#[inline(always)]
fn note_beginning(skb: *mut __sk_buff, packet: &Packet, outbound: bool) {
    let key = flow_key(packet, outbound);
    if unsafe { FLOWS.get(key) }.is_some() {
        return;
    }
    let is_exempt = match outbound {
        true => is_vouched(&key, VOUCHED_AGE_MAX),
        false => is_nodes(skb, &key.far.address),
    };
    if is_exempt {
        return;
    }
    let generation = match POLICY_STATE.get(0) {
        Some(state) => state.generation,
        None => 0,
    };
    let begun = if outbound { BEGUN_BY_POD } else { BEGUN_BY_FAR };
    // Of an earlier generation, so that it is judged as soon as there are rules.
    remember(&key, generation.wrapping_sub(1), begun);
}

/// What to ask if the flow was begun by that end.
#[inline(always)]
fn question(packet: &Packet, pod: &PodValue, key: &FlowKey, begun: u32) -> Question {
    let by_pod = begun == BEGUN_BY_POD;
    let is_icmp = packet.protocol == PROTOCOL_ICMP || packet.protocol == PROTOCOL_ICMPV6;
    Question {
        subject: pod.identity,
        direction: if by_pod {
            DIRECTION_EGRESS
        } else {
            DIRECTION_INGRESS
        },
        peer: if by_pod {
            identity_of(&key.far.address)
        } else {
            proven_identity(&key.far.address)
        },
        protocol: packet.protocol,
        port: if is_icmp {
            packet.icmp_type
        } else if by_pod {
            key.far.port
        } else {
            key.pod.port
        },
    }
}

/// Who sends from an address: a workload only if its own gate has seen the packet.
#[inline(always)]
fn proven_identity(address: &Address) -> u32 {
    if unsafe { OWNERS.get(address) }.is_some() {
        return identity_of(address);
    }
    block_of(address)
}

#[inline(always)]
fn ask(pod: &PodValue, question: &Question) -> Verdict {
    let bit = if question.direction == DIRECTION_EGRESS {
        POD_EGRESS_ENFORCED
    } else {
        POD_INGRESS_ENFORCED
    };
    if pod.flags & bit == 0 {
        return Verdict::plain(VERDICT_ALLOW);
    }
    look_up(question)
}

/// What comes in by TCP passes the proxy anyway; what leaves past the proxy may not need it.
#[inline(always)]
fn may(verdict: &Verdict, begun: u32, protocol: u8) -> bool {
    verdict.verdict == VERDICT_ALLOW
        || verdict.verdict == VERDICT_PROXY && begun == BEGUN_BY_FAR && protocol == PROTOCOL_TCP
}

#[inline(always)]
fn tell_of(program: Program, packet: &Packet, question: &Question, verdict: &Verdict, becomes: u8) {
    tell(
        program,
        VerdictEvent {
            time: 0,
            subject: question.subject,
            peer: question.peer,
            source: Endpoint::new(packet.source, packet.source_port),
            destination: Endpoint::new(packet.destination, packet.destination_port),
            rule: verdict.rule,
            direction: question.direction as u8,
            protocol: packet.protocol,
            verdict: becomes,
            seen: SEEN_ON_WIRE,
        },
    );
}

const ENFORCED: u32 = POD_EGRESS_ENFORCED | POD_INGRESS_ENFORCED;
const ETHERNET_LEN: u32 = 14;
/// The header of an ICMP error; after it comes the packet that caused it.
const ICMP_LEN: u32 = 8;
/// A packet passes the gate within microseconds after it was vouched for; on a busy machine within milliseconds.
const VOUCHED_AGE_MAX: u64 = 1_000_000_000;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
