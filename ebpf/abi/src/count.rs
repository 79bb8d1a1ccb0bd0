//! Programs and reasons: what each exit of the kernel side is counted under.

/// Declares an enum of small numbers with a name for each, and the list of all.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $( $(#[$variant_doc:meta])* $variant:ident = $text:literal, )+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [$name] = &[$( $name::$variant, )+];

            /// The name that metrics show.
            pub const fn name(self) -> &'static str {
                match self { $( $name::$variant => $text, )+ }
            }
        }
    };
}

numbered! {
    /// The hooks of the kernel side.
    Program {
        /// `cgroup/connect4`
        Connect4 = "connect4",
        /// `cgroup/connect6`
        Connect6 = "connect6",
        /// `cgroup/sendmsg4`
        Sendmsg4 = "sendmsg4",
        /// `cgroup/sendmsg6`
        Sendmsg6 = "sendmsg6",
        /// `cgroup/recvmsg4`
        Recvmsg4 = "recvmsg4",
        /// `cgroup/recvmsg6`
        Recvmsg6 = "recvmsg6",
        /// `cgroup/getpeername4`
        Getpeername4 = "getpeername4",
        /// `cgroup/getpeername6`
        Getpeername6 = "getpeername6",
        /// `sockops`
        Sockops = "sockops",
        /// `sk_msg`
        SkMsg = "sk_msg",
        /// `sk_lookup`
        SkLookup = "sk_lookup",
        /// The program that the node proxy runs to let a connection join the sockmap.
        Join = "join",
        /// `fentry/tcp_bpf_recvmsg`
        GuardReceive = "guard_receive",
        /// `fentry/tcp_bpf_sendmsg`
        GuardSend = "guard_send",
        /// tc on a pod's link: what leaves the pod.
        FromPod = "from_pod",
        /// tc on a pod's link: what reaches the pod.
        ToPod = "to_pod",
        /// `cgroup_skb/egress` of the proxy
        Vouch = "vouch",
    }
}

