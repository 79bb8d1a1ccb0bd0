//! What a datapath is opened with.

use std::path::PathBuf;

/// Where and how the kernel side is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatapathSettings {
    /// Directory on a bpffs that holds every pin of this node, for example `/sys/fs/bpf/tulle/<node>`.
    pub pin_dir: PathBuf,
    /// The cgroup (v2) whose processes are captured once their pod is registered.
    pub capture_cgroup: PathBuf,
    /// The cgroup of the node proxy itself: never captured.
    pub proxy_cgroup: PathBuf,
    /// Which bytes skip the TCP stack.
    pub sockmap: SockmapMode,
    /// Which connections send by the clock.
    pub pacing: Pacing,
    /// Whether port 53 of any address leads to the proxy's name server.
    pub dns_capture: bool,
    /// Where the proxy listens inside each pod's namespace.
    pub ports: CapturePorts,
}

/// Whether the policy tables are enforced, and how a denial looks to whoever is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Enforcement {
    /// Not at all: everybody may talk to everybody as far as the kernel side is concerned.
    #[default]
    Off,
    /// Like a network that loses packets: nothing is answered until the caller gives up. Calls are led to [`BLACK_HOLE_PORT`], where
    /// whoever captures pods has opened sockets that drop everything.
    Drop,
    /// The call fails at once with `EPERM`.
    Reject,
}

/// Which connections send by the clock of a pacing congestion control (BBR), where the node's default is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pacing {
    /// Those that cross a network. What begins and ends on this node has no queue between its ends that pacing could keep short, and
    /// pays for the timers with most of its throughput; it gets the kernel's own `reno`.
    #[default]
    Auto,
    /// All, as the system's default has it.
    System,
}

/// Which bytes are handed from socket to socket without the TCP stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SockmapMode {
    /// None.
    Off,
    /// As `ToProxy` where the kernel lets us keep every waiting call out of the sockmap, so that no application can tell; else `Off`.
    #[default]
    Auto,
    /// What an application sends to the node proxy, on connections for which the proxy asked ([`Datapath::join`]), having seen them move
    /// bytes. No byte reaches an application this way. Where the kernel refuses the guards, a program that switches a socket
    /// to blocking after it joined may see `EAGAIN` from a blocking read (see the crate's page).
    ///
    /// [`Datapath::join`]: crate::Datapath::join
    ToProxy,
    /// Both directions between application and proxy, and between applications of one node: for programs that are known to read
    /// with `read` and `recv` in an event loop (see the crate's page).
    Full,
}

impl SockmapMode {
    /// The number that the kernel side knows the mode by.
    pub(crate) fn number(self) -> u32 {
        match self {
            SockmapMode::Off => tulle_abi::SOCKMAP_OFF,
            SockmapMode::Auto | SockmapMode::ToProxy => tulle_abi::SOCKMAP_TO_PROXY,
            SockmapMode::Full => tulle_abi::SOCKMAP_FULL,
        }
    }
}

impl Enforcement {
    /// The number that the kernel side knows it by.
    pub(crate) fn number(self) -> u32 {
        match self {
            Enforcement::Off => tulle_abi::ENFORCEMENT_OFF,
            Enforcement::Drop => tulle_abi::ENFORCEMENT_DROP,
            Enforcement::Reject => tulle_abi::ENFORCEMENT_REJECT,
        }
    }
}

/// The ports of the proxy's listeners inside each pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CapturePorts {
    /// Captured outbound connections, on loopback.
    pub outbound: u16,
    /// Inbound plaintext, on the unspecified address.
    pub inbound: u16,
    /// Tunnels, on the unspecified address.
    pub tunnel: u16,
    /// DNS, on loopback.
    pub dns: u16,
}

/// Where the black hole is, on loopback: sockets that answer nothing (see [`Enforcement::Drop`]).
pub const BLACK_HOLE_PORT: u16 = 15009;

impl Default for CapturePorts {
    fn default() -> Self {
        CapturePorts {
            outbound: 15001,
            inbound: 15006,
            tunnel: 15008,
            dns: 15053,
        }
    }
}
