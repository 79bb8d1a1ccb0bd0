//! Load-time settings: the loader overwrites the constant before the verifier sees it, so a mode that is off costs nothing.

use tulle_abi::{KernelOffsets, Settings};

/// Overwritten by the loader.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    proxy_cgroup: 0,
    sockmap: 0,
    dns_capture: 0,
    outbound_port: 0,
    inbound_port: 0,
    tunnel_port: 0,
    dns_port: 0,
    queued_bytes_max: 0,
    queued_messages_max: 0,
    offsets: KernelOffsets {
        daddr: 0,
        dport: 0,
        num: 0,
        v6_daddr: 0,
        family: 0,
        rmem_alloc: 0,
        socket: 0,
        user_data: 0,
        file: 0,
        file_flags: 0,
        file_epolls: 0,
        message_flags: 0,
        ulp: 0,
        ingress: 0,
        snd_una: 0,
        write_seq: 0,
        rcv_nxt: 0,
        copied_seq: 0,
    },
    error_offset: 0,
    enforcement: 0,
    black_hole_port: 0,
    unpaced: 0,
    reserved: [0; 2],
};

/// Declares a reader for each setting. The read is volatile since the compiler must not believe the zeros above.
macro_rules! readers {
    ($($name:ident: $type:ty = $($field:ident).+;)+) => {$(
        #[inline(always)]
        pub(crate) fn $name() -> $type {
            unsafe { core::ptr::read_volatile(&raw const SETTINGS.$($field).+) }
        }
    )+};
}

readers! {
    proxy_cgroup: u64 = proxy_cgroup;
    sockmap: u32 = sockmap;
    dns_capture: u32 = dns_capture;
    outbound_port: u16 = outbound_port;
    inbound_port: u16 = inbound_port;
    tunnel_port: u16 = tunnel_port;
    dns_port: u16 = dns_port;
    queued_bytes_max: u32 = queued_bytes_max;
    queued_messages_max: u32 = queued_messages_max;
    offset_daddr: u32 = offsets.daddr;
    offset_dport: u32 = offsets.dport;
    offset_num: u32 = offsets.num;
    offset_v6_daddr: u32 = offsets.v6_daddr;
    offset_family: u32 = offsets.family;
    offset_rmem_alloc: u32 = offsets.rmem_alloc;
    offset_socket: u32 = offsets.socket;
    offset_user_data: u32 = offsets.user_data;
    offset_file: u32 = offsets.file;
    offset_file_flags: u32 = offsets.file_flags;
    offset_file_epolls: u32 = offsets.file_epolls;
    offset_message_flags: u32 = offsets.message_flags;
    offset_ulp: u32 = offsets.ulp;
    offset_ingress: u32 = offsets.ingress;
    offset_snd_una: u32 = offsets.snd_una;
    offset_write_seq: u32 = offsets.write_seq;
    offset_rcv_nxt: u32 = offsets.rcv_nxt;
    offset_copied_seq: u32 = offsets.copied_seq;
    offset_error: u32 = error_offset;
    enforcement: u32 = enforcement;
    black_hole_port: u16 = black_hole_port;
    unpaced: u16 = unpaced;
}
