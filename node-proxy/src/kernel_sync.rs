//! Keeps the kernel's tables equal to the mesh view.
//!
//! Which endpoints serve is decided by `tulle-balance`, how they are reached by [`table`]; how the maps are written is the
//! datapath's. This module decides only when: at once after a change, and again after a failure.
//!
//! **Invariant:** before the first view nothing is written, so a restart never empties what the kernel still uses.

pub mod table;
mod touched;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tulle_datapath::{Datapath, KernelTable, ReconcileError, ReconcileReport};
use tulle_model::Directory;

use crate::{
    metrics::KernelSyncMetrics,
    pods::PodsView,
    published::{Published, Publisher},
};

use table::{NodeView, TableCache};
pub use touched::{TouchLog, Touched};

/// Where tables go: the datapath, or a recorder in tests.
pub trait Tables: Send + Sync + 'static {
    /// Makes the kernel's maps equal to `table`; blocks for as long as that takes.
    ///
    /// # Errors
    /// What was done before the failure stays; the next call goes on from there.
    fn reconcile(&self, table: &KernelTable) -> Result<ReconcileReport, ReconcileError>;
}

impl Tables for Datapath {
    fn reconcile(&self, table: &KernelTable) -> Result<ReconcileReport, ReconcileError> {
        Datapath::reconcile(self, table)
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
        let mut cache = TableCache::default();
        // The first change is the first view; what the pods say before it waits.
        self.touched.changed().await;
        let mut failures = 0_u32;
        let mut waiting_since = None;
        loop {
            let touched = self.touched.take();
            waiting_since = waiting_since.or(touched.since);
            let table = self.next_table(&mut cache, &touched);
            if self
                .apply(table, waiting_since.unwrap_or_else(Instant::now))
                .await
            {
                failures = 0;
                waiting_since = None;
                self.touched.changed().await;
            } else {
                failures = failures.saturating_add(1);
                // Changes meanwhile are taken with the retry, not ahead of it: the kernel said no a moment ago.
                sleep(retry_pause(failures)).await;
            }
        }
    }

    fn next_table(&self, cache: &mut TableCache, touched: &Touched) -> KernelTable {
        let directory = self.directory.snapshot();
        let captured = self.pods.snapshot().captured_addresses();
        cache.update(&directory, &self.node, captured, touched);
        let (table, conflicts) = cache.table();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.frontends.set(count(table.frontends.len()));
        self.metrics.backends.set(count(
            table.frontends.iter().map(|f| f.backends.len()).sum(),
        ));
        self.metrics.routes.set(count(table.workloads.len()));
        self.metrics.conflicts.set(count(conflicts));
        table
    }

    /// Writes one table; says whether the kernel took it.
    async fn apply(&self, table: KernelTable, since: Instant) -> bool {
        let started = Instant::now();
        let tables = Arc::clone(&self.tables);
        // Thousands of system calls must not hold up the other tasks of this runtime.
        let result = tokio::task::spawn_blocking(move || tables.reconcile(&table)).await;
        self.metrics
            .reconcile_seconds
            .observe(started.elapsed().as_secs_f64());
        let error = match result {
            Ok(Ok(report)) => {
                tracing::debug!(?report, "kernel tables reconciled");
                self.metrics
                    .lag_seconds
                    .observe(since.elapsed().as_secs_f64());
                self.metrics.reconciled("ok");
                let applied = self.status.snapshot().applied.saturating_add(1);
                self.status.publish(KernelSyncStatus {
                    applied,
                    last_error: None,
                });
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
