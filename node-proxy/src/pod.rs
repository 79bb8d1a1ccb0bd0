//! Everything of one pod: its namespace, its listeners, its tunnels, its tasks.
//!
//! Starts and ends them together; what happens on a connection is decided in `outbound` and `inbound`.

mod accept;
mod listeners;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU32},
    time::Duration,
};

use http::HeaderValue;
use tokio::net::TcpListener;
use tulle_datapath::{BLACK_HOLE_PORT, BlackHole, CapturePodError, LocalConnection, PodCapture};
use tulle_identity::{GetSvidError, Svid};
use tulle_model::{Directory, SpiffeId, Workload, WorkloadUid};

pub(crate) use accept::{ConnectionLimit, accept_all};

use crate::{
    inbound,
    netns::{NamespaceHandle, OpenNamespaceError, SocketPurpose, SocketStock},
    outbound,
    plane::{ByteFlow, Direction, Plane, Tasks},
    pods::{PodDescriptor, PodSockmap},
    policy::{self, Sessions},
    pump::{Joiner, PumpContext},
    tunnel::{self, Dialer, OpenTunnelError, TunnelPool},
};
use listeners::Listeners;

/// The proxy of one pod, running.
///
/// Dropping it cuts all connections of the pod; [`PodProxy::drain`] ends them in peace.
pub struct PodProxy {
    pod: Arc<Pod>,
    addresses: PodAddresses,
    /// Where the kernel leads what policy denies, if it denies anything.
    _black_hole: Option<BlackHole>,
}

/// Where a pod's proxy listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodAddresses {
    /// Captured outbound connections.
    pub outbound: Vec<SocketAddr>,
    /// Inbound plaintext.
    pub inbound: Vec<SocketAddr>,
    /// Tunnels.
    pub hbone: Vec<SocketAddr>,
}

impl PodProxy {
    /// Opens the pod's listeners, asks for its certificate and has the kernel capture it.
    ///
    /// # Errors
    /// Nothing is left behind then, and the pod is not captured.
    pub async fn start(plane: Arc<Plane>, pod: PodDescriptor) -> Result<Self, StartPodError> {
        let namespace = Arc::new(NamespaceHandle::open(&pod.netns)?);
        let listeners = Listeners::open(&plane.settings, &namespace, &pod.addresses)?;
        let addresses = listeners.addresses()?;
        let black_hole = match plane.kernel.enforces() {
            true => Some(open_black_hole(&namespace, &pod.addresses)?),
            false => None,
        };
        let identity = pod.identity(&plane.trust_domain);
        plane
            .svids
            .prefetch(&identity)
            .map_err(|e| StartPodError::Svid(Box::new(e)))?;
        let steered: Vec<_> = listeners.inbound.iter().map(TcpListener::as_fd).collect();
        plane.kernel.capture_pod(&PodCapture {
            uid: &pod.uid,
            netns: namespace.as_fd(),
            netns_cookie: namespace.cookie(),
            addresses: &pod.addresses,
            inbound: &steered,
            may_join: pod.sockmap == PodSockmap::Auto,
        })?;
        let pod = Pod::new(plane, pod, identity, namespace);
        pod.spawn(listeners);
        Ok(PodProxy {
            pod,
            addresses,
            _black_hole: black_hole,
        })
    }

    /// The pod.
    pub fn descriptor(&self) -> &PodDescriptor {
        &self.pod.descriptor
    }

    /// Where the proxy listens.
    pub fn addresses(&self) -> &PodAddresses {
        &self.addresses
    }

    /// Takes no new connections, tells peers to go elsewhere, waits for the present ones until `deadline`, then cuts the rest.
    ///
    /// The kernel's capture stays: whoever takes the pod out of the mesh releases it, and a restart leaves it for the successor.
    pub async fn drain(self, deadline: Duration) {
        self.pod.pool.close();
        if !self.pod.tasks.drain(deadline).await {
            tracing::info!(pod = %self.pod.descriptor.name, ?deadline, "connections were cut at the end of the drain");
        }
    }
}

