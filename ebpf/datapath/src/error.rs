//! What can go wrong, one enum for each operation.

use std::{io, path::PathBuf};

/// Why the kernel side could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenDatapathError {
    /// The kernel describes no types of its own.
    #[error(
        "/sys/kernel/btf/vmlinux cannot be read: the kernel must be built with CONFIG_DEBUG_INFO_BTF"
    )]
    Btf(#[source] io::Error),
    /// The pin directory is on another file system.
    #[error("{} is not on a bpf file system: mount one with `mount -t bpf bpf /sys/fs/bpf`", path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The path is no cgroup of version 2.
    #[error("{} is not a cgroup v2 directory", path.display())]
    NotCgroup {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The object file could not be loaded.
    #[error(
        "the kernel refused the maps or programs (root is needed, with a locked-memory limit that lets maps be made)"
    )]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// One program was refused.
    #[error("the kernel refused the program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The verifier's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The evictions from the sockmap cannot be prepared.
    #[error("the kernel refuses to prepare the evictions from the sockmap")]
    Evictions,
    /// A map or program that this build needs is not in the object file.
    #[error("the object file has no {name}")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A hook could not be attached.
    #[error("cannot attach {program} to {}", target.display())]
    Attach {
        /// The program.
        program: &'static str,
        /// The cgroup or map.
        target: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What the maps hold could not be read.
    #[error("cannot read the map {map}")]
    ReadMap {
        /// The map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why pins could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove the pin {}", path.display())]
pub struct RemoveDatapathError {
    /// The pin or directory.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Why the maps could not be brought to the wanted table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// The table asks for more than a map can hold.
    #[error("the table has {wanted} entries for {map}, which holds at most {limit}")]
    TooLarge {
        /// The map.
        map: &'static str,
        /// How many entries the table asks for.
        wanted: usize,
        /// How many the map can hold.
        limit: usize,
    },
    /// An entry could not be written or deleted. What was done before stays; the next reconciliation goes on from there.
    #[error("cannot {action} an entry of {map}")]
    Write {
        /// `write` or `delete`.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The numbers of the two port sets without entries cannot be given to others.
    #[error("the port set {set} has a fixed meaning: the numbers of port sets begin at 3")]
    PortSet {
        /// The number.
        set: u32,
    },
    /// A pod's uid cannot be.
    #[error("the pod uid {uid:?} must be 1 to {UID_LEN_MAX} letters, digits and dashes")]
    Uid {
        /// The uid.
        uid: String,
    },
    /// Only changes were given, and it is not known what they change: no table was reconciled yet, or a write failed.
    #[error("what the maps hold is not known: a whole table must be reconciled first")]
    Unknown,
    /// The hooks waited for the first table and could not be attached after it.
    #[error("cannot attach the hooks after the first table")]
    Attach(#[source] Box<OpenDatapathError>),
}

/// Why a pod could not be captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapturePodError {
    /// The uid cannot name a pin.
    #[error("the pod uid {uid:?} must be 1 to {UID_LEN_MAX} letters, digits and dashes")]
    Uid {
        /// The uid.
        uid: String,
    },
    /// A map refused the pod.
    #[error("cannot register the pod {uid} in {map}")]
    Register {
        /// The pod.
        uid: String,
        /// The map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An inbound listener is no listening TCP socket.
    #[error("the inbound listener of pod {uid} is not usable")]
    Listener {
        /// The pod.
        uid: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The pod's gate could not be hung on its link.
    #[error("cannot attach the gate on the link of pod {uid}")]
    Gate {
        /// The pod.
        uid: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The steering program could not be made or attached to the namespace.
    #[error("cannot attach the steering of inbound connections for pod {uid}")]
    Steering {
        /// The pod.
        uid: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a pod could not be released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleasePodError {
    /// The uid cannot name a pin.
    #[error("the pod uid {uid:?} must be 1 to {UID_LEN_MAX} letters, digits and dashes")]
    Uid {
        /// The uid.
        uid: String,
    },
    /// A map kept an entry.
    #[error("cannot remove the pod {uid} from {map}")]
    Unregister {
        /// The pod.
        uid: String,
        /// The map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pin of the steering stayed.
    #[error("cannot remove the pin {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Why a peer could not be announced.
#[derive(Debug, thiserror::Error)]
#[error("cannot announce the peer of socket {socket}")]
pub struct AnnouncePeerError {
    /// The socket's cookie.
    pub socket: crate::SocketCookie,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why connections could not be destroyed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DestroyConnectionsError {
    /// The kernel cannot destroy the sockets of others.
    #[error("the kernel cannot destroy sockets: it must be built with CONFIG_INET_DIAG_DESTROY")]
    Unsupported,
    /// Nobody could be asked for the sockets of any pod.
    #[error("the sockets of the pods cannot be listed")]
    List(#[source] io::Error),
}

/// Why a connection could not join the sockmap.
#[derive(Debug, thiserror::Error)]
#[error("cannot let the connection {application} -> {proxy} join the sockmap")]
pub struct JoinError {
    /// The application's end.
    pub application: std::net::SocketAddr,
    /// The proxy's end.
    pub proxy: std::net::SocketAddr,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Longest pod uid, in bytes.
pub const UID_LEN_MAX: usize = 128;
