//! `fentry`: no call that may wait does so inside the sockmap.
//!
//! The kernel's receive path for sockets of a sockmap waits once and then answers `EAGAIN`, whatever woke it. So a call that may wait
//! takes its socket out of the map before it begins; the kernel then falls back to TCP's own path in that very call. The same for
//! what the send path of the sockmap does not carry: notifications of zero-copy sends, and urgent bytes.
//!
//! The kernel skips a program that it finds entered already on the same processor, and a preempted one counts as entered. So each
//! guard is there twice: what the one misses, the other one sees.

use aya_ebpf::{bindings::bpf_sock, macros::fentry, programs::FEntryContext};
use tulle_abi::Program;

use crate::{evict::evict_now, kernel};

#[fentry(function = "tcp_bpf_recvmsg")]
pub fn guard_receive(ctx: FEntryContext) -> i32 {
    before_receive(&ctx, 0)
}

#[fentry(function = "tcp_bpf_recvmsg")]
pub fn guard_receive_2(ctx: FEntryContext) -> i32 {
    before_receive(&ctx, 1)
}

#[fentry(function = "tcp_bpf_sendmsg")]
pub fn guard_send(ctx: FEntryContext) -> i32 {
    before_send(&ctx, 2)
}

#[fentry(function = "tcp_bpf_sendmsg")]
pub fn guard_send_2(ctx: FEntryContext) -> i32 {
    before_send(&ctx, 3)
}

/// `tcp_bpf_recvmsg(sk, msg, len, flags, addr_len)`: the file's `O_NONBLOCK` is in the flags already.
#[inline(always)]
fn before_receive(ctx: &FEntryContext, evictor: u32) -> i32 {
    let flags: u32 = ctx.arg(3);
    if flags & MSG_DONTWAIT == 0 {
        evict_now(ctx.arg::<*mut bpf_sock>(0), evictor, Program::GuardReceive);
    }
    0
}

/// `tcp_bpf_sendmsg(sk, msg, size)`
#[inline(always)]
fn before_send(ctx: &FEntryContext, evictor: u32) -> i32 {
    let message: *const u8 = ctx.arg(1);
    let is_plain = match kernel::message_flags(message as kernel::Pointer) {
        Some(flags) => flags & (MSG_DONTWAIT | MSG_ZEROCOPY | MSG_OOB) == MSG_DONTWAIT,
        None => false,
    };
    if !is_plain {
        evict_now(ctx.arg::<*mut bpf_sock>(0), evictor, Program::GuardSend);
    }
    0
}

const MSG_OOB: u32 = 0x1;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_ZEROCOPY: u32 = 0x400_0000;
