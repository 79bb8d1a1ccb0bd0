//! Who may talk to whom, as numbers: identities, port sets, verdicts, and the records of what was refused.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Endpoint, FAMILY_V4, FAMILY_V6, records::records};

/// The subject is where the connection ends.
pub const DIRECTION_INGRESS: u32 = 1;
/// The subject is where the connection begins.
pub const DIRECTION_EGRESS: u32 = 2;

/// The identity of a pod whose rules are not in the tables yet, and of a peer that nobody speaks of.
pub const IDENTITY_NONE: u32 = 0;

/// The port set that allows everything; it has no entries.
pub const PORT_SET_ALLOW: u32 = 1;
/// The port set that denies everything; it has no entries.
pub const PORT_SET_DENY: u32 = 2;

/// The connection may be.
pub const VERDICT_ALLOW: u8 = 1;
/// It may not.
pub const VERDICT_DENY: u8 = 2;
/// The node proxy decides, by what is said inside the connection.
pub const VERDICT_PROXY: u8 = 3;

/// What leaves the pod is looked up; otherwise it is allowed.
pub const POD_EGRESS_ENFORCED: u32 = 1 << 0;
/// What reaches the pod is looked up; otherwise it is allowed.
pub const POD_INGRESS_ENFORCED: u32 = 1 << 1;
/// What leaves the pod goes through the node proxy even where the tables allow it.
pub const POD_EGRESS_PROXIED: u32 = 1 << 2;
/// What reaches the pod goes through the node proxy even where the tables allow it.
pub const POD_INGRESS_PROXIED: u32 = 1 << 3;

/// Sockets of the pod's applications stay out of the sockmap. Said when the pod is captured, whatever policy says of it.
pub const POD_WITHOUT_SOCKMAP: u32 = 1 << 31;

/// Bits of a port's key before the port: the set, the protocol and the reserved byte.
pub const PORT_KEY_FIXED_BITS: u32 = 48;
/// Bits of a whole port's key.
pub const PORT_KEY_BITS: u32 = 64;
/// Bits of a whole block's key.
pub const BLOCK_KEY_BITS: u32 = 160;
/// Bits of it before those that differ between addresses of IPv4.
pub const BLOCK_KEY_V4_BITS: u32 = 128;
/// Bits of it before those that differ between addresses of IPv6.
pub const BLOCK_KEY_V6_BITS: u32 = 32;

/// The call that would have begun the connection was judged.
pub const SEEN_AT_CALL: u8 = 1;
/// A packet was judged.
pub const SEEN_ON_WIRE: u8 = 2;

records! {
    /// A subject, a direction, and who is at the other end.
    struct PolicyKey: 12 {
        /// The identity whose rules these are.
        subject: u32,
        /// One of the `DIRECTION_` constants.
        direction: u32,
        /// The identity of the other end; zero: everybody who has no entry of his own.
        peer: u32,
    }

    /// A block of addresses; the key's prefix tells how many bits count.
    struct BlockKey: 20 {
        /// `FAMILY_V4` or `FAMILY_V6`: all of IPv6 does not hold the v4-mapped form of IPv4.
        family: u32,
        /// Any address of the block.
        address: Address,
    }

    /// A block of ports in a port set; the key's prefix tells how many bits of the port count.
    struct PortKey: 8 {
        /// The port set.
        set: u32,
        /// The protocol's number; zero: every protocol that has no better entry.
        protocol: u8,
        /// Zero.
        reserved: u8,
        /// The port, in network order.
        port: [u8; 2],
    }

    /// What holds for a block of ports.
    struct PortValue: 12 {
        /// One of the `VERDICT_` constants.
        verdict: u8,
        /// How many bits of the port count.
        prefix_len: u8,
        /// Zero.
        reserved: u16,
        /// The rule that decided; zero: none, but the default.
        rule: u32,
        /// The rule that would have denied were it enforced; zero: none.
        audit: u32,
    }

    /// The state of the policy tables.
    struct PolicyState: 8 {
        /// Another one after each change: what was decided under an earlier one is looked at anew.
        generation: u32,
        /// Zero.
        reserved: u32,
    }

    /// A connection or packet that was denied, or that a rule under audit would have denied.
    struct VerdictEvent: 64 {
        /// When: nanoseconds of the monotonic clock.
        time: u64,
        /// The identity whose rules decided.
        subject: u32,
        /// The identity of the other end.
        peer: u32,
        /// From where; the port is zero when it was not chosen yet.
        source: Endpoint,
        /// To where.
        destination: Endpoint,
        /// The rule that decided, or that would have denied.
        rule: u32,
        /// One of the `DIRECTION_` constants.
        direction: u8,
        /// The protocol's number.
        protocol: u8,
        /// One of the `VERDICT_` constants; allowed means that a rule under audit would have denied it.
        verdict: u8,
        /// One of the `SEEN_` constants.
        seen: u8,
    }

    /// How many verdict events a processor told in the present second.
    struct EventRate: 16 {
        /// When the second began: nanoseconds of the monotonic clock.
        since: u64,
        /// How many.
        count: u64,
    }
}

impl BlockKey {
    /// The key of one address.
    #[inline(always)]
    pub const fn of(address: Address) -> Self {
        BlockKey {
            family: if address.is_v4() {
                FAMILY_V4
            } else {
                FAMILY_V6
            },
            address,
        }
    }
}