numbered! {
    /// Why a hook did what it did.
    Reason {
        /// A connection was handed to the node proxy.
        Proxied = "proxied",
        /// A connection or datagram was sent straight to a workload of this node.
        Direct = "direct",
        /// A service's address was translated to a backend outside the mesh (or any UDP backend).
        Translated = "translated",
        /// Nothing of ours: left alone.
        Passed = "passed",
        /// The service has no backend: refused.
        NoBackend = "no_backend",
        /// The service's slot was empty while its count said otherwise: refused.
        MissingSlot = "missing_slot",
        /// An IPv4 socket asked for a service whose backend has only IPv6: refused.
        FamilyMismatch = "family_mismatch",
        /// The socket could not carry its note: refused, since the proxy would not know the destination.
        NoteFailed = "note_failed",
        /// A failed connection to a backend was reported.
        FailureReported = "failure_reported",
        /// A backend that had been reported answered after all.
        RecoveryReported = "recovery_reported",
        /// A report found no room.
        ReportDropped = "report_dropped",
        /// Port 53 was led to the proxy's name server.
        Dns = "dns",
        /// An address was shown as the application knows it.
        Shown = "shown",
        /// A destination was recorded for the proxy.
        OriginalRecorded = "original_recorded",
        /// The record for the proxy could not be written.
        OriginalFailed = "original_failed",
        /// An announced peer was attached to its connection.
        PeerRecorded = "peer_recorded",
        /// The record of an announced peer could not be written.
        PeerFailed = "peer_failed",
        /// A direct connection was registered for the acceptor's side.
        DirectRecorded = "direct_recorded",
        /// The registration of a direct connection failed.
        DirectFailed = "direct_failed",
        /// A socket entered the sockmap.
        SocketJoined = "socket_joined",
        /// A blocking socket was kept out of the sockmap.
        SocketBlocking = "socket_blocking",
        /// The sockmap took no further socket.
        SocketFailed = "socket_failed",
        /// A socket that turned blocking left the sockmap.
        SocketEvicted = "socket_evicted",
        /// A socket was kept out of the sockmap: no epoll watches it.
        SocketUnwatched = "socket_unwatched",
        /// A socket was kept out of the sockmap: it was there before and left.
        SocketLeft = "socket_left",
        /// A connection was kept out of the sockmap: one of its ends is gone.
        SocketGone = "socket_gone",
        /// A socket was kept out of the sockmap: its pod is to have none there.
        SocketExcluded = "socket_excluded",
        /// A socket that had to leave the sockmap before its call could wait did not in time: the call may fail with `EAGAIN`.
        EvictionLate = "eviction_late",
        /// A connection inside the node got a congestion control that does not pace.
        Unpaced = "unpaced",
        /// It was to get one, and the kernel refused: it paces.
        UnpaceFailed = "unpace_failed",
        /// Bytes went straight to the peer's queue.
        Redirected = "redirected",
        /// The peer is not in the sockmap, or may not be redirected to.
        NoPeer = "no_peer",
        /// The remembered address of the peer's socket is stale.
        StalePeer = "stale_peer",
        /// Sent by TCP: earlier bytes are still on their way by TCP.
        Draining = "draining",
        /// Sent by TCP: the reader has enough redirected bytes to read.
        ReaderFull = "reader_full",
        /// Sent by TCP: the kernel encrypts what this socket sends or receives.
        UpperLayer = "upper_layer",
        /// Sent by TCP: one of the two sockets is blocking.
        Blocking = "blocking",
        /// Sent by TCP: the peer left the sockmap in this moment.
        PeerLeft = "peer_left",
        /// An inbound connection was steered to the node proxy.
        Steered = "steered",
        /// An inbound connection found no listener of the node proxy: refused.
        NoListener = "no_listener",
        /// The steering itself failed: refused.
        SteerFailed = "steer_failed",
        /// The rules of the pod where it begins deny it.
        EgressDenied = "egress_denied",
        /// The rules of the pod where it would end deny it.
        IngressDenied = "ingress_denied",
        /// The rules of the pod are not known yet: denied.
        Pending = "pending",
        /// Somebody else than the proxy wanted to talk to a port of the proxy: denied.
        ProxyPort = "proxy_port",
        /// Only the proxy could judge it, and it does not go through the proxy: denied.
        ProxyOnly = "proxy_only",
        /// The source address is not the pod's: dropped.
        Spoofed = "spoofed",
        /// The packet cannot be read: dropped.
        Malformed = "malformed",
        /// The packet is wrapped in something that cannot be looked through: dropped.
        Encapsulated = "encapsulated",
        /// A fragment or an error that belongs to nothing known: dropped.
        Unrelated = "unrelated",
        /// The pod has no rules: passed.
        Unenforced = "unenforced",
        /// A packet of a flow that was judged.
        FlowKnown = "flow_known",
        /// A flow was judged, and may be.
        FlowBegun = "flow_begun",
        /// A tunnel, or the node itself.
        Trusted = "trusted",
        /// A flow of the proxy.
        Vouched = "vouched",
        /// A flow of the proxy could not be remembered.
        VouchFailed = "vouch_failed",
        /// A verdict was told.
        EventTold = "event_told",
        /// A verdict was not told: there are enough of them in this second.
        EventLimited = "event_limited",
        /// A verdict found no room: nobody reads.
        EventDropped = "event_dropped",
    }
}

/// How many counters there are.
pub const COUNTERS_LEN: usize = Program::ALL.len() * Reason::ALL.len();

/// The slot that counts `reason` in `program`.
#[inline(always)]
pub const fn counter_index(program: Program, reason: Reason) -> u32 {
    program as u32 * REASONS_LEN + reason as u32
}

/// The number of reasons, in the width of an index.
const REASONS_LEN: u32 = Reason::EventDropped as u32 + 1;

const _: () = assert!(REASONS_LEN as usize == Reason::ALL.len());

#[cfg(test)]
mod tests {
    use super::{COUNTERS_LEN, Program, Reason, counter_index};

    #[test]
    fn every_pair_has_its_own_slot() {
        let mut seen = [false; COUNTERS_LEN];
        for program in Program::ALL {
            for reason in Reason::ALL {
                let index = usize::try_from(counter_index(*program, *reason)).unwrap();
                assert!(!seen[index], "{program:?} {reason:?}");
                seen[index] = true;
            }
        }
    }
}
