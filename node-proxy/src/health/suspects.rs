//! When another cluster counts as out of reach.
//!
//! A cut link takes all endpoints of a cluster at once, and each of them would cost a connection before it is left out by itself:
//! with hundreds of them, the cut would be felt for minutes. So the first failure makes the whole cluster suspected, and suspected
//! endpoints serve only where nobody else does. That may be wrong, as one dead pod looks the same from here; so others of the
//! cluster's endpoints are asked at once, `SAMPLE` of them, chosen at random, from inside one of this node's pods. The first
//! answer, which takes a round trip, clears the cluster. Without one it stays suspected, and is asked again every `ROUND_PAUSE`.
//!
//! A cluster that was cleared is not suspected anew for `CLEARED_FOR`: a dead node with many endpoints must not make its cluster
//! flap.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use rand::seq::IteratorRandom as _;
use tokio::time::{Instant, sleep};
use tulle_model::{ClusterName, Directory};

use super::{Book, Health, Probe, ProbeOutcome, door};
use crate::published::Published;

/// The clusters that are suspected, or were a moment ago.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<ClusterName, State>);

#[derive(Debug, Clone, Copy)]
enum State {
    Suspected,
    Cleared(Instant),
}

impl Suspects {
    /// Who is suspected.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        let suspected = |state: &State| matches!(state, State::Suspected);
        let all = self.0.iter();
        all.filter(move |(_, state)| suspected(state))
            .map(|(cluster, _)| cluster)
    }

    /// Says whether that is news.
    fn suspect(&mut self, cluster: &ClusterName) -> bool {
        let now = Instant::now();
        match self.0.get(cluster) {
            Some(State::Suspected) => false,
            Some(State::Cleared(at)) if now.duration_since(*at) < CLEARED_FOR => false,
            Some(State::Cleared(_)) | None => {
                self.0.insert(cluster.clone(), State::Suspected);
                true
            }
        }
    }

    /// Says whether it was suspected.
    fn clear(&mut self, cluster: &ClusterName) -> bool {
        let cleared = State::Cleared(Instant::now());
        let before = self.0.insert(cluster.clone(), cleared);
        self.0.retain(|_, state| match state {
            State::Suspected => true,
            State::Cleared(at) => at.elapsed() < CLEARED_FOR,
        });
        matches!(before, Some(State::Suspected))
    }
}

impl Health {
    /// Says whether that is news; the caller publishes.
    pub(super) fn suspect(&self, book: &mut Book, cluster: &ClusterName) -> bool {
        let is_news = book.suspects.suspect(cluster);
        if is_news {
            tracing::warn!(%cluster, "a cluster is avoided until one of its endpoints answers");
            self.metrics.suspicions.inc();
            book.touched.clusters.insert(cluster.clone());
            self.suspected.notify_one();
        }
        is_news
    }

    /// One of the cluster's endpoints answered, or there is none left that could.
    fn clear(&self, cluster: &ClusterName) {
        let now = self.now();
        let mut book = self.lock();
        if book.suspects.clear(cluster) {
            tracing::info!(%cluster, "a cluster is no longer avoided");
            book.touched.clusters.insert(cluster.clone());
            self.publish(&book, now);
        }
    }

    fn suspects(&self) -> Vec<ClusterName> {
        self.lock().suspects.clusters().cloned().collect()
    }
}

/// Asks endpoints of suspected clusters whether they are there.
pub(super) struct Suspector {
    /// Who knows which clusters are suspected.
    pub(super) health: Arc<Health>,
    /// The mesh view.
    pub(super) directory: Published<Directory>,
    /// How endpoints are tried.
    pub(super) probe: Arc<dyn Probe>,
    /// Where the tunnels of workloads end.
    pub(super) tunnel_port: u16,
}

impl Suspector {
    /// Works until it is dropped.
    pub(super) async fn work(&self) {
        loop {
            let suspects = self.health.suspects();
            if suspects.is_empty() {
                self.health.suspected.notified().await;
                continue;
            }
            let rounds = suspects.iter().map(|cluster| self.ask(cluster));
            futures::future::join_all(rounds).await;
            // Both arms are cancel-safe; a notice that is not taken stays.
            tokio::select! {
                () = self.health.suspected.notified() => {}
                () = sleep(ROUND_PAUSE) => {}
            }
        }
    }

    /// One round: the first answer ends it.
    async fn ask(&self, cluster: &ClusterName) {
        let doors = {
            let directory = self.directory.snapshot();
            let workloads = directory.workloads();
            let theirs = workloads.filter(|workload| workload.cluster == *cluster);
            let sample = theirs.choose_multiple(&mut rand::rng(), SAMPLE);
            let doors = sample.into_iter().filter_map(|workload| {
                let address = workload.addresses.first()?;
                door(&directory, *address, self.tunnel_port)
            });
            doors.collect::<Vec<_>>()
        };
        if doors.is_empty() {
            return self.health.clear(cluster);
        }
        let mut probes: FuturesUnordered<_> = doors
            .into_iter()
            .map(|door| self.probe.probe(door))
            .collect();
        while let Some(outcome) = probes.next().await {
            self.health.metrics.probed(outcome.name());
            match outcome {
                ProbeOutcome::Answered => return self.health.clear(cluster),
                // Nobody here can ask: then nobody here connects either, and the next who does shall find out.
                ProbeOutcome::Unknown if probes.is_empty() => return self.health.clear(cluster),
                ProbeOutcome::Unanswered | ProbeOutcome::Unknown => {}
            }
        }
    }
}

/// Endpoints of a cluster that one round asks.
const SAMPLE: usize = 8;
/// Between the rounds while nobody answers.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// For how long a cluster that answered is not suspected again.
const CLEARED_FOR: Duration = Duration::from_secs(1);
