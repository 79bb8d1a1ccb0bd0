//! `sk_lookup` in a pod's namespace: leads inbound plaintext to the proxy's listener, whatever port it asked for.

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};
use tulle_abi::{
    Address, Endpoint, FAMILY_V4, FAMILY_V6, ListenerKey, PROTOCOL_TCP, Program, Reason, TupleKey,
};

use crate::{
    count::exit,
    maps::{DIRECTS, LISTENERS},
    pod,
    words::words,
};

/// Let the kernel go on: with the chosen socket, or with its own search.
const PASS: u32 = 1;
/// No socket: the kernel answers with a reset.
const DROP: u32 = 0;

#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let lookup = unsafe { &*ctx.lookup };
    if lookup.protocol != u32::from(PROTOCOL_TCP) {
        return exit(Program::SkLookup, Reason::Passed, PASS);
    }
    let is_v4 = lookup.family == FAMILY_V4;
    let (local, remote) = if is_v4 {
        (
            Address::from_v4_word(lookup.local_ip4),
            Address::from_v4_word(lookup.remote_ip4),
        )
    } else {
        (
            words((&raw const lookup.local_ip6).cast()),
            words((&raw const lookup.remote_ip6).cast()),
        )
    };
    // What comes from the pod itself is no inbound traffic: the kernel drops such sources when they come from outside.
    if local == remote || remote.is_loopback() {
        return exit(Program::SkLookup, Reason::Passed, PASS);
    }
    let local = Endpoint::new(local, lookup.local_port as u16);
    if local.port == pod::tunnel_port() {
        return exit(Program::SkLookup, Reason::Passed, PASS);
    }
    let remote = Endpoint::new(remote, u16::from_be(unsafe { (*ctx.lookup).remote_port }));
    let tuple = TupleKey {
        netns: 0,
        local,
        remote,
    };
    if unsafe { DIRECTS.get(tuple) }.is_some() {
        return exit(Program::SkLookup, Reason::Direct, PASS);
    }
    let key = ListenerKey {
        netns: pod::netns_cookie(),
        family: if is_v4 { FAMILY_V4 } else { FAMILY_V6 },
        reserved: 0,
    };
    match LISTENERS.redirect_sk_lookup(&ctx, key, 0) {
        Ok(()) => exit(Program::SkLookup, Reason::Steered, PASS),
        Err(_) => exit(Program::SkLookup, Reason::NoListener, DROP),
    }
}