impl Drop for PodProxy {
    fn drop(&mut self) {
        self.pod.pool.close();
        self.pod.tasks.cut();
    }
}

/// Why a pod's proxy could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartPodError {
    /// The pod's namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] OpenNamespaceError),
    /// A listener cannot be opened.
    #[error("the proxy cannot listen on {address} in the pod's namespace")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The pod's certificate cannot be asked for.
    #[error("the pod's certificate cannot be asked for")]
    Svid(#[source] Box<GetSvidError>),
    /// The kernel's side refuses.
    #[error(transparent)]
    Capture(#[from] CapturePodError),
}

/// Opens the sockets that answer nothing, in the pod's namespace.
fn open_black_hole(
    namespace: &NamespaceHandle,
    addresses: &[IpAddr],
) -> Result<BlackHole, StartPodError> {
    let needs_v6 = addresses.iter().any(IpAddr::is_ipv6);
    namespace
        .run_in(|| BlackHole::open(needs_v6))
        .map_err(OpenNamespaceError::from)?
        .map_err(|source| StartPodError::Listen {
            address: (Ipv4Addr::LOCALHOST, BLACK_HOLE_PORT).into(),
            source,
        })
}

/// What lets a connection of the pod join the sockmap, where connections join late.
fn joiner(plane: &Arc<Plane>, namespace: &Arc<NamespaceHandle>) -> Option<Joiner> {
    let (kernel, namespace) = (Arc::clone(&plane.kernel), Arc::clone(namespace));
    plane.kernel.joins_late().then(|| {
        Joiner::new(move |ends| {
            let connection = LocalConnection {
                netns: namespace.cookie(),
                proxy: ends.proxy,
                application: ends.application,
            };
            // Whoever cannot join goes on by TCP.
            let joined = namespace.run_in(|| kernel.join(&connection));
            joined.is_ok_and(|joined| joined.unwrap_or(false))
        })
    })
}

/// What the connections of one pod share.
pub(crate) struct Pod {
    pub(crate) plane: Arc<Plane>,
    pub(crate) descriptor: PodDescriptor,
    pub(crate) namespace: Arc<NamespaceHandle>,
    pub(crate) pool: Arc<TunnelPool>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) application_sockets: SocketStock,
    /// Which loopback source comes next.
    pub(crate) loopback_turn: AtomicU32,
    pub(crate) tasks: Tasks,
    pub(crate) outbound: PumpContext,
    pub(crate) inbound: PumpContext,
    pub(crate) sessions: Sessions,
    /// Connections that are denied in silence.
    pub(crate) denied: ConnectionLimit,
    identity: SpiffeId,
    /// The last baggage, and the workload that it tells of.
    baggage: Mutex<Option<(Arc<Workload>, Option<HeaderValue>)>>,
}

impl Pod {
    fn new(
        plane: Arc<Plane>,
        descriptor: PodDescriptor,
        identity: SpiffeId,
        namespace: Arc<NamespaceHandle>,
    ) -> Arc<Self> {
        let tasks = Tasks::new(plane.shared.turns.share());
        let dialer = Arc::new(Dialer::new(
            Arc::clone(&plane),
            Arc::clone(&namespace),
            descriptor.addresses.clone(),
            tasks.clone(),
        ));
        plane.shared.probers.add(&dialer);
        let dial = {
            let dialer = Arc::clone(&dialer);
            Arc::new(move |key, svid, offer| -> tunnel::Dialing {
                let dialer = Arc::clone(&dialer);
                Box::pin(async move { dialer.dial(&key, svid, offer).await })
            })
        };
        let clock = plane.svids.clock();
        let pool = TunnelPool::new(dial, clock, plane.settings.clone(), tasks.clone());
        let joiner = match descriptor.sockmap {
            PodSockmap::Auto => joiner(&plane, &namespace),
            PodSockmap::Off => None,
        };
        let denied = ConnectionLimit::new(plane.settings.denied_per_pod_max);
        let context = |direction| PumpContext {
            joiner: joiner.clone(),
            buffers: Arc::clone(&plane.shared.buffers),
            sent: plane.metrics.byte_counter(direction, ByteFlow::Sent),
            received: plane.metrics.byte_counter(direction, ByteFlow::Received),
            reset_flush_timeout: plane.settings.reset_flush_timeout,
        };
        Arc::new(Pod {
            outbound: context(Direction::Outbound),
            inbound: context(Direction::Inbound),
            plane,
            descriptor,
            namespace,
            pool,
            dialer,
            application_sockets: SocketStock::new(SocketPurpose::Application),
            loopback_turn: AtomicU32::new(rand::random()),
            tasks,
            sessions: Sessions::default(),
            denied,
            identity,
            baggage: Mutex::new(None),
        })
    }

