//! `sockops`: ties what the connect hook decided to the connection as the other end will see it, and keeps the sockmap.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::{bpf_get_socket_cookie, generated::bpf_get_netns_cookie},
    macros::sock_ops,
    programs::SockOpsContext,
};
use tulle_abi::{
    Address, Endpoint, FAMILY_V4, MEMBER_JOINED, Membership, NOTE_ACCEPTED, NOTE_ANNOUNCING,
    NOTE_DIRECT, NOTE_PROXIED, NOTE_PROXIED_OUTSIDE, NOTE_TRANSLATED, OriginalKey, OriginalValue,
    POD_WITHOUT_SOCKMAP, Program, Reason, SIDE_APPLICATION, SIDE_PROXY, SOCKMAP_FULL, SOCKMAP_OFF,
    SocketNote, SocketPointer, TupleKey,
};

use crate::{
    count::count,
    failure, kernel,
    maps::{
        ANNOUNCED, APPLICATIONS, DIRECTS, JOINED, NOTES, ORIGINALS, PARENTS, PEERS, PODS, PROXIES,
        SOCKETS, evict,
    },
    pace::unpace,
    settings,
    words::words,
};

/// The kernel goes on with its defaults.
const DONE: u32 = 1;

#[sock_ops]
pub fn track(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        OP_LISTEN => remember_listener(&ctx),
        OP_CONNECT => connecting(&ctx),
        OP_ACTIVE_ESTABLISHED => established_active(&ctx),
        OP_PASSIVE_ESTABLISHED => established_passive(&ctx),
        OP_STATE => state_changed(&ctx),
        OP_RTT => acknowledged(&ctx),
        OP_RTO => failure::timed_out(&ctx),
        _ => {}
    }
    DONE
}

/// A listener's children inherit the note of where it lies: whether it blocks stands in for whether they will.
#[inline(always)]
fn remember_listener(ctx: &SockOpsContext) {
    let port = ctx.local_port() as u16;
    let is_proxys = port == settings::outbound_port()
        || port == settings::inbound_port()
        || port == settings::tunnel_port();
    if !joins_early() || is_proxys {
        return;
    }
    if let Some(listener) = kernel::tcp_sock(sk(ctx)) {
        PARENTS.set(sk(ctx), listener);
    }
}

/// The source port is chosen and the SYN has not left: now the connection has the name that the other end will know.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    if let Some(note) = NOTES.of(sk(ctx)) {
        match note.kind {
            NOTE_PROXIED | NOTE_PROXIED_OUTSIDE => {
                unpace(ctx);
                record_original(ctx, note);
            }
            NOTE_DIRECT => {
                unpace(ctx);
                record_direct(ctx);
                failure::connecting(ctx);
            }
            NOTE_TRANSLATED => failure::connecting(ctx),
            _ => {}
        }
        return;
    }
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(peer) = unsafe { ANNOUNCED.get(cookie) } {
        let peer = *peer;
        let _ = ANNOUNCED.remove(cookie);
        unpace(ctx);
        record_peer(ctx, &peer);
    }
}

#[inline(always)]
fn record_original(ctx: &SockOpsContext, note: &SocketNote) {
    let value = OriginalValue {
        requested: note.shown,
        backend: note.backend,
        is_outside: u32::from(note.kind == NOTE_PROXIED_OUTSIDE),
    };
    let reason = match ORIGINALS.insert(original_key(ctx, local(ctx)), value, 0) {
        Ok(()) => Reason::OriginalRecorded,
        Err(_) => Reason::OriginalFailed,
    };
    count(Program::Sockops, reason);
    watch(ctx, WATCH_STATE);
}

#[inline(always)]
fn record_direct(ctx: &SockOpsContext) {
    let reason = match DIRECTS.insert(direct_key(remote(ctx), local(ctx)), 1, 0) {
        Ok(()) => Reason::DirectRecorded,
        Err(_) => Reason::DirectFailed,
    };
    count(Program::Sockops, reason);
    watch(ctx, WATCH_STATE);
}

