//! Keeps the kernel's tables equal to the mesh view.
//!
//! Which endpoints serve is decided by `tulle-balance`, how they are reached by [`table`]; how the maps are written is the
//! datapath's. This module decides only when: at once after a change, and again after a failure. A change costs what it touches:
//! the kernel gets the whole table at first and after a failure, and only differences otherwise.
//!
//! **Invariant:** before the first view nothing is written, so a restart never empties what the kernel still uses.

pub mod table;
mod touched;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tulle_datapath::{Datapath, KernelTable, ReconcileError, ReconcileReport, TableChanges};
use tulle_model::Directory;

use crate::{
    health::Health,
    metrics::KernelSyncMetrics,
    pods::PodsView,
    published::{Published, Publisher},
};

use table::{NodeView, Sources, TableCache};
pub use touched::{PolicyWork, TouchLog, Touched};

/// Where tables go: the datapath, or a recorder in tests.
pub trait Tables: Send + Sync + 'static {
    /// Makes the kernel's maps equal to `table`; blocks for as long as that takes.
    ///
    /// # Errors
    /// What was done before the failure stays; the next call goes on from there.
    fn reconcile(&self, table: &KernelTable) -> Result<ReconcileReport, ReconcileError>;

    /// Makes the kernel's maps, which hold the last table, hold these changes too; blocks for as long as that takes.
    ///
    /// # Errors
    /// Then only a whole table helps.
    fn apply(&self, changes: &TableChanges) -> Result<ReconcileReport, ReconcileError>;
}

impl Tables for Datapath {
    fn reconcile(&self, table: &KernelTable) -> Result<ReconcileReport, ReconcileError> {
        Datapath::reconcile(self, table)
    }

    fn apply(&self, changes: &TableChanges) -> Result<ReconcileReport, ReconcileError> {
        Datapath::apply(self, changes)
    }
}

/// What is known of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelSyncStatus {
    /// How many reconciliations succeeded.
    pub applied: u64,
    /// Why the last one failed, if it did.
    pub last_error: Option<String>,
}

/// The task that reconciles.
pub struct KernelSync {
    /// The mesh view.
    pub directory: Published<Directory>,
    /// The pods of this node.
    pub pods: Published<PodsView>,
    /// What changed since the last look.
    pub touched: Arc<TouchLog>,
    /// Who could not be reached a moment ago, and who is told of addresses that are gone.
    pub health: Arc<Health>,
    /// The kernel.
    pub tables: Arc<dyn Tables>,
    /// From where the mesh is seen.
    pub node: NodeView,
    /// What is measured.
    pub metrics: Arc<KernelSyncMetrics>,
    /// What others may know.
    pub status: Publisher<KernelSyncStatus>,
}

impl KernelSync {
    /// Works until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        // Cancelling between two steps loses nothing: what the maps lack is found by the next process.
        let _cancelled: Option<()> = cancel.run_until_cancelled(self.keep_equal()).await;
    }

    async fn keep_equal(&self) {
        let mut work = Work::default();
        // The first change is the first view; what the pods say before it waits.
        self.touched.changed().await;
        loop {
            let touched = self.touched.take();
            work.waiting_since = work.waiting_since.or(touched.since);
            let step = self.next_step(&mut work, &touched);
            if self.apply(step, &work).await {
                work.failures = 0;
                work.waiting_since = None;
                // Only now: a client that is reset must not be led to the same address once more.
                self.health.note_gone(std::mem::take(&mut work.gone));
                self.touched.changed().await;
            } else {
                work.failures = work.failures.saturating_add(1);
                // Changes meanwhile are taken with the retry, not ahead of it: the kernel said no a moment ago.
                sleep(retry_pause(work.failures)).await;
            }
        }
    }

    fn next_step(&self, work: &mut Work, touched: &Touched) -> Step {
        let directory = self.directory.snapshot();
        let captured = self.pods.snapshot().captured_addresses();
        let ejected = self.health.ejected();
        let sources = Sources {
            directory: &directory,
            node: &self.node,
            captured: &captured,
            ejected: &ejected,
        };
        let update = work.cache.update(&sources, touched);
        work.gone.extend(update.gone);
        if update.is_silence_changed {
            self.health.set_silent(work.cache.silent().clone());
        }
        let sizes = work.cache.sizes();
        let gauges = [
            &self.metrics.frontends,
            &self.metrics.backends,
            &self.metrics.routes,
            &self.metrics.conflicts,
        ];
        for (gauge, size) in gauges.into_iter().zip(sizes) {
            gauge.set(gauge_value(size));
        }
        // At first nobody knows what the maps hold, and after a failure neither.
        let is_known = work.is_begun && work.failures == 0;
        work.is_begun = true;
        if is_known {
            Step::Changes(update.changes)
        } else {
            Step::Whole(work.cache.table())
        }
    }

    /// Takes one step; says whether the kernel took it.
    async fn apply(&self, step: Step, work: &Work) -> bool {
        let started = Instant::now();
        let tables = Arc::clone(&self.tables);
        // Thousands of system calls must not hold up the other tasks of this runtime.
        let result = tokio::task::spawn_blocking(move || match step {
            Step::Whole(table) => tables.reconcile(&table).map(Some),
            Step::Changes(changes) if changes.is_empty() => Ok(None),
            Step::Changes(changes) => tables.apply(&changes).map(Some),
        })
        .await;
        self.metrics
            .reconcile_seconds
            .observe(started.elapsed().as_secs_f64());
        let error = match result {
            Ok(Ok(report)) => {
                tracing::debug!(?report, "kernel tables reconciled");
                let since = work.waiting_since.unwrap_or(started);
                self.metrics
                    .lag_seconds
                    .observe(since.elapsed().as_secs_f64());
                self.note_success(report);
                return true;
            }
            Ok(Err(error)) => crate::run::chain(&error),
            Err(panicked) => panicked.to_string(),
        };
        tracing::error!(error, "the kernel's tables cannot be brought up to date");
        self.metrics.reconciled("failed");
        let applied = self.status.snapshot().applied;
        self.status.publish(KernelSyncStatus {
            applied,
            last_error: Some(error),
        });
        false
    }

    /// There is no report when the change touched nothing that the kernel knows.
    fn note_success(&self, report: Option<ReconcileReport>) {
        self.metrics.reconciled("ok");
        let without_table = report.map_or(0, |report| gauge_value(report.without_table));
        if report.is_some() && without_table > self.metrics.without_table.set(without_table) {
            tracing::warn!(
                without_table,
                "services that should choose by Maglev choose at random: there are too many of them"
            );
        }
        let applied = self.status.snapshot().applied.saturating_add(1);
        self.status.publish(KernelSyncStatus {
            applied,
            last_error: None,
        });
    }
}

/// What is kept from one step to the next.
#[derive(Default)]
struct Work {
    cache: TableCache,
    is_begun: bool,
    failures: u32,
    /// When the first change became visible that the kernel does not know.
    waiting_since: Option<Instant>,
    /// Addresses that nobody has any more, of which the kernel does not know yet.
    gone: Vec<IpAddr>,
}

/// What the kernel gets.
enum Step {
    Whole(KernelTable),
    Changes(TableChanges),
}

fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// 50 ms after the first failure, doubled up to 5 s.
fn retry_pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX)
}

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
#[cfg(test)]
mod tests;
