//! Programs that user space runs (`BPF_PROG_TEST_RUN`): one lets a connection join the sockmap, one prepares the evictions.
//!
//! Both are classifiers because that kind may look sockets up, change sockmaps and set the callbacks of timers. They hang nowhere.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    btf_maps::SockHash,
    helpers::generated::{bpf_loop, bpf_map_update_elem, bpf_sk_lookup_tcp, bpf_sk_release},
    macros::classifier,
    programs::TcContext,
};
use tulle_abi::{
    EVICTIONS_MAX, JoinRequest, MEMBER_JOINED, MEMBER_LEFT, Membership, Program, Reason,
    SIDE_APPLICATION, SIDE_PROXY, SOCKETS_MAX, SocketPointer, TupleKey,
};

use crate::{
    count::exit,
    evict::arm_slot,
    kernel,
    maps::{APPLICATIONS, JOINED, PROXIES, SOCKETS},
};

/// Lets the connection that the packet names join the sockmap. Answers 1 if it did.
#[classifier]
pub fn join(ctx: TcContext) -> i32 {
    let reason = match ctx.load::<JoinRequest>(REQUEST_AT) {
        Ok(request) => try_join(&ctx, &request),
        Err(_) => Reason::SocketFailed,
    };
    exit(
        Program::Join,
        reason,
        i32::from(reason as u32 == Reason::SocketJoined as u32),
    )
}

/// The proxy's end first: the application's end must find it there.
#[inline(always)]
fn try_join(ctx: &TcContext, request: &JoinRequest) -> Reason {
    let Some(proxy) = find(ctx, &request.proxy) else {
        return Reason::SocketGone;
    };
    let reason = enter_proxy(proxy, &request.proxy);
    unsafe { bpf_sk_release(proxy.cast()) };
    if reason as u32 != Reason::SocketJoined as u32 {
        return reason;
    }
    let Some(application) = find(ctx, &request.application) else {
        return Reason::SocketGone;
    };
    let reason = enter_application(application, &request.application);
    unsafe { bpf_sk_release(application.cast()) };
    reason
}

#[inline(always)]
fn enter_proxy(sk: *mut bpf_sock, key: &TupleKey) -> Reason {
    let Some(sock) = kernel::tcp_sock(sk) else {
        return Reason::SocketFailed;
    };
    enter(&PROXIES, sk, sock, key, SIDE_PROXY)
}

/// Only a socket of an event loop enters. That is for the sake of the others' speed alone: one that turns out to wait would leave at
/// its first call (see `guard.rs`).
#[inline(always)]
fn enter_application(sk: *mut bpf_sock, key: &TupleKey) -> Reason {
    let Some(sock) = kernel::tcp_sock(sk) else {
        return Reason::SocketFailed;
    };
    if !kernel::is_nonblocking(sock) {
        return Reason::SocketBlocking;
    }
    if !kernel::is_watched(sock) {
        return Reason::SocketUnwatched;
    }
    if kernel::has_upper_layer(sock) {
        return Reason::UpperLayer;
    }
    if JOINED
        .of(sk)
        .is_some_and(|member| member.state == MEMBER_LEFT && member.key == *key)
    {
        return Reason::SocketLeft;
    }
    // The note comes first: from the moment on in which the socket is in the map, the guards must find it.
    let member = Membership {
        key: *key,
        state: MEMBER_JOINED,
        reserved: 0,
    };
    if !JOINED.set(sk, member) {
        return Reason::SocketFailed;
    }
    enter(&APPLICATIONS, sk, sock, key, SIDE_APPLICATION)
}

#[inline(always)]
fn enter(
    map: &'static SockHash<TupleKey, SOCKETS_MAX>,
    sk: *mut bpf_sock,
    sock: kernel::Pointer,
    key: &TupleKey,
    side: u32,
) -> Reason {
    let pointer = SocketPointer {
        sock,
        side,
        messages: 0,
    };
    if SOCKETS.insert(key, pointer, 0).is_err() {
        return Reason::SocketFailed;
    }
    let status = unsafe {
        bpf_map_update_elem(
            core::ptr::from_ref(map).cast_mut().cast(),
            core::ptr::from_ref(key).cast(),
            sk.cast(),
            0,
        )
    };
    if status == 0 {
        return Reason::SocketJoined;
    }
    let _ = SOCKETS.remove(key);
    Reason::SocketFailed
}

/// The established socket that `key` names, in the namespace of the thread that runs the program. To be released.
#[inline(always)]
fn find(ctx: &TcContext, key: &TupleKey) -> Option<*mut bpf_sock> {
    let (local, remote) = (&key.local, &key.remote);
    let mut tuple = Tuple::default();
    let len = if local.address.is_v4() {
        tuple.words[0] = remote.address.words[3];
        tuple.words[1] = local.address.words[3];
        tuple.words[2] = ports(remote.port, local.port);
        TUPLE_V4_LEN
    } else {
        tuple.words[..4].copy_from_slice(&remote.address.words);
        tuple.words[4..8].copy_from_slice(&local.address.words);
        tuple.words[8] = ports(remote.port, local.port);
        TUPLE_V6_LEN
    };
    let sk = unsafe {
        bpf_sk_lookup_tcp(
            ctx.as_ptr(),
            (&raw mut tuple).cast::<bpf_sock_tuple>(),
            len,
            BPF_F_CURRENT_NETNS as i64 as u64,
            0,
        )
    };
    (!sk.is_null()).then_some(sk)
}

/// Source and destination port, as they follow each other in a header.
#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    u32::from(source.to_be()) | u32::from(destination.to_be()) << 16
}

/// `struct bpf_sock_tuple`: the addresses and ports of a packet that would be for the socket.
#[derive(Default)]
#[repr(C)]
struct Tuple {
    words: [u32; 9],
}

/// Prepares all slots for evictions. Answers 1 if it could.
#[classifier]
pub fn arm(_ctx: TcContext) -> i32 {
    let mut has_failed = 0u64;
    let visited = unsafe {
        bpf_loop(
            EVICTIONS_MAX as u32,
            arm_one as *const () as *mut c_void,
            (&raw mut has_failed).cast(),
            0,
        )
    };
    i32::from(visited == EVICTIONS_MAX as i64 && has_failed == 0)
}

#[inline(never)]
extern "C" fn arm_one(index: u64, has_failed: *mut u64) -> i64 {
    if !arm_slot(index as u32) {
        unsafe { *has_failed = 1 };
    }
    0
}

/// Where the request begins in the packet: after what the kernel takes for an Ethernet header, aligned.
const REQUEST_AT: usize = 16;
const TUPLE_V4_LEN: u32 = 12;
const TUPLE_V6_LEN: u32 = 36;
