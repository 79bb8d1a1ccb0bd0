//! Keys and values of the maps, and the note that a socket carries.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Endpoint};

/// Connect straight to the backend: same node, plaintext allowed.
pub const PATH_DIRECT: u32 = 1;
/// Hand the connection to the node proxy.
pub const PATH_PROXY: u32 = 2;
/// The backend is outside the mesh: load-balance, then leave alone.
pub const PATH_PLAIN: u32 = 3;

/// The socket's connection was handed to the node proxy.
pub const NOTE_PROXIED: u32 = 1;
/// The same, but its backend is outside the mesh: only policy wants the proxy to see it.
pub const NOTE_PROXIED_OUTSIDE: u32 = 8;
/// The socket was connected straight to a workload of this node.
pub const NOTE_DIRECT: u32 = 2;
/// The socket was accepted, and its peer was announced by the proxy.
pub const NOTE_ACCEPTED: u32 = 3;
/// A connected UDP socket, or a TCP socket to a backend outside the mesh: only the address was translated.
pub const NOTE_TRANSLATED: u32 = 4;
/// The socket was connected to a name server and leads to the proxy's.
pub const NOTE_DNS: u32 = 5;

/// The proxy's own socket, on its way to an application whose peer it announced.
pub const NOTE_ANNOUNCING: u32 = 6;
/// The socket leads into the black hole: policy denied what it asked for.
pub const NOTE_DENIED: u32 = 7;

/// Any slot of a service, in proportion to the weights.
pub const ALGORITHM_RANDOM: u16 = 0;
/// The slot that the service's table has for the client: the same one as long as it serves.
pub const ALGORITHM_MAGLEV: u16 = 1;

/// The backend answered the first packet of a connection with a reset.
pub const CONNECT_REFUSED: u32 = 1;
/// The network says that there is no way to the backend.
pub const CONNECT_UNREACHABLE: u32 = 2;
/// The backend did not answer the first packet in time.
pub const CONNECT_SILENT: u32 = 3;
/// The backend answered after all.
pub const CONNECT_RECOVERED: u32 = 4;

/// Slots that a service's own entry holds, so that most services need one look-up: as many as fit into 256 bytes of kernel memory.
pub const INLINE_SLOTS: usize = 7;
/// Positions of a service's Maglev table; prime, and more than a hundred times the backends of most services.
pub const MAGLEV_POSITIONS: u32 = 16_381;
/// Positions in one entry of the Maglev map: as many as fit into a kilobyte of kernel memory.
pub const MAGLEV_CHUNK_LEN: usize = 480;
/// Entries of one service in the Maglev map.
pub const MAGLEV_CHUNKS: usize = (MAGLEV_POSITIONS as usize).div_ceil(MAGLEV_CHUNK_LEN);

/// The end of a connection that belongs to an application.
pub const SIDE_APPLICATION: u32 = 1;
/// The end of a connection that belongs to the node proxy.
pub const SIDE_PROXY: u32 = 2;

/// The socket is in the sockmap.
pub const MEMBER_JOINED: u32 = 1;
/// The socket was in the sockmap and left it: it never joins again.
pub const MEMBER_LEFT: u32 = 2;

/// The kernel's timer, as it lies in a map's value. The kernel knows it by this name.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct bpf_timer {
    /// The kernel's own.
    pub opaque: [u64; 2],
}

