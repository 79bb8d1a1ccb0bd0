//! `cgroup/connect4`, `cgroup/connect6`: chooses the backend and the path of a connection at `connect()`.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use tulle_abi::{Program, Reason, SocketNote};

use crate::{
    count::exit,
    decide::{Decision, decide},
    maps::NOTES,
    sock_addr::{
        Family, GO_ON, captured_netns, endpoint, fail_with, protocol, set_endpoint, socket,
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
    NOTES.clear(socket(ctx));
    let wanted = endpoint(ctx, family);
    if wanted.address.is_loopback() {
        return exit(program, Reason::Passed, GO_ON);
    }
    let Some(protocol) = protocol(ctx) else {
        return exit(program, Reason::Passed, GO_ON);
    };
    let Some(netns) = captured_netns(ctx) else {
        return exit(program, Reason::Passed, GO_ON);
    };
    match decide(netns, family, protocol, &wanted) {
        Decision::Leave => exit(program, Reason::Passed, GO_ON),
        Decision::Refuse(reason) => exit(program, reason, fail_with(EHOSTUNREACH)),
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
                reserved: 0,
            };
            if !NOTES.set(socket(ctx), note) {
                return exit(program, Reason::NoteFailed, fail_with(ENOMEM));
            }
            set_endpoint(ctx, family, &to);
            exit(program, reason, GO_ON)
        }
    }
}

/// No route to host: what a client sees when nobody serves the service.
const EHOSTUNREACH: i32 = 113;
/// Out of memory.
const ENOMEM: i32 = 12;
