//! `cgroup/connect4`, `cgroup/connect6`: chooses the backend and the path of a connection at `connect()`.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use tulle_abi::{ENFORCEMENT_REJECT, Endpoint, NOTE_DENIED, Program, Reason, SocketNote};

use crate::{
    count::exit,
    decide::{Decision, black_hole, decide},
    judge::{is_enforced, is_proxys},
    maps::NOTES,
    settings,
    sock_addr::{
        Family, GO_ON, captured_client, endpoint, fail_with, local_port, protocol, set_endpoint,
        socket,
    },
};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Program::Connect4, Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Program::Connect6, Family::V6)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, program: Program, family: Family) -> i32 {
    let wanted = endpoint(ctx, family);
    let decision = match (captured_client(ctx), protocol(ctx)) {
        (Some(_), Some(_)) if is_enforced() && is_proxys(wanted.port) => {
            Decision::Deny(Reason::ProxyPort)
        }
        (Some(client), Some(protocol)) if !wanted.address.is_loopback() => {
            decide(program, &client, family, protocol, &wanted, local_port(ctx))
        }
        _ => Decision::Leave,
    };
    match decision {
        Decision::Deny(reason) if settings::enforcement() == ENFORCEMENT_REJECT => {
            forget_earlier(ctx);
            exit(program, reason, fail_with(EPERM))
        }
        Decision::Deny(reason) => {
            let to = black_hole(&wanted);
            send(
                ctx,
                (program, family),
                &wanted,
                (to, to, NOTE_DENIED),
                reason,
            )
        }
        Decision::Leave => {
            forget_earlier(ctx);
            exit(program, Reason::Passed, GO_ON)
        }
        Decision::Refuse(reason) => {
            forget_earlier(ctx);
            exit(program, reason, fail_with(EHOSTUNREACH))
        }
        Decision::Send {
            to,
            backend,
            kind,
            reason,
        } => send(ctx, (program, family), &wanted, (to, backend, kind), reason),
    }
}

/// Sends the connection elsewhere, and notes what was asked for, and why it goes there.
#[inline(always)]
fn send(
    ctx: &SockAddrContext,
    (program, family): (Program, Family),
    wanted: &Endpoint,
    (to, backend, kind): (Endpoint, Endpoint, u32),
    reason: Reason,
) -> i32 {
    let note = SocketNote {
        shown: *wanted,
        backend,
        kind,
        is_suspected: 0,
    };
    if !NOTES.set(socket(ctx), note) {
        return exit(program, Reason::NoteFailed, fail_with(ENOMEM));
    }
    set_endpoint(ctx, family, &to);
    exit(program, reason, GO_ON)
}

/// Takes away what an earlier `connect()` of the same socket noted.
#[inline(always)]
fn forget_earlier(ctx: &SockAddrContext) {
    NOTES.clear(socket(ctx));
}

/// No route to host: what a client sees when nobody serves the service.
const EHOSTUNREACH: i32 = 113;
/// Not permitted: what a client sees when policy denies and is to be seen to.
const EPERM: i32 = 1;
/// Out of memory.
const ENOMEM: i32 = 12;
