//! Resets connections to where nobody is any more, so that applications try again now and not after TCP's quarter of an hour.
//!
//! An address is dead when
//! - the workload that had it left the mesh's view, no other has it, and that is so for `GRACE` (the pod was deleted, its
//!   cluster was disconnected, or it is no longer shared with this cluster); or
//! - it belongs to a cluster that is dead: silent *and* out of reach (`clusters`).
//!
//! An endpoint that is shutting down or not ready is still in the view and keeps its connections, and so does a cluster that is
//! silent but can be reached. The kernel resets every connection of this node's pods whose far end is dead, and UDP sockets
//! that are connected to it; tunnels are among them, and what the proxy carries over a tunnel is reset with it.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tulle_datapath::{Datapath, DestroyConnectionsError, DestroyReport};
use tulle_model::Directory;

use super::{
    Health,
    clusters::{Probe, Suspicions},
    suspects::Suspector,
};
use crate::published::Published;

/// Who can reset the connections of this node's pods.
pub trait DestroyConnections: Send + Sync + 'static {
    /// Resets at most `limit` connections to these addresses; blocks for as long as that takes.
    ///
    /// # Errors
    /// The kernel cannot do it.
    fn destroy_connections(
        &self,
        to: &HashSet<IpAddr>,
        limit: usize,
    ) -> Result<DestroyReport, DestroyConnectionsError>;
}

impl DestroyConnections for Datapath {
    fn destroy_connections(
        &self,
        to: &HashSet<IpAddr>,
        limit: usize,
    ) -> Result<DestroyReport, DestroyConnectionsError> {
        Datapath::destroy_connections(self, to, limit)
    }
}

/// The task that resets connections; beside that, suspected clusters are asked whether they are there.
pub struct Reaper {
    /// Who knows which addresses are gone, and which clusters are silent.
    pub health: Arc<Health>,
    /// The mesh view.
    pub directory: Published<Directory>,
    /// The kernel.
    pub connections: Arc<dyn DestroyConnections>,
    /// How silent clusters are tried.
    pub probe: Arc<dyn Probe>,
    /// Where the tunnels of workloads end.
    pub tunnel_port: u16,
}

impl Reaper {
    /// Works until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let suspector = Suspector {
            health: Arc::clone(&self.health),
            directory: self.directory.clone(),
            probe: Arc::clone(&self.probe),
            tunnel_port: self.tunnel_port,
        };
        let work = async { tokio::join!(self.work(), suspector.work()) };
        let _cancelled: Option<((), ())> = cancel.run_until_cancelled(work).await;
    }

    async fn work(&self) {
        let mut suspicions = Suspicions::default();
        loop {
            let silent = self.health.silent();
            suspicions.follow(&silent);
            let directory = self.directory.snapshot();
            let mut dead = self.buried(&directory);
            let died = suspicions
                .play(
                    &silent,
                    &directory,
                    &self.probe,
                    self.tunnel_port,
                    &self.health,
                )
                .await;
            for cluster in &died {
                tracing::warn!(%cluster, "a silent cluster is out of reach: connections to it are reset");
                dead.extend(silent.get(cluster).into_iter().flatten());
            }
            if !dead.is_empty() {
                self.health
                    .metrics
                    .dead_addresses
                    .inc_by(u64::try_from(dead.len()).unwrap_or(u64::MAX));
                self.destroy(dead).await;
            }
            let next = suspicions
                .next_round()
                .into_iter()
                .chain(self.health.next_burial().map(|since| since + GRACE))
                .min();
            // Both arms are cancel-safe.
            tokio::select! {
                () = self.health.died.notified() => {}
                () = async {
                    match next {
                        Some(next) => sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Addresses that are gone for long enough, and did not come back.
    fn buried(&self, directory: &Directory) -> HashSet<IpAddr> {
        let Some(before) = Instant::now().checked_sub(GRACE) else {
            return HashSet::new();
        };
        let gone = self.health.take_gone(before).into_iter();
        gone.filter(|address| directory.workload_at(*address).is_none())
            .collect()
    }

    async fn destroy(&self, dead: HashSet<IpAddr>) {
        let dead = Arc::new(dead);
        for _ in 0..PASSES_MAX {
            let (connections, to) = (Arc::clone(&self.connections), Arc::clone(&dead));
            let started = Instant::now();
            // Listing the sockets of all pods blocks.
            let done = tokio::task::spawn_blocking(move || {
                connections.destroy_connections(&to, DESTROYED_PER_PASS)
            });
            let report = match done.await {
                Ok(Ok(report)) => report,
                Ok(Err(error)) => {
                    tracing::error!(
                        error = crate::run::chain(&error),
                        "connections to dead addresses stay"
                    );
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "connections to dead addresses stay");
                    return;
                }
            };
            let metrics = &self.health.metrics;
            let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            metrics.destroyed.inc_by(count(report.destroyed));
            metrics.destroy_failures.inc_by(count(report.failed));
            metrics
                .destroy_seconds
                .observe(started.elapsed().as_secs_f64());
            if report.destroyed > 0 {
                tracing::info!(
                    addresses = dead.len(),
                    ?report,
                    "connections to dead addresses were reset"
                );
            }
            if !report.is_limited {
                return;
            }
            // A herd of clients that try again at once is spread a little.
            sleep(PASS_PAUSE).await;
        }
    }
}

/// For how long an address must be gone: a view that is being put together anew must not cost a connection.
const GRACE: Duration = Duration::from_millis(200);
/// Connections that are reset at once; then there is a pause.
const DESTROYED_PER_PASS: usize = 4_096;
/// See [`DESTROYED_PER_PASS`].
const PASS_PAUSE: Duration = Duration::from_millis(50);
/// Passes for one set of addresses: a million connections and more.
const PASSES_MAX: usize = 256;