#[inline(always)]
fn record_peer(ctx: &SockOpsContext, peer: &Endpoint) {
    let (local, remote) = (local(ctx), remote(ctx));
    let note = SocketNote {
        shown: remote,
        backend: *peer,
        kind: NOTE_ANNOUNCING,
        is_suspected: 0,
    };
    let is_recorded =
        NOTES.set(sk(ctx), note) && PEERS.insert(key_of(ctx, remote, local), peer, 0).is_ok();
    let reason = if is_recorded {
        Reason::PeerRecorded
    } else {
        Reason::PeerFailed
    };
    count(Program::Sockops, reason);
    watch(ctx, WATCH_STATE);
}

#[inline(always)]
fn established_active(ctx: &SockOpsContext) {
    failure::established(ctx);
    if !joins_early() {
        return;
    }
    let Some(note) = NOTES.of(sk(ctx)) else {
        return;
    };
    let kind = note.kind;
    let Some(sock) = kernel::tcp_sock(sk(ctx)) else {
        return;
    };
    match kind {
        NOTE_PROXIED | NOTE_PROXIED_OUTSIDE | NOTE_DIRECT => {
            join_application(ctx, sock, kernel::is_nonblocking(sock))
        }
        NOTE_ANNOUNCING => join_proxy(ctx, sock),
        _ => {}
    }
}

#[inline(always)]
fn established_passive(ctx: &SockOpsContext) {
    let (local, remote) = (local(ctx), remote(ctx));
    if local.port == settings::outbound_port() && local.address.is_loopback() {
        // The proxy's end: when it closes, the record of the destination has served.
        watch(ctx, WATCH_STATE);
        unpace(ctx);
        if joins_early()
            && let Some(sock) = kernel::tcp_sock(sk(ctx))
        {
            join_proxy(ctx, sock);
        }
        return;
    }
    let key = key_of(ctx, local, remote);
    let is_announced = match unsafe { PEERS.get(key) } {
        Some(peer) => {
            let note = SocketNote {
                shown: *peer,
                backend: Endpoint::default(),
                kind: NOTE_ACCEPTED,
                is_suspected: 0,
            };
            let _ = PEERS.remove(key);
            if !NOTES.set(sk(ctx), note) {
                count(Program::Sockops, Reason::NoteFailed);
            }
            true
        }
        None => false,
    };
    if is_announced && settings::sockmap() != SOCKMAP_OFF {
        // It may join later; its end must be seen.
        watch(ctx, WATCH_STATE);
    }
    if !joins_early() && settings::unpaced() == 0 {
        return;
    }
    let is_direct = !is_announced && unsafe { DIRECTS.get(direct_key(local, remote)) }.is_some();
    if !is_announced && !is_direct {
        return;
    }
    unpace(ctx);
    if !joins_early() {
        return;
    }
    if let Some(sock) = kernel::tcp_sock(sk(ctx)) {
        let is_nonblocking = match PARENTS.of(sk(ctx)) {
            Some(parent) => {
                let parent = *parent;
                kernel::local_port(parent) == Some(local.port) && kernel::is_nonblocking(parent)
            }
            None => false,
        };
        join_application(ctx, sock, is_nonblocking);
    }
}

#[inline(always)]
fn join_application(ctx: &SockOpsContext, sock: kernel::Pointer, is_nonblocking: bool) {
    if !is_nonblocking {
        count(Program::Sockops, Reason::SocketBlocking);
        return;
    }
    let pod = unsafe { PODS.get(netns_cookie(ctx)) };
    if pod.is_some_and(|pod| pod.flags & POD_WITHOUT_SOCKMAP != 0) {
        count(Program::Sockops, Reason::SocketExcluded);
        return;
    }
    let key = key_of(ctx, local(ctx), remote(ctx));
    let pointer = SocketPointer {
        sock,
        side: SIDE_APPLICATION,
        messages: 0,
    };
    let member = Membership {
        key,
        state: MEMBER_JOINED,
        reserved: 0,
    };
    let is_joined = JOINED.set(sk(ctx), member)
        && SOCKETS.insert(key, pointer, 0).is_ok()
        && APPLICATIONS
            .update(key, unsafe { &mut *ctx.ops }, 0)
            .is_ok();
    finish_join(ctx, &key, is_joined, WATCH_STATE | WATCH_RTT);
}