    fn spawn(self: &Arc<Self>, listeners: Listeners) {
        for listener in listeners.outbound {
            self.tasks
                .spawn(outbound::serve(Arc::clone(self), listener));
        }
        for listener in listeners.inbound {
            self.tasks
                .spawn(inbound::serve_plaintext(Arc::clone(self), listener));
        }
        for listener in listeners.hbone {
            self.tasks
                .spawn(inbound::serve_hbone(Arc::clone(self), listener));
        }
        self.tasks
            .spawn_servant(policy::watch_policy(Arc::clone(self)));
        self.tasks.spawn_servant(Arc::clone(self).keep_house());
    }

    /// The pod's certificate, valid now.
    pub(crate) async fn svid(&self) -> Result<Arc<Svid>, OpenTunnelError> {
        self.plane
            .svids
            .get(&self.identity)
            .await
            .map_err(|source| OpenTunnelError::NoSvid {
                identity: self.identity.clone(),
                source: Arc::new(source),
            })
    }

    /// Whether the directory's entry speaks of this pod, and not of another that had or got its address.
    pub(crate) fn is_workload(&self, workload: &Workload) -> bool {
        workload.namespace == self.descriptor.namespace
            && workload.name == self.descriptor.name
            && workload.service_account == self.descriptor.service_account
    }

    /// The pod's name in the mesh.
    pub(crate) fn workload_uid(&self) -> WorkloadUid {
        let PodDescriptor {
            namespace, name, ..
        } = &self.descriptor;
        WorkloadUid::of_pod(&self.plane.cluster, namespace, name)
    }

    /// The pod's entry in the directory.
    pub(crate) fn workload<'a>(&self, directory: &'a Directory) -> Option<&'a Arc<Workload>> {
        let addresses = self.descriptor.addresses.iter();
        addresses
            .filter_map(|ip| directory.workload_at(*ip))
            .find(|w| self.is_workload(w))
    }

    /// What is told to peers about the pod.
    pub(crate) fn baggage(&self, directory: &Directory) -> Option<HeaderValue> {
        let workload = self.workload(directory)?;
        let mut cached = self.baggage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, value)) = &*cached
            && Arc::ptr_eq(known, workload)
        {
            return value.clone();
        }
        let value = tunnel::baggage(workload, &self.plane.cluster);
        *cached = Some((Arc::clone(workload), value.clone()));
        value
    }

    /// Gives back what is not used: tunnels, buffers.
    async fn keep_house(self: Arc<Self>) {
        let pause = (self.plane.settings.tunnel_idle_timeout / 4).max(HOUSE_TURN_MIN);
        let mut turn = tokio::time::interval(pause);
        loop {
            turn.tick().await;
            self.pool.sweep();
            self.plane.shared.buffers.trim();
        }
    }
}

/// However short the idle timeout, the house is not kept more often.
const HOUSE_TURN_MIN: Duration = Duration::from_millis(10);
