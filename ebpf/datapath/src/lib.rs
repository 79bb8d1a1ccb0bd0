//! Loads, attaches, pins and reconciles the kernel side.
//!
//! Decides how the programs and maps of `tulle-programs` come to be in the kernel and what the maps hold. It makes no policy and
//! chooses no endpoint: the caller's [`KernelTable`] says all that. The kernel is the truth for attachments: pins, not memory.
//! The only crate that knows aya; none of its types leaves here.
//!
//! # What stays when the proxy dies
//!
//! Hooks, maps and steering are pinned. A captured connection then finds nobody at the capture listener and is refused at once;
//! inbound plaintext is refused likewise; direct and plain connections go on. The next [`Datapath::open`] adopts everything
//! and exchanges the programs in place.
//!
//! # The sockmap's rules
//!
//! The kernel's receive path for sockets in a sockmap answers `EAGAIN` to a *blocking* read that is woken without data (by the
//! acknowledgement of its own FIN, by room in its send buffer, by a signal). So no call may wait there:
//!
//! - *Guards* hang on the entry of the two functions that receive and send for sockets of a sockmap. A call that may wait (no
//!   `MSG_DONTWAIT`, which the kernel also sets for `O_NONBLOCK`), or that asks for what only TCP does (`MSG_ZEROCOPY`, `MSG_OOB`),
//!   takes its socket out of the map before it begins, and then runs on TCP's own path. How a program may do that to a sockmap:
//!   `evict.rs` of the programs. Test: `no_call_that_waits_fails_for_the_sockmap`.
//! - [`SockmapMode::Auto`] and [`SockmapMode::ToProxy`] redirect nothing *into* an application, so nothing waits in its socket that an
//!   eviction could lose, or that `splice`, `FIONREAD` and `SO_RCVLOWAT` would not see.
//! - A connection joins when the proxy asks ([`Datapath::join`]), and only while its socket is non-blocking and watched by an epoll: others
//!   would leave at once. With [`SockmapMode::Full`] it joins when it is established, if it is non-blocking then; an accepted one,
//!   which has no file yet, if its listener is.
//! - Bytes are redirected only while TCP is empty in that direction, and only as many bytes and messages as a limit allows;
//!   beyond it TCP's window throttles the sender.
//! - A socket with kernel TLS, or one that this process did not hand to the proxy, is never redirected.
//!
//! What is left. Guards: a *non-blocking* send that sleeps (on a page of its own memory that must be read from disk, say) for more than
//! some 50 ms in one thread, while another switches the socket to blocking and waits, keeps the socket in the map that long; such a
//! wait may see `EAGAIN`, and is counted as `eviction_late`. Where the kernel refuses guards, `Auto` is `Off`; `ToProxy` and `Full` then
//! fail a blocking read as described above. With `Full`, a receiver that closes with unread redirected bytes sends a FIN where TCP
//! would send a reset, `splice` does not see redirected bytes, bytes that arrive in the moment of an eviction may be lost, and a
//! sender whose peer leaves the map in the very moment of its write may get `EPIPE` for that write; those bytes were not sent, and
//! the proxy may write them again.

mod attach;
mod black_hole;
mod btf;
mod capture;
mod cgroup;
mod datapath;
mod error;
mod events;
mod gate;
mod load;
mod maglev;
mod object;
mod pins;
mod pod;
mod policy;
mod raw;
mod reconcile;
mod rtnetlink;
mod settings;
mod slots;
mod sockets;
mod sockmap;
mod sys;
mod table;
mod verdicts;
mod weights;

pub use black_hole::BlackHole;
pub use datapath::{Counter, Datapath};
pub use error::{
    AnnouncePeerError, CapturePodError, DestroyConnectionsError, JoinError, OpenDatapathError,
    ReconcileError, ReleasePodError, RemoveDatapathError, UID_LEN_MAX,
};
pub use events::{ConnectEvent, ConnectEvents, ConnectOutcome};
pub use gate::GateSide;
pub use pod::{NetnsCookie, OriginalDestination, PodCapture, SocketCookie};
pub use policy::{
    MapFill, PORT_SET_ALLOW, PORT_SET_DENY, PolicyChanges, PolicyDirection, PolicyPeer,
    PolicyReport, PolicySubject, PolicyTable, PolicyVerdict, PortRule, SubjectFlags,
};
pub use settings::{
    BLACK_HOLE_PORT, CapturePorts, DatapathSettings, Enforcement, Pacing, SockmapMode,
};
pub use sockets::{DestroyReport, EstablishedConnection};
pub use sockmap::LocalConnection;
pub use table::{
    Backend, Frontend, KernelTable, Path, ReconcileReport, TableChanges, WorkloadRoute,
};
pub use verdicts::{Seen, VerdictEvent, VerdictEvents};
