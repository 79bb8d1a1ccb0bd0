//! `sk_msg`: hands what an application sends straight to the peer's queue, if that keeps order and bounds memory.
//!
//! Two equalities keep the order between the two ways: nothing that was sent by TCP may still be on its way (`snd_una == write_seq`
//! here, `rcv_nxt == copied_seq` there) when bytes are redirected. The way back needs no rule, since the kernel's receive path
//! empties the redirected queue before it looks at TCP's.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_netns_cookie, macros::sk_msg,
    programs::SkMsgContext,
};
use tulle_abi::{
    Address, Endpoint, FAMILY_V4, Program, Reason, SIDE_PROXY, SOCKMAP_FULL, SocketPointer,
    TupleKey,
};

use crate::{
    count::exit,
    kernel,
    maps::{APPLICATIONS, PROXIES, SOCKETS},
    settings,
    words::words,
};

/// Send by TCP, or as the redirect helper said.
const PASS: u32 = 1;
/// Into the peer's receive queue, not out of its sending side.
const INGRESS: u64 = 1;

#[sk_msg]
pub fn redirect(ctx: SkMsgContext) -> u32 {
    exit(Program::SkMsg, try_redirect(&ctx), PASS)
}

#[inline(always)]
fn try_redirect(ctx: &SkMsgContext) -> Reason {
    let Some(own) = kernel::tcp_sock(unsafe { (*ctx.msg).__bindgen_anon_3.sk }) else {
        return Reason::NoPeer;
    };
    let key = peer_key(ctx);
    let Some(entry) = SOCKETS.get_ptr_mut(key) else {
        return Reason::NoPeer;
    };
    let (peer, side) = unsafe { ((*entry).sock, (*entry).side) };
    let to_proxy = side == SIDE_PROXY;
    if !to_proxy && settings::sockmap() != SOCKMAP_FULL {
        return Reason::NoPeer;
    }
    if !kernel::is_end_of(peer, &key) {
        return Reason::StalePeer;
    }
    // A blocking socket in the map would see spurious failures of its own blocking reads, so it sends by TCP, whose acknowledgement
    // then takes it out of the map. The proxy's sockets never block.
    if !kernel::is_nonblocking(own) || !to_proxy && !kernel::is_nonblocking(peer) {
        return Reason::Blocking;
    }
    if kernel::has_upper_layer(own) || !to_proxy && kernel::has_upper_layer(peer) {
        return Reason::UpperLayer;
    }
    if !kernel::has_sent_all(own) || !kernel::has_read_all(peer) {
        return Reason::Draining;
    }
    if !has_room(entry) {
        return Reason::ReaderFull;
    }
    let verdict = if to_proxy {
        PROXIES.redirect_msg(ctx, key, INGRESS)
    } else {
        APPLICATIONS.redirect_msg(ctx, key, INGRESS)
    };
    hand_over(verdict)
}

/// Whether the reader's queue may take one more message. Only this socket redirects to that reader, so nobody else counts there.
#[inline(always)]
fn has_room(entry: *mut SocketPointer) -> bool {
    let (sock, waiting) = unsafe { ((*entry).sock, (*entry).messages) };
    let Some(queued) = kernel::queued_bytes(sock) else {
        return false;
    };
    let messages = if queued == 0 { 1 } else { waiting + 1 };
    if queued > settings::queued_bytes_max() || messages > settings::queued_messages_max() {
        return false;
    }
    unsafe { (*entry).messages = messages };
    true
}

/// The redirect helper answers otherwise than `PASS` if the peer left its map in this moment: then TCP carries the bytes.
#[inline(always)]
fn hand_over(verdict: i64) -> Reason {
    if verdict == i64::from(PASS) {
        Reason::Redirected
    } else {
        Reason::PeerLeft
    }
}

/// The name of this connection as the other end sees it.
#[inline(always)]
fn peer_key(ctx: &SkMsgContext) -> TupleKey {
    let msg = ctx.msg;
    let (local, remote) = unsafe {
        if (*msg).family == FAMILY_V4 {
            (
                Address::from_v4_word((*msg).local_ip4),
                Address::from_v4_word((*msg).remote_ip4),
            )
        } else {
            (
                words((&raw const (*msg).local_ip6).cast()),
                words((&raw const (*msg).remote_ip6).cast()),
            )
        }
    };
    let is_inside = local.is_loopback() || remote.is_loopback() || local == remote;
    let (local_port, remote_port) = unsafe { ((*msg).local_port, (*msg).remote_port) };
    TupleKey {
        netns: if is_inside {
            unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
        } else {
            0
        },
        local: Endpoint::new(remote, u32::from_be(remote_port) as u16),
        remote: Endpoint::new(local, local_port as u16),
    }
}
