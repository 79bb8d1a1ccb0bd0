//! `cgroup/connect4`, `cgroup/connect6`: chooses the backend and the path of a connection at `connect()`.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use tulle_abi::{Program, Reason, SocketNote};

use crate::{
    count::exit,
    decide::{Decision, decide},
    maps::NOTES,
    sock_addr::{
        Family, GO_ON, captured_client, endpoint, fail_with, protocol, set_endpoint, socket,
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
        (Some(client), Some(protocol)) if !wanted.address.is_loopback() => {
            decide(&client, family, protocol, &wanted)
        }
        _ => Decision::Leave,
    };
    match decision {
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
        } => {
            let note = SocketNote {
                shown: wanted,
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
    }
}

/// Takes away what an earlier `connect()` of the same socket noted.
#[inline(always)]
fn forget_earlier(ctx: &SockAddrContext) {
    NOTES.clear(socket(ctx));
}

/// No route to host: what a client sees when nobody serves the service.
const EHOSTUNREACH: i32 = 113;
/// Out of memory.
const ENOMEM: i32 = 12;