#[inline(always)]
fn join_proxy(ctx: &SockOpsContext, sock: kernel::Pointer) {
    let key = key_of(ctx, local(ctx), remote(ctx));
    let pointer = SocketPointer {
        sock,
        side: SIDE_PROXY,
        messages: 0,
    };
    let is_joined = SOCKETS.insert(key, pointer, 0).is_ok()
        && PROXIES.update(key, unsafe { &mut *ctx.ops }, 0).is_ok();
    finish_join(ctx, &key, is_joined, WATCH_STATE);
}

#[inline(always)]
fn finish_join(ctx: &SockOpsContext, key: &TupleKey, is_joined: bool, flags: u32) {
    if is_joined {
        watch(ctx, flags);
        count(Program::Sockops, Reason::SocketJoined);
    } else {
        let _ = SOCKETS.remove(key);
        count(Program::Sockops, Reason::SocketFailed);
    }
}

#[inline(always)]
fn state_changed(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    if new == STATE_FIN_WAIT1 || new == STATE_FIN_WAIT2 {
        // An application that now waits for the rest with a blocking read must find the ordinary receive path.
        evict_if_blocking(ctx);
    } else if new == STATE_CLOSE {
        if old == STATE_SYN_SENT {
            failure::failed(ctx);
        }
        forget(ctx, old);
    }
}

/// Drops every record of a connection that has ended.
#[inline(always)]
fn forget(ctx: &SockOpsContext, old: u32) {
    let (local, remote) = (local(ctx), remote(ctx));
    if settings::sockmap() != SOCKMAP_OFF {
        let key = key_of(ctx, local, remote);
        let _ = SOCKETS.remove(key);
        // A socket that is disconnected but not closed may be connected anew, and is then another connection's.
        if JOINED.of(sk(ctx)).is_some()
            && kernel::tcp_sock(sk(ctx)).is_some_and(kernel::has_empty_ingress)
        {
            evict(&APPLICATIONS, &key);
        }
    }
    match NOTES.of(sk(ctx)).map(|note| note.kind) {
        // A connection that came to be may still wait for the proxy's accept, so its record stays until the proxy's end closes.
        Some(NOTE_PROXIED | NOTE_PROXIED_OUTSIDE) if old == STATE_SYN_SENT => {
            let _ = ORIGINALS.remove(original_key(ctx, local));
        }
        Some(NOTE_DIRECT) => {
            let _ = DIRECTS.remove(direct_key(remote, local));
        }
        Some(NOTE_ANNOUNCING) => {
            let _ = PEERS.remove(key_of(ctx, remote, local));
        }
        // A client that resets early closes the proxy's end before the proxy has accepted it or asked where it was going. Such
        // a record stays until another connection takes its port, or the map its room.
        None if local.port == settings::outbound_port() && !is_open(old) => {
            let _ = ORIGINALS.remove(original_key(ctx, remote));
        }
        _ => {}
    }
}

/// An acknowledgement came: a chance to let go of a socket that has turned blocking.
#[inline(always)]
fn acknowledged(ctx: &SockOpsContext) {
    evict_if_blocking(ctx);
}

