//! Ends standing connections that no longer may be.
//!
//! Decides about what no proxy sees: direct connections between pods of this node, what leads out of the mesh, UDP sockets that are
//! connected. The pods' gates stop their packets as soon as the tables have changed; here their sockets are ended, so that
//! applications learn of it now and not after TCP's quarter of an hour. What a proxy carries, the proxy ends.
//!
//! Cilium judges packets of known connections no more, and leaves applications waiting where it does.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tulle_datapath::{
    Datapath, DestroyConnectionsError, DestroyReport, EstablishedConnection, PolicyDirection,
};
use tulle_model::{ClusterName, Directory, SpiffeId, Workload, WorkloadUid};
use tulle_policy::compiled::{
    Because, CompiledPolicy, Direction, Flow, FlowPeer, ServerName, Verdict,
};

use super::{
    PolicyView,
    keeper::PolicyStatus,
    recent::{SeenAt, Told},
};
use crate::{
    pods::{PodDescriptor, PodsView},
    published::Published,
};

/// Who can end connections that may no longer be.
pub trait RecheckConnections: Send + Sync + 'static {
    /// Ends at most `limit` connections that `may` denies; blocks for as long as that takes.
    ///
    /// # Errors
    /// The kernel cannot do it.
    fn recheck(
        &self,
        limit: usize,
        may: &(dyn Fn(&EstablishedConnection<'_>) -> bool + Sync),
    ) -> Result<DestroyReport, DestroyConnectionsError>;
}

impl RecheckConnections for Datapath {
    fn recheck(
        &self,
        limit: usize,
        may: &(dyn Fn(&EstablishedConnection<'_>) -> bool + Sync),
    ) -> Result<DestroyReport, DestroyConnectionsError> {
        Datapath::recheck(self, limit, may)
    }
}

/// The task that looks at all connections whenever the kernel was told something that may end one.
pub struct Rechecker {
    /// Tells when that was.
    pub status: Published<PolicyStatus>,
    /// By what is decided.
    pub view: PolicyView,
    /// The pods of this node.
    pub pods: Published<PodsView>,
    /// The kernel.
    pub connections: Arc<dyn RecheckConnections>,
    /// The node's cluster.
    pub cluster: ClusterName,
}

impl Rechecker {
    /// Works until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let _cancelled: Option<()> = cancel.run_until_cancelled(self.follow()).await;
    }

    async fn follow(self) {
        let mut status = self.status.clone();
        let mut seen = 0;
        // Changes that come while the sockets are looked at, or in the pause after it, are one.
        while let Ok(now) = status.wait_for(|status| status.narrowed > seen).await {
            seen = now.narrowed;
            let started = Instant::now();
            self.look().await;
            let took = started.elapsed();
            self.view.metrics.rechecked(took);
            sleep(took.saturating_mul(REST_FACTOR).min(REST_MAX)).await;
        }
    }

    /// Looks at all connections, and ends those that may not be.
    async fn look(&self) {
        for _ in 0..PASSES_MAX {
            let connections = Arc::clone(&self.connections);
            let glance = self.glance();
            // Listing the sockets of all pods blocks.
            let done = tokio::task::spawn_blocking(move || {
                connections.recheck(ENDED_PER_PASS, &|connection| glance.may(connection))
            });
            let report = match done.await {
                Ok(Ok(report)) => report,
                Ok(Err(error)) => {
                    let error = crate::run::chain(&error);
                    tracing::error!(error, "connections that policy denies are only muted");
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "connections that policy denies are only muted");
                    return;
                }
            };
            self.view.metrics.ended(&report);
            if report.destroyed > 0 {
                tracing::info!(?report, "connections that policy denies now were ended");
            }
            if !report.is_limited {
                return;
            }
        }
    }

    fn glance(&self) -> Glance {
        Glance {
            compiled: self.view.compiled.snapshot(),
            directory: self.view.directory.snapshot(),
            pods: LocalPods::of(&self.pods.snapshot(), &self.cluster),
            view: self.view.clone(),
            logged: AtomicUsize::new(0),
        }
    }
}

/// The captured pods by what the kernel knows of them.
#[derive(Debug, Default)]
pub(super) struct LocalPods {
    by_uid: HashMap<String, WorkloadUid>,
    by_address: HashMap<IpAddr, WorkloadUid>,
}

impl LocalPods {
    pub(super) fn of(view: &PodsView, cluster: &ClusterName) -> Self {
        let mut local = LocalPods::default();
        let listed = view.pods.values().map(|pod| &pod.descriptor);
        for pod in view.adopted_pods.iter().chain(listed) {
            local.add(pod, cluster);
        }
        local
    }

    fn add(&mut self, pod: &PodDescriptor, cluster: &ClusterName) {
        let name = WorkloadUid::of_pod(cluster, &pod.namespace, &pod.name);
        let addresses = pod.addresses.iter().map(|ip| (*ip, name.clone()));
        self.by_address.extend(addresses);
        self.by_uid.insert(pod.uid.clone(), name);
    }
}

/// Everything that one look at the connections decides by.
struct Glance {
    compiled: Arc<CompiledPolicy>,
    directory: Arc<Directory>,
    pods: LocalPods,
    view: PolicyView,
    logged: AtomicUsize,
}

impl Glance {
    /// Both ends are asked where both are pods of this node: then both sockets end, whatever the gates do with the farewells.
    fn may(&self, connection: &EstablishedConnection<'_>) -> bool {
        let Some(subject) = self.pods.by_uid.get(connection.uid) else {
            return true;
        };
        let (from, to) = match connection.direction {
            PolicyDirection::Ingress => (connection.far, connection.local),
            PolicyDirection::Egress => (connection.local, connection.far),
        };
        let (begins, ends) = match connection.direction {
            PolicyDirection::Ingress => (self.owner(from.ip()), Some(subject)),
            PolicyDirection::Egress => (Some(subject), self.owner(to.ip())),
        };
        let denied = [(Direction::Egress, begins), (Direction::Ingress, ends)]
            .into_iter()
            .filter_map(|(direction, subject)| Some((direction, subject?)))
            .find_map(|(direction, subject)| {
                let verdict = self.ask(direction, subject, connection.protocol, from, to);
                // Of whom nothing is known yet, nothing has changed.
                let stays = verdict.is_allowed() || verdict.because == Because::NotCompiled;
                (!stays).then_some((direction, subject, verdict))
            });
        if let Some((direction, subject, verdict)) = &denied {
            self.tell(*direction, subject, connection.protocol, from, to, verdict);
        }
        denied.is_none()
    }

    fn ask(
        &self,
        direction: Direction,
        subject: &WorkloadUid,
        protocol: u8,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Verdict {
        // A sender of this node is who its gate lets it be; anybody else is an address.
        let sender = match direction {
            Direction::Ingress => self.workload(from.ip()),
            Direction::Egress => None,
        };
        let proven: Option<SpiffeId> = sender.map(Workload::identity);
        self.compiled.evaluate_unseen(&Flow {
            direction,
            subject,
            peer: sender.map_or(FlowPeer::Address, FlowPeer::Workload),
            proven: proven.as_ref(),
            source: from.ip().to_canonical(),
            destination: SocketAddr::new(to.ip().to_canonical(), to.port()),
            protocol,
            server_name: ServerName::NotSeen,
        })
    }

    fn owner(&self, address: IpAddr) -> Option<&WorkloadUid> {
        self.pods.by_address.get(&address.to_canonical())
    }

    /// The captured pod of this node that has an address.
    fn workload(&self, address: IpAddr) -> Option<&Workload> {
        let uid = self.owner(address)?;
        self.directory.workload(uid).map(Arc::as_ref)
    }

    fn tell(
        &self,
        direction: Direction,
        subject: &WorkloadUid,
        protocol: u8,
        from: SocketAddr,
        to: SocketAddr,
        verdict: &Verdict,
    ) {
        self.view.recent.note(
            &self.directory,
            &Told {
                direction,
                protocol,
                source: from.ip().to_canonical(),
                destination: SocketAddr::new(to.ip().to_canonical(), to.port()),
                outcome: "deny",
                seen: SeenAt::Standing,
                because: verdict,
            },
        );
        if self.logged.fetch_add(1, Ordering::Relaxed) < LOGGED_PER_LOOK {
            tracing::info!(%subject, %from, %to, %verdict, "a standing connection ends");
        }
    }
}

/// Connections that are ended before the rest is looked at anew.
const ENDED_PER_PASS: usize = 4_096;
/// Passes of one look: a million connections and more.
const PASSES_MAX: usize = 256;
/// The pause after a look, in times of what it took: policies that never rest cost a tenth of one core.
const REST_FACTOR: u32 = 9;
/// A pause is never longer than this, so that a look that had to wait for something does not hold up the next one.
const REST_MAX: Duration = Duration::from_millis(500);
/// Ended connections that one look tells of in the log, each with its reason.
const LOGGED_PER_LOOK: usize = 16;
