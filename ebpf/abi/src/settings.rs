//! What the loader tells the kernel side: per-node settings and the offsets of kernel struct fields.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// No redirecting: every byte goes through TCP.
pub const SOCKMAP_OFF: u32 = 0;
/// Redirect only what an application sends to the node proxy, on connections for which the proxy asked.
pub const SOCKMAP_TO_PROXY: u32 = 1;
/// Redirect in both directions, and between applications of one node.
pub const SOCKMAP_FULL: u32 = 2;

/// The policy tables are not looked at.
pub const ENFORCEMENT_OFF: u32 = 0;
/// What is denied is not answered.
pub const ENFORCEMENT_DROP: u32 = 1;
/// What is denied fails at once.
pub const ENFORCEMENT_REJECT: u32 = 2;

/// Load-time settings of the kernel side.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Settings {
    /// Id of the cgroup that the node proxy runs in: its sockets are never captured.
    pub proxy_cgroup: u64,
    /// One of the `SOCKMAP_` constants.
    pub sockmap: u32,
    /// 1: port 53 leads to the proxy's name server.
    pub dns_capture: u32,
    /// The proxy's listener for captured outbound connections.
    pub outbound_port: u16,
    /// The proxy's listener for inbound plaintext.
    pub inbound_port: u16,
    /// The proxy's listener for tunnels.
    pub tunnel_port: u16,
    /// The proxy's name server.
    pub dns_port: u16,
    /// Redirected bytes that may wait for one reader.
    pub queued_bytes_max: u32,
    /// Redirected messages that may wait for one reader: each takes memory of its own, however short it is.
    pub queued_messages_max: u32,
    /// Where the fields lie that the sockmap's rules read.
    pub offsets: KernelOffsets,
    /// Where `sock.sk_err` lies; zero when the kernel does not tell: then only silence counts as a failure to connect.
    pub error_offset: u32,
    /// One of the `ENFORCEMENT_` constants.
    pub enforcement: u32,
    /// The sockets that answer nothing.
    pub black_hole_port: u16,
    /// 1: connections inside the node are not paced.
    pub unpaced: u16,
    /// Zero.
    pub reserved: [u16; 2],
}

const _: () = assert!(size_of::<Settings>() == 120);

/// Offsets, in bytes, of kernel struct fields; from the running kernel's BTF.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KernelOffsets {
    /// `sock.__sk_common.skc_daddr`
    pub daddr: u32,
    /// `sock.__sk_common.skc_dport`
    pub dport: u32,
    /// `sock.__sk_common.skc_num`
    pub num: u32,
    /// `sock.__sk_common.skc_v6_daddr`
    pub v6_daddr: u32,
    /// `sock.__sk_common.skc_family`
    pub family: u32,
    /// `sock.sk_backlog.rmem_alloc`
    pub rmem_alloc: u32,
    /// `sock.sk_socket`
    pub socket: u32,
    /// `sock.sk_user_data`
    pub user_data: u32,
    /// `socket.file`
    pub file: u32,
    /// `file.f_flags`
    pub file_flags: u32,
    /// `file.f_ep`
    pub file_epolls: u32,
    /// `msghdr.msg_flags`
    pub message_flags: u32,
    /// `inet_connection_sock.icsk_ulp_ops`
    pub ulp: u32,
    /// `sk_psock.ingress_msg`
    pub ingress: u32,
    /// `tcp_sock.snd_una`
    pub snd_una: u32,
    /// `tcp_sock.write_seq`
    pub write_seq: u32,
    /// `tcp_sock.rcv_nxt`
    pub rcv_nxt: u32,
    /// `tcp_sock.copied_seq`
    pub copied_seq: u32,
}

/// Load-time settings of one pod's steering.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PodSettings {
    /// Cookie of the pod's network namespace.
    pub netns: u64,
    /// The proxy's listener for tunnels.
    pub tunnel_port: u16,
    /// 1: the gate hangs inside the pod's namespace.
    pub is_gate_inside: u16,
    /// Zero.
    pub reserved: [u16; 2],
}

const _: () = assert!(size_of::<PodSettings>() == 16);
