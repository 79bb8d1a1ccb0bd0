//! Flows on a pod's link: who began them, and under which state of the policy tables they were judged.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Endpoint, records::records};

/// The pod began it.
pub const BEGUN_BY_POD: u32 = 1;
/// The far end began it.
pub const BEGUN_BY_FAR: u32 = 2;
/// It needs no judge: it comes from the node itself, or is a tunnel, which proves who is at its other end.
pub const BEGUN_TRUSTED: u32 = 3;
/// The node proxy began it.
pub const BEGUN_BY_PROXY: u32 = 4;

records! {
    /// A flow, as its pod sees it.
    struct FlowKey: 44 {
        /// The pod's end. Of ICMP: the identifier stands in for both ports.
        pod: Endpoint,
        /// The other end.
        far: Endpoint,
        /// The protocol's number.
        protocol: u32,
    }

    /// What is known of a flow.
    struct FlowValue: 8 {
        /// `PolicyState::generation` when it was judged.
        generation: u32,
        /// One of the `BEGUN_` constants.
        begun: u32,
    }

    /// The fragments of one packet.
    struct FragmentKey: 40 {
        /// From where.
        source: Address,
        /// To where.
        destination: Address,
        /// What the fragments have in common.
        id: u32,
        /// The protocol's number.
        protocol: u32,
    }
}
