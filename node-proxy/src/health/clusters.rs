//! When a silent cluster counts as dead.
//!
//! A cluster whose control plane is silent is only *demoted*: its endpoints may be well, and then nobody loses a connection. It
//! counts as **dead** when, beside that, its endpoints do not answer: in `ROUNDS` rounds in a row, a second apart, each of up to
//! `SAMPLE` of them, chosen at random, left a connect from inside one of this node's pods unanswered, or there was no way. A
//! refusal is an answer. One that answers begins the count anew, and a cluster that is no longer silent is out of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use rand::seq::IteratorRandom as _;
use tokio::time::Instant;
use tulle_model::{ClusterName, Directory};

use super::{Health, door};

/// The addresses of each silent cluster.
pub(crate) type SilentClusters = BTreeMap<ClusterName, BTreeSet<IpAddr>>;

/// Tries whether somebody is at an address.
pub trait Probe: Send + Sync {
    /// Connects, and lets go of the connection at once.
    fn probe(&self, address: SocketAddr) -> BoxFuture<'_, ProbeOutcome>;
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Somebody answered, be it with a refusal.
    Answered,
    /// Nobody did, or there is no way.
    Unanswered,
    /// It could not be tried.
    Unknown,
}

impl ProbeOutcome {
    /// The name in metrics: a closed set.
    pub(super) fn name(self) -> &'static str {
        match self {
            ProbeOutcome::Answered => "answered",
            ProbeOutcome::Unanswered => "unanswered",
            ProbeOutcome::Unknown => "unknown",
        }
    }
}

/// What is known of each silent cluster.
#[derive(Default)]
pub(super) struct Suspicions(BTreeMap<ClusterName, Suspicion>);

struct Suspicion {
    /// Rounds in a row in which nobody answered.
    rounds: u32,
    is_dead: bool,
    next_round: Instant,
}

impl Suspicions {
    /// When there is something to do, if there is.
    pub(super) fn next_round(&self) -> Option<Instant> {
        self.0.values().map(|suspicion| suspicion.next_round).min()
    }

    /// Begins with those that fell silent, forgets those that are heard again.
    pub(super) fn follow(&mut self, silent: &SilentClusters) {
        self.0.retain(|cluster, _| silent.contains_key(cluster));
        let now = Instant::now();
        for cluster in silent.keys() {
            self.0.entry(cluster.clone()).or_insert(Suspicion {
                rounds: 0,
                is_dead: false,
                next_round: now,
            });
        }
    }

    /// Plays the rounds that are due; returns the clusters that died by them.
    pub(super) async fn play(
        &mut self,
        silent: &SilentClusters,
        directory: &Directory,
        probe: &Arc<dyn Probe>,
        tunnel_port: u16,
        health: &Health,
    ) -> Vec<ClusterName> {
        let now = Instant::now();
        let mut died = Vec::new();
        for (cluster, suspicion) in &mut self.0 {
            if suspicion.next_round > now {
                continue;
            }
            let addresses = silent.get(cluster).into_iter().flatten();
            let sample = addresses.choose_multiple(&mut rand::rng(), SAMPLE);
            let doors = sample
                .into_iter()
                .filter_map(|address| door(directory, *address, tunnel_port));
            let outcomes = join_all(doors.map(|door| probe.probe(door))).await;
            for outcome in &outcomes {
                health.metrics.probed(outcome.name());
            }
            if suspicion.judge(&outcomes) {
                died.push(cluster.clone());
            }
        }
        let dead = self.0.values().filter(|suspicion| suspicion.is_dead);
        health.metrics.set_dead_clusters(dead.count());
        died
    }
}

impl Suspicion {
    /// Notes a round; says whether the cluster died by it.
    fn judge(&mut self, outcomes: &[ProbeOutcome]) -> bool {
        let is_unanswered = |outcome: &ProbeOutcome| matches!(outcome, ProbeOutcome::Unanswered);
        let was_dead = self.is_dead;
        if outcomes.contains(&ProbeOutcome::Answered) {
            self.rounds = 0;
            self.is_dead = false;
        } else if !outcomes.is_empty() && outcomes.iter().all(is_unanswered) {
            self.rounds = self.rounds.saturating_add(1);
            self.is_dead = self.rounds >= ROUNDS;
        }
        let pause = if self.rounds == 0 || self.is_dead {
            CALM_PAUSE
        } else {
            ROUND_PAUSE
        };
        self.next_round = Instant::now() + pause;
        self.is_dead && !was_dead
    }
}

/// Endpoints of a cluster that one round tries.
const SAMPLE: usize = 8;
/// Rounds without an answer after which a silent cluster counts as dead.
const ROUNDS: u32 = 2;
/// Between the rounds of a suspected cluster.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Between the rounds of a silent cluster that answers, or is known to be dead.
const CALM_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rounds: &[&[ProbeOutcome]], expected: &[bool]) {
        let mut suspicion = Suspicion {
            rounds: 0,
            is_dead: false,
            next_round: Instant::now(),
        };
        let died: Vec<bool> = rounds.iter().map(|round| suspicion.judge(round)).collect();
        assert_eq!(died, expected, "{rounds:?}");
    }

    #[test]
    fn only_silence_of_all_in_two_rounds_is_death() {
        use ProbeOutcome::{Answered, Unanswered, Unknown};
        check(&[&[Unanswered; 8], &[Unanswered; 8]], &[false, true]);
        check(
            &[&[Unanswered], &[Unanswered], &[Unanswered]],
            &[false, true, false],
        );
        check(
            &[&[Unanswered], &[Unanswered, Answered], &[Unanswered]],
            &[false; 3],
        );
        check(&[&[Unanswered, Unknown], &[Unknown], &[]], &[false; 3]);
        check(
            &[
                &[Unanswered],
                &[Unknown],
                &[Unanswered],
                &[Answered],
                &[Unanswered],
                &[Unanswered],
            ],
            &[false, false, true, false, false, true],
        );
    }
}