/// Declares shared structs with the derives and the size check that all of them need.
macro_rules! records {
    ($( $(#[$doc:meta])* struct $name:ident: $size:literal { $( $(#[$field_doc:meta])* $field:ident: $type:ty, )+ } )+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $type, )+ }
        const _: () = assert!(size_of::<$name>() == $size);
    )+};
}
pub(crate) use records;

records! {
    /// What a client asks for.
    struct ServiceKey: 20 {
        /// The service's address.
        address: Address,
        /// Its port, in host byte order.
        port: u16,
        /// `PROTOCOL_TCP` or `PROTOCOL_UDP`.
        protocol: u8,
        /// Zero.
        reserved: u8,
    }

    /// A service: how a backend is chosen, and the first ones of them.
    struct ServiceValue: 184 {
        /// First half of every `BackendKey` of the service.
        id: u32,
        /// The slots `0..count` are filled. Zero: known, but nobody serves it.
        count: u32,
        /// For how many seconds after its last connection a client pod keeps its backend. Zero: each connection chooses anew.
        affinity_seconds: u32,
        /// One of the `ALGORITHM_` constants.
        algorithm: u16,
        /// 1: the slots have unequal weights, so a drawn slot may pass the choice on to its alias.
        is_weighted: u16,
        /// Copies of the first slots; zero beyond the count.
        first: [InlineSlot; INLINE_SLOTS],
    }

    /// A slot as a service's own entry holds it.
    struct InlineSlot: 24 {
        /// Where it listens.
        endpoint: Endpoint,
        /// One of the `PATH_` constants.
        path: u32,
    }

    /// One slot of a service.
    struct BackendKey: 8 {
        /// `ServiceValue::id`.
        service: u32,
        /// Slot number.
        index: u32,
    }

    /// Who fills a slot.
    struct BackendValue: 40 {
        /// Where it listens.
        endpoint: Endpoint,
        /// One of the `PATH_` constants.
        path: u32,
        /// The service that the slot belongs to: a reader that raced with a reuse of the slot's memory sees the difference.
        service: u32,
        /// Its weight, for who reads the maps back.
        weight: u32,
        /// A 32-bit draw above this goes to `alias` instead.
        threshold: u32,
        /// Another slot of the service.
        alias: u32,
    }

    /// A part of a service's Maglev table.
    struct MaglevKey: 8 {
        /// `ServiceValue::id`.
        service: u32,
        /// Which part: position / `MAGLEV_CHUNK_LEN`.
        chunk: u32,
    }

    /// A client pod and a service that it keeps its backend of.
    struct AffinityKey: 16 {
        /// Cookie of the client's network namespace.
        netns: u64,
        /// `ServiceValue::id`.
        service: u32,
        /// Zero.
        reserved: u32,
    }

    /// The backend that a client pod keeps.
    struct AffinityValue: 32 {
        /// When it was last chosen: nanoseconds of the monotonic clock.
        used_at: u64,
        /// The backend.
        endpoint: Endpoint,
        /// Zero.
        reserved: u32,
    }

    /// What became of a connection that leads straight to a backend.
    struct ConnectEvent: 24 {
        /// The backend.
        backend: Endpoint,
        /// One of the `CONNECT_` constants.
        outcome: u32,
    }

    /// Membership of a backend in a service whose choices are remembered (UDP, or session affinity), whatever its slot. The value is the
    /// backend's path.
    struct MemberKey: 24 {
        /// `ServiceValue::id`.
        service: u32,
        /// Where it listens.
        endpoint: Endpoint,
    }

    /// A captured pod, by its network namespace's cookie.
    struct PodValue: 56 {
        /// Hash of the pod's uid: finds the pod again after a restart.
        uid_hash: u64,
        /// Hash of the pod's own address: the same on every node and after every restart, so that a Maglev choice is.
        client_hash: u32,
        /// 1: the pod has addresses beyond `addresses`.
        has_more: u32,
        /// Its first addresses; zero where it has fewer.
        addresses: [Address; 2],
        /// By which the policy tables know it; zero: they do not know it yet, and nothing is allowed.
        identity: u32,
        /// Any of the `POD_` constants.
        flags: u32,
    }

    /// An address that a captured pod owns.
    struct PodAddressKey: 24 {
        /// Cookie of the pod's network namespace.
        netns: u64,
        /// The address.
        address: Address,
    }

    /// The listener for inbound plaintext of one pod and family.
    struct ListenerKey: 16 {
        /// Cookie of the pod's network namespace.
        netns: u64,
        /// `FAMILY_V4` or `FAMILY_V6`.
        family: u32,
        /// Zero.
        reserved: u32,
    }

    /// A captured connection, as the proxy's accepted socket names it.
    struct OriginalKey: 32 {
        /// Cookie of the pod's network namespace.
        netns: u64,
        /// The application's own end; the other end is always the proxy's capture listener.
        source: Endpoint,
        /// Zero.
        reserved: u32,
    }

    /// Where a captured connection wanted to go.
    struct OriginalValue: 44 {
        /// What the application asked for.
        requested: Endpoint,
        /// The backend that was chosen for it.
        backend: Endpoint,
        /// 1: the backend is outside the mesh, so no tunnel leads there.
        is_outside: u32,
    }

    /// A TCP connection seen from one end.
    struct TupleKey: 48 {
        /// The namespace's cookie when one of the addresses is loopback, else zero: a node's pods have distinct addresses.
        netns: u64,
        /// This end.
        local: Endpoint,
        /// The other end.
        remote: Endpoint,
    }

    /// A socket that the sockmap holds.
    struct SocketPointer: 16 {
        /// Address of the kernel's `tcp_sock`; believed only after its ports and addresses were compared.
        sock: u64,
        /// One of the `SIDE_` constants.
        side: u32,
        /// Messages redirected to it since its queue was last seen empty.
        messages: u32,
    }

    /// What the socket of an application knows of its own place in the sockmap.
    struct Membership: 56 {
        /// Its name there.
        key: TupleKey,
        /// One of the `MEMBER_` constants.
        state: u32,
        /// Zero.
        reserved: u32,
    }

    /// One eviction at a time: whoever owns the slot names a socket and starts the timer, which takes that socket out.
    struct EvictionSlot: 64 {
        /// Its callback belongs to a program that may change sockmaps; whoever starts it need not.
        timer: bpf_timer,
        /// The name of the socket.
        key: TupleKey,
    }

    /// A connection between an application and the node proxy that shall skip the TCP stack.
    struct JoinRequest: 96 {
        /// Its name as the application's end sees it.
        application: TupleKey,
        /// Its name as the proxy's end sees it.
        proxy: TupleKey,
    }

    /// A UDP conversation of an unconnected socket: (socket, service) or (socket, backend).
    struct UdpFlowKey: 32 {
        /// The socket's cookie.
        socket: u64,
        /// The far end.
        far: Endpoint,
        /// Zero.
        reserved: u32,
    }

    /// The other name of a UDP conversation's far end.
    struct UdpFlowValue: 24 {
        /// The backend (forward) or what the application asked for (reverse).
        endpoint: Endpoint,
        /// `ServiceValue::id` of the service; zero when there is none.
        service: u32,
    }

    /// What a socket carries with it until the kernel frees it.
    struct SocketNote: 48 {
        /// What `getpeername` shows.
        shown: Endpoint,
        /// The backend, or for an accepted socket zero.
        backend: Endpoint,
        /// One of the `NOTE_` constants.
        kind: u32,
        /// 1: the backend's silence was reported.
        is_suspected: u32,
    }
}

/// A part of a service's Maglev table: slot numbers by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MaglevChunk {
    /// Slot numbers.
    pub slots: [u16; MAGLEV_CHUNK_LEN],
}

const _: () = assert!(size_of::<MaglevChunk>() == 960);
