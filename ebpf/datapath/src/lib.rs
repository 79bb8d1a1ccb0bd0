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
//! acknowledgement of its own FIN, or by room in its send buffer). So no blocking socket may be there:
//!
//! - An application's socket enters only if it is non-blocking when the connection is established; an accepted one, which has no
//!   file yet, only if its listener is. The proxy's sockets always enter: its event loop never blocks.
//! - Each message looks at the flags again, on both ends. A blocking sender sends by TCP, and the acknowledgement of that takes it
//!   out of the map; so does its own half-close. Nothing is taken out while redirected bytes wait in it.
//! - Bytes are redirected only while TCP is empty in that direction, and only as many bytes and messages as a limit allows;
//!   beyond it TCP's window throttles the sender.
//! - A socket with kernel TLS, or one that this process did not hand to the proxy, is never redirected.
//!
//! What is left, and why [`SockmapMode::Off`] is the default: a program that makes a connection while non-blocking, switches to
//! blocking, has one thread wait in a read and lets another fill the send buffer, sees an `EAGAIN` in that read (50 of 50 tries, in
//! both other modes): the eviction on the acknowledgement comes too late for a reader that waits already. With [`SockmapMode::Full`], a
//! receiver that closes with unread redirected bytes sends a FIN where TCP would send a reset, `splice` and `FIONREAD` do not see
//! redirected bytes, and a sender whose peer leaves the map in the very moment of its write may get `EPIPE` for that write; the
//! bytes were not sent, and the proxy may write them again. [`SockmapMode::ToProxy`] redirects nothing into applications and
//! has none of these last ones.

mod attach;
mod btf;
mod capture;
mod cgroup;
mod datapath;
mod error;
mod events;
mod load;
mod maglev;
mod object;
mod pins;
mod pod;
mod raw;
mod reconcile;
mod settings;
mod slots;
mod sockets;
mod sockmap;
mod sys;
mod table;
mod weights;

pub use datapath::{Counter, Datapath};
pub use error::{
    AnnouncePeerError, CapturePodError, DestroyConnectionsError, JoinError, OpenDatapathError,
    ReconcileError, ReleasePodError, RemoveDatapathError, UID_LEN_MAX,
};
pub use events::{ConnectEvent, ConnectEvents, ConnectOutcome};
pub use pod::{NetnsCookie, OriginalDestination, PodCapture, SocketCookie};
pub use settings::{CapturePorts, DatapathSettings, SockmapMode};
pub use sockets::DestroyReport;
pub use sockmap::LocalConnection;
pub use table::{
    Backend, Frontend, KernelTable, Path, ReconcileReport, TableChanges, WorkloadRoute,
};
