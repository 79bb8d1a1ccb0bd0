//! No pacing inside a node.
//!
//! BBR sends by a timer, so that no queue builds up on the way. Between two sockets of one node there is no such queue: what one end
//! sends lies in the other's buffer before the call returns, and TCP's window bounds it. There the timers only cost: a stream over
//! a veth pair carries about a third of what it carries with a congestion control that does not pace (`docs/performance.md`).
//!
//! So a connection whose both ends are on this node gets `reno`, which every kernel has, before its first packet leaves and before
//! BBR has told the kernel to pace, which nothing takes back. Whoever chose anything else than BBR keeps it.

use aya_ebpf::{
    helpers::generated::{bpf_getsockopt, bpf_setsockopt},
    programs::SockOpsContext,
};
use tulle_abi::{Program, Reason};

use crate::{count::count, settings};

/// Gives the connection a congestion control that does not pace, if it has one that does.
#[inline(always)]
pub(crate) fn unpace(ctx: &SockOpsContext) {
    if settings::unpaced() == 0 {
        return;
    }
    let mut name = [0_u8; NAME_LEN];
    let read = unsafe {
        bpf_getsockopt(
            ctx.ops.cast(),
            SOL_TCP,
            TCP_CONGESTION,
            name.as_mut_ptr().cast(),
            NAME_LEN as i32,
        )
    };
    if read != 0 || name[0] != b'b' || name[1] != b'b' || name[2] != b'r' {
        return;
    }
    let mut reno = *b"reno";
    let set = unsafe {
        bpf_setsockopt(
            ctx.ops.cast(),
            SOL_TCP,
            TCP_CONGESTION,
            reno.as_mut_ptr().cast(),
            reno.len() as i32,
        )
    };
    let reason = match set {
        0 => Reason::Unpaced,
        _ => Reason::UnpaceFailed,
    };
    count(Program::Sockops, reason);
}

// Of the uapi headers `linux/socket.h` and `linux/tcp.h`.
const SOL_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;
/// `TCP_CA_NAME_MAX`
const NAME_LEN: usize = 16;
