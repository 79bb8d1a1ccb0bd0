//! Fields of kernel structs that no context offers, read with offsets that the loader took from the kernel's own BTF.
//!
//! Every read goes through `bpf_probe_read_kernel`: a wrong address makes it fail, never fault. What was read is a hint to be
//! confirmed, since the object may be freed or used anew at any moment.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock},
};
use tulle_abi::{Address, FAMILY_V4, TupleKey};

use crate::settings;

/// The address of a kernel object.
pub(crate) type Pointer = u64;

/// Where the socket's `tcp_sock` lies.
#[inline(always)]
pub(crate) fn tcp_sock(sk: *mut bpf_sock) -> Option<Pointer> {
    if sk.is_null() {
        return None;
    }
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
    (!tcp.is_null()).then_some(tcp as Pointer)
}

/// Whether the socket's file is non-blocking at this moment. A socket without a file counts as blocking.
#[inline(always)]
pub(crate) fn is_nonblocking(sock: Pointer) -> bool {
    let Some(file) = file(sock) else {
        return false;
    };
    match read::<u32>(file, settings::offset_file_flags()) {
        Some(flags) => flags & O_NONBLOCK != 0,
        None => false,
    }
}

/// The socket's pending error; `None` when the kernel does not tell where that lies.
#[inline(always)]
pub(crate) fn error(sock: Pointer) -> Option<u32> {
    match settings::offset_error() {
        0 => None,
        offset => read(sock, offset),
    }
}

/// Whether an epoll watches the socket's file at this moment.
#[inline(always)]
pub(crate) fn is_watched(sock: Pointer) -> bool {
    match file(sock) {
        Some(file) => is_set(file, settings::offset_file_epolls()),
        None => false,
    }
}

#[inline(always)]
fn file(sock: Pointer) -> Option<Pointer> {
    let socket = read::<u64>(sock, settings::offset_socket()).filter(|socket| *socket != 0)?;
    read::<u64>(socket, settings::offset_file()).filter(|file| *file != 0)
}

/// Whether the socket is in a sockmap, or not yet fully out of it. True when in doubt.
#[inline(always)]
pub(crate) fn is_in_sockmap(sock: Pointer) -> bool {
    read::<u64>(sock, settings::offset_user_data()) != Some(0)
}

/// The flags of the call that a `msghdr` came with.
#[inline(always)]
pub(crate) fn message_flags(message: Pointer) -> Option<u32> {
    read(message, settings::offset_message_flags())
}

#[inline(always)]
fn is_set(object: Pointer, offset: u32) -> bool {
    read::<u64>(object, offset).is_some_and(|word| word != 0)
}

/// The local port of a socket.
#[inline(always)]
pub(crate) fn local_port(sock: Pointer) -> Option<u16> {
    read(sock, settings::offset_num())
}

/// Whether the socket at `sock` is still the end of the connection that `key` names.
#[inline(always)]
pub(crate) fn is_end_of(sock: Pointer, key: &TupleKey) -> bool {
    if local_port(sock) != Some(key.local.port)
        || read::<u16>(sock, settings::offset_dport()).map(u16::from_be) != Some(key.remote.port)
    {
        return false;
    }
    match read::<u16>(sock, settings::offset_family()) {
        Some(family) if u32::from(family) == FAMILY_V4 => {
            read::<u32>(sock, settings::offset_daddr()) == Some(key.remote.address.words[3])
        }
        Some(_) => read::<Address>(sock, settings::offset_v6_daddr()) == Some(key.remote.address),
        None => false,
    }
}

/// Whether an upper-layer protocol (kernel TLS) sits on the socket: the bytes in question are then not the ones that the peer expects.
#[inline(always)]
pub(crate) fn has_upper_layer(sock: Pointer) -> bool {
    read::<u64>(sock, settings::offset_ulp()) != Some(0)
}

/// Whether everything that the socket sent by TCP has been acknowledged.
#[inline(always)]
pub(crate) fn has_sent_all(sock: Pointer) -> bool {
    let acknowledged = read::<u32>(sock, settings::offset_snd_una());
    acknowledged.is_some() && acknowledged == read::<u32>(sock, settings::offset_write_seq())
}

/// Whether the application has read everything that came by TCP.
#[inline(always)]
pub(crate) fn has_read_all(sock: Pointer) -> bool {
    let received = read::<u32>(sock, settings::offset_rcv_nxt());
    received.is_some() && received == read::<u32>(sock, settings::offset_copied_seq())
}

/// Bytes that wait for the socket's reader.
#[inline(always)]
pub(crate) fn queued_bytes(sock: Pointer) -> Option<u32> {
    read(sock, settings::offset_rmem_alloc())
}

/// Whether no redirected byte waits for the socket's reader. False when in doubt.
#[inline(always)]
pub(crate) fn has_empty_ingress(sock: Pointer) -> bool {
    let Some(user_data) = read::<u64>(sock, settings::offset_user_data()) else {
        return false;
    };
    let psock = user_data & !USER_DATA_FLAGS;
    if psock == 0 {
        return false;
    }
    let head = psock + u64::from(settings::offset_ingress());
    read::<u64>(head, 0) == Some(head)
}

#[inline(always)]
fn read<T>(object: Pointer, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let status = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            (object + u64::from(offset)) as *const _,
        )
    };
    (status == 0).then(|| unsafe { value.assume_init() })
}

/// `O_NONBLOCK` as `file.f_flags` holds it.
const O_NONBLOCK: u32 = 0o4000;
/// The low bits of `sk_user_data` say what it points to.
const USER_DATA_FLAGS: u64 = 7;
