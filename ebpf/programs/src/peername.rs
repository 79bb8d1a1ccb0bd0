//! `cgroup/getpeername4`, `cgroup/getpeername6`: shows the address that the application knows. The kernel runs them for
//! `getpeername()` and for `accept()`.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_netns_cookie, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use tulle_abi::{Address, Endpoint, OriginalKey, Program, Reason};

use crate::{
    count::exit,
    maps::{NOTES, ORIGINALS},
    settings,
    sock_addr::{Family, GO_ON, endpoint, set_endpoint, socket},
    words::words,
};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    show(&ctx, Program::Getpeername4, Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    show(&ctx, Program::Getpeername6, Family::V6)
}

#[inline(always)]
fn show(ctx: &SockAddrContext, program: Program, family: Family) -> i32 {
    let shown = match NOTES.of(socket(ctx)) {
        Some(note) => Some(note.shown),
        None => requested(ctx, family),
    };
    match shown {
        Some(shown) if family == Family::V6 || shown.address.is_v4() => {
            set_endpoint(ctx, family, &shown);
            exit(program, Reason::Shown, GO_ON)
        }
        _ => exit(program, Reason::Passed, GO_ON),
    }
}

/// What a captured socket without a note asked for. A multipath socket is such a one: the note is on its first path, but this hook
/// sees the socket that the application holds.
#[inline(always)]
fn requested(ctx: &SockAddrContext, family: Family) -> Option<Endpoint> {
    let peer = endpoint(ctx, family);
    if peer.port != settings::outbound_port() || !peer.address.is_loopback() {
        return None;
    }
    let sk = socket(ctx);
    let address = match family {
        Family::V4 => Address::from_v4_word(unsafe { (*sk).src_ip4 }),
        Family::V6 => words(unsafe { &raw const (*sk).src_ip6 }.cast()),
    };
    let key = OriginalKey {
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        source: Endpoint::new(address, unsafe { (*sk).src_port } as u16),
        reserved: 0,
    };
    unsafe { ORIGINALS.get(key) }.map(|original| original.requested)
}
