//! What `sockops` sees of connections that lead straight to a backend, without the proxy in between: refused, unreachable, silent,
//! and answered after all. The proxy reads it, and lets the next connections avoid the backend.

use aya_ebpf::programs::SockOpsContext;
use tulle_abi::{
    CONNECT_RECOVERED, CONNECT_REFUSED, CONNECT_SILENT, CONNECT_UNREACHABLE, ConnectEvent,
    NOTE_DIRECT, NOTE_TRANSLATED, Program, Reason, SocketNote,
};

use crate::{
    count::count,
    kernel,
    maps::{EVENTS, NOTES},
    sockops::{WATCH_RTO, WATCH_STATE, sk, unwatch, watch},
};

/// Has the kernel tell how the connection fares.
#[inline(always)]
pub(crate) fn connecting(ctx: &SockOpsContext) {
    watch(ctx, WATCH_STATE | WATCH_RTO);
}

/// The first packet was not answered in time: told once, while the kernel goes on trying.
#[inline(always)]
pub(crate) fn timed_out(ctx: &SockOpsContext) {
    if unsafe { (*ctx.ops).state } != STATE_SYN_SENT {
        return;
    }
    let Some(note) = straight(ctx) else {
        return;
    };
    if note.is_suspected == 0 {
        let suspected = SocketNote {
            is_suspected: 1,
            ..note
        };
        if NOTES.set(sk(ctx), suspected) {
            report(&note, CONNECT_SILENT, Reason::FailureReported);
        }
    }
}

/// The connection came to be.
#[inline(always)]
pub(crate) fn established(ctx: &SockOpsContext) {
    let Some(note) = straight(ctx) else {
        return;
    };
    // From here on a retransmission says little about the backend.
    unwatch(ctx, WATCH_RTO);
    if note.is_suspected != 0 {
        report(&note, CONNECT_RECOVERED, Reason::RecoveryReported);
    }
}

/// The connection ended before it came to be. Without an error the application gave up, which says nothing about the backend.
#[inline(always)]
pub(crate) fn failed(ctx: &SockOpsContext) {
    let Some(note) = straight(ctx) else {
        return;
    };
    let outcome = match kernel::tcp_sock(sk(ctx)).and_then(kernel::error) {
        None | Some(0) => return,
        Some(ECONNREFUSED) => CONNECT_REFUSED,
        Some(ETIMEDOUT) => CONNECT_SILENT,
        Some(_) => CONNECT_UNREACHABLE,
    };
    report(&note, outcome, Reason::FailureReported);
}

/// The note of a socket whose connection leads straight to a backend.
#[inline(always)]
fn straight(ctx: &SockOpsContext) -> Option<SocketNote> {
    let note = NOTES.of(sk(ctx))?;
    (note.kind == NOTE_DIRECT || note.kind == NOTE_TRANSLATED).then_some(*note)
}

#[inline(always)]
fn report(note: &SocketNote, outcome: u32, reason: Reason) {
    let event = ConnectEvent {
        backend: note.backend,
        outcome,
    };
    let reason = match EVENTS.output(event, 0) {
        Ok(()) => reason,
        Err(_) => Reason::ReportDropped,
    };
    count(Program::Sockops, reason);
}

const STATE_SYN_SENT: u32 = 2;
const ECONNREFUSED: u32 = 111;
const ETIMEDOUT: u32 = 110;