/// Takes a socket that has turned blocking out of the sockmap, unless redirected bytes still wait in it.
#[inline(always)]
fn evict_if_blocking(ctx: &SockOpsContext) {
    if settings::sockmap() == SOCKMAP_OFF {
        return;
    }
    let Some(sock) = kernel::tcp_sock(sk(ctx)) else {
        return;
    };
    if kernel::is_nonblocking(sock) {
        return;
    }
    let key = key_of(ctx, local(ctx), remote(ctx));
    match unsafe { SOCKETS.get(key) } {
        Some(pointer) if pointer.side == SIDE_APPLICATION && pointer.sock == sock => {}
        _ => return,
    }
    if kernel::has_empty_ingress(sock) && evict(&APPLICATIONS, &key) {
        let _ = SOCKETS.remove(key);
        count(Program::Sockops, Reason::SocketEvicted);
    }
}

/// Whether neither end of a socket in this state has closed it for both ways: what comes next is a reset.
#[inline(always)]
fn is_open(state: u32) -> bool {
    state == STATE_ESTABLISHED || state == STATE_CLOSE_WAIT
}

/// Whether sockets join as soon as they are established; else the node proxy says when.
#[inline(always)]
fn joins_early() -> bool {
    settings::sockmap() == SOCKMAP_FULL
}

#[inline(always)]
pub(crate) fn sk(ctx: &SockOpsContext) -> *mut bpf_sock {
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
pub(crate) fn watch(ctx: &SockOpsContext, flags: u32) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() | flags) as i32);
}

#[inline(always)]
pub(crate) fn unwatch(ctx: &SockOpsContext, flags: u32) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() & !flags) as i32);
}

#[inline(always)]
fn local(ctx: &SockOpsContext) -> Endpoint {
    let address = if ctx.family() == FAMILY_V4 {
        Address::from_v4_word(ctx.local_ip4())
    } else {
        words(unsafe { &raw const (*ctx.ops).local_ip6 }.cast())
    };
    Endpoint::new(address, ctx.local_port() as u16)
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> Endpoint {
    let address = if ctx.family() == FAMILY_V4 {
        Address::from_v4_word(ctx.remote_ip4())
    } else {
        words(unsafe { &raw const (*ctx.ops).remote_ip6 }.cast())
    };
    Endpoint::new(address, u32::from_be(ctx.remote_port()) as u16)
}

#[inline(always)]
fn netns_cookie(ctx: &SockOpsContext) -> u64 {
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The name of a connection as the end `local` sees it.
#[inline(always)]
fn key_of(ctx: &SockOpsContext, local: Endpoint, remote: Endpoint) -> TupleKey {
    let is_inside = local.address.is_loopback()
        || remote.address.is_loopback()
        || local.address == remote.address;
    TupleKey {
        netns: if is_inside { netns_cookie(ctx) } else { 0 },
        local,
        remote,
    }
}

/// The name of a direct connection as its acceptor's end sees it.
#[inline(always)]
fn direct_key(acceptor: Endpoint, connector: Endpoint) -> TupleKey {
    TupleKey {
        netns: 0,
        local: acceptor,
        remote: connector,
    }
}

#[inline(always)]
fn original_key(ctx: &SockOpsContext, source: Endpoint) -> OriginalKey {
    OriginalKey {
        netns: netns_cookie(ctx),
        source,
        reserved: 0,
    }
}

// Operations, states and flags of the uapi header `linux/bpf.h`.
const OP_CONNECT: u32 = 3;
const OP_ACTIVE_ESTABLISHED: u32 = 4;
const OP_PASSIVE_ESTABLISHED: u32 = 5;
const OP_RTO: u32 = 8;
const OP_STATE: u32 = 10;
const OP_LISTEN: u32 = 11;
const OP_RTT: u32 = 12;
const STATE_ESTABLISHED: u32 = 1;
const STATE_SYN_SENT: u32 = 2;
const STATE_FIN_WAIT1: u32 = 4;
const STATE_FIN_WAIT2: u32 = 5;
const STATE_CLOSE: u32 = 7;
const STATE_CLOSE_WAIT: u32 = 8;
/// Retransmission timeouts.
pub(crate) const WATCH_RTO: u32 = 1 << 0;
/// Changes of the state.
pub(crate) const WATCH_STATE: u32 = 1 << 2;
const WATCH_RTT: u32 = 1 << 3;
