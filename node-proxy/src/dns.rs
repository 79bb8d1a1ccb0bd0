//! DNS inside each pod: names of services from the mesh view, all others from the pod's own resolvers.
//!
//! The pod's questions to port 53 reach listeners on loopback in the pod's own namespace. This module decides what a name
//! means for that pod, and whether the pod may ask; it never opens a socket outside the pod's namespace and keeps no cache of answers.

mod forward;
mod learn;
mod message;
mod names;
mod resolver;
mod server;
mod zone;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tulle_model::{ClusterName, Directory};

use crate::{
    health::Health,
    metrics::DnsMetrics,
    netns::{EnterNamespaceError, NamespaceHandle},
    pods::PodDescriptor,
    published::Published,
};

pub use learn::NameLimits;
pub use names::{NameKeeper, NameQuestion, NameRules, NameVerdict};

use forward::{ForwardLimits, Forwarder};
use resolver::Resolver;

/// What the resolvers of all pods share.
pub struct DnsContext {
    /// The mesh view.
    pub directory: Published<Directory>,
    /// Which endpoints could not be reached a moment ago.
    pub health: Arc<Health>,
    /// The cluster of this node.
    pub cluster: ClusterName,
    /// The name of this node.
    pub node: String,
    /// What was asked and how it ended.
    pub metrics: Arc<DnsMetrics>,
    /// Rules about names; `None` = there are none, and every question may be.
    pub names: Option<Arc<NameKeeper>>,
}

/// The DNS server of one pod; it ends when it is dropped.
pub struct PodDns {
    cancel: CancellationToken,
    addresses: Vec<SocketAddr>,
}

impl PodDns {
    /// Opens the listeners and starts to answer.
    ///
    /// `listen` are the addresses inside the pod's namespace. A pod without IPv6 has no `::1`, so an address that the
    /// namespace does not have is left out, as long as one remains.
    ///
    /// # Errors
    /// The namespace cannot be entered, or no listener can be opened.
    pub fn start(
        context: Arc<DnsContext>,
        pod: &PodDescriptor,
        namespace: Arc<NamespaceHandle>,
        listen: &[SocketAddr],
    ) -> Result<Self, StartDnsError> {
        let nameservers = pod.nameservers.iter().take(NAMESERVERS_MAX);
        let forwarder = Forwarder {
            namespace: Arc::clone(&namespace),
            nameservers: nameservers
                .map(|ip| SocketAddr::new(*ip, NAMESERVER_PORT))
                .collect(),
            limits: ForwardLimits::default(),
            metrics: Arc::clone(&context.metrics),
            silent_until: Mutex::new(None),
        };
        let resolver = Arc::new(Resolver::new(context, pod.clone(), forwarder));
        let mut server = PodDns {
            cancel: CancellationToken::new(),
            addresses: Vec::new(),
        };
        let tasks = TaskTracker::new();
        for address in listen {
            let sockets = namespace.run_in(|| open_sockets(*address))?;
            let failed = |source| StartDnsError::Listen {
                address: *address,
                source,
            };
            let (udp, tcp) = match sockets {
                Ok(sockets) => sockets,
                Err(error) if is_absent(&error) && listen.len() > 1 => continue,
                Err(error) => return Err(failed(error)),
            };
            let udp = UdpSocket::from_std(udp).map_err(failed)?;
            let tcp = TcpListener::from_std(tcp).map_err(failed)?;
            server.addresses.push(udp.local_addr().map_err(failed)?);
            server.addresses.push(tcp.local_addr().map_err(failed)?);
            let (tracker, cancel) = (tasks.clone(), server.cancel.clone());
            tasks.spawn(server::serve_udp(
                Arc::new(udp),
                Arc::clone(&resolver),
                tracker,
                cancel,
            ));
            let (tracker, cancel) = (tasks.clone(), server.cancel.clone());
            tasks.spawn(server::serve_tcp(
                tcp,
                Arc::clone(&resolver),
                tracker,
                cancel,
            ));
        }
        if server.addresses.is_empty() {
            Err(StartDnsError::NoAddress)
        } else {
            Ok(server)
        }
    }

    /// Where it answers: for each address first the datagram socket, then the stream listener.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for PodDns {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Makes both listeners in the namespace of the calling thread.
fn open_sockets(address: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let domain = Domain::for_address(address);
    let open = |kind: Type, protocol: Protocol, address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
        socket.set_reuse_address(kind == Type::STREAM)?;
        // A successor binds the port before this process leaves.
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let udp = open(Type::DGRAM, Protocol::UDP, address)?;
    let tcp = open(Type::STREAM, Protocol::TCP, address)?;
    tcp.listen(BACKLOG)?;
    Ok((udp.into(), tcp.into()))
}

/// What is said to a datagram without looking into the mesh, and what is learned from it if it is an answer; for `foreign`.
pub(crate) fn take_datagram(bytes: &[u8]) -> Option<Vec<u8>> {
    use hickory_proto::{op::ResponseCode, rr::Name};
    drop(learn::addresses_in(bytes, &Name::root()));
    match message::Question::parse(bytes) {
        Ok(question) => Some(question.failure(ResponseCode::ServFail)),
        Err(refusal) => message::refuse(bytes, refusal),
    }
}

/// The namespace has no such address, or no such family.
fn is_absent(error: &io::Error) -> bool {
    let code = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    error.kind() == io::ErrorKind::AddrNotAvailable || code == Some(rustix::io::Errno::AFNOSUPPORT)
}

/// A pod's DNS server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartDnsError {
    /// The pod's namespace cannot be entered.
    #[error("the DNS server cannot be started")]
    Enter(#[from] EnterNamespaceError),
    /// A listener cannot be opened.
    #[error("the DNS server cannot listen at {address} in the pod")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// None of the addresses exists in the pod.
    #[error("the DNS server has no address in the pod to listen at")]
    NoAddress,
}

/// As glibc.
const NAMESERVERS_MAX: usize = 3;
const NAMESERVER_PORT: u16 = 53;
const BACKLOG: i32 = 64;
