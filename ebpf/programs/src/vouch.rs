//! `cgroup_skb/egress` on the proxy's cgroup: tells the pods' gates which flows are the proxy's own, since on the wire nothing says so.
//!
//! A connection is vouched for by its first packet, and by each repetition of it; of other protocols each packet vouches. So a
//! port that the proxy gave back is worth nothing to whoever takes it next.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::cgroup_skb, programs::SkBuffContext};
use tulle_abi::{Endpoint, FlowKey, PROTOCOL_TCP, Program, Reason};

use crate::{
    count::{count, exit},
    maps::VOUCHED,
    packet::{KIND_BEGIN, parse},
};

/// Send it.
const PASS: i32 = 1;

#[cgroup_skb(egress)]
pub fn vouch(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let is_v4 = match u16::from_be(unsafe { (*skb).protocol } as u16) {
        ETHERTYPE_IPV4 => true,
        ETHERTYPE_IPV6 => false,
        _ => return PASS,
    };
    let Some(packet) = parse(skb, 0, is_v4) else {
        return PASS;
    };
    if packet.source.is_loopback() || packet.protocol == PROTOCOL_TCP && packet.kind != KIND_BEGIN {
        return PASS;
    }
    let key = FlowKey {
        pod: Endpoint::new(packet.source, packet.source_port),
        far: Endpoint::new(packet.destination, packet.destination_port),
        protocol: u32::from(packet.protocol),
    };
    let now = unsafe { bpf_ktime_get_ns() };
    match VOUCHED.insert(key, now, 0) {
        Ok(()) => exit(Program::Vouch, Reason::Vouched, PASS),
        Err(_) => {
            count(Program::Vouch, Reason::VouchFailed);
            PASS
        }
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
