//! Keeps the compiled rules equal to the policies, here and in the kernel.
//!
//! **Invariant:** a pod that the kernel captures and this task has not compiled yet is pending there: nothing of it passes by
//! itself, and the proxy waits for its rules before it decides.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tulle_datapath::{Datapath, PolicyChanges, PolicyReport, PolicyTable, ReconcileError};
use tulle_model::{ClusterName, Directory, WorkloadUid};
use tulle_policy::compiled::{
    CompiledPolicy, Compiler, CompilerSettings, LimitReached, Limits, PolicyTouched,
};

use super::{
    learner::Learned,
    metrics::PolicyMetrics,
    tables::{self, Uids},
};
use crate::{
    kernel_sync::{PolicyWork, TouchLog},
    pods::PodsView,
    published::{Published, Publisher},
};

/// Where compiled rules go: the datapath, or a recorder in tests.
pub trait PolicyTables: Send + Sync + 'static {
    /// Makes the kernel's tables equal to `table`; blocks for as long as that takes.
    ///
    /// # Errors
    /// What was done before the failure stays; the next call goes on from there.
    fn reconcile_policy(&self, table: &PolicyTable) -> Result<PolicyReport, ReconcileError>;

    /// Makes the kernel's tables, which hold what was written last, hold these changes too; blocks for as long as that takes.
    ///
    /// # Errors
    /// Then only a whole table helps.
    fn apply_policy(&self, changes: &PolicyChanges) -> Result<PolicyReport, ReconcileError>;
}

impl PolicyTables for Datapath {
    fn reconcile_policy(&self, table: &PolicyTable) -> Result<PolicyReport, ReconcileError> {
        Datapath::reconcile_policy(self, table)
    }

    fn apply_policy(&self, changes: &PolicyChanges) -> Result<PolicyReport, ReconcileError> {
        Datapath::apply_policy(self, changes)
    }
}

/// What is known of the compiled rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyStatus {
    /// How often the kernel took them.
    pub applied: u64,
    /// Why it did not the last time, if so.
    pub last_error: Option<String>,
    /// How many of those times may have ended what was allowed before.
    pub narrowed: u64,
    /// The generation of learned names that the kernel decides by.
    pub learned: u64,
    /// Bounds that are reached.
    pub limits: Vec<LimitReached>,
}

/// The task that compiles.
pub struct PolicyKeeper {
    /// The mesh view.
    pub directory: Published<Directory>,
    /// The pods of this node.
    pub pods: Published<PodsView>,
    /// Names that pods asked for.
    pub learned: Published<Learned>,
    /// What changed since the last look.
    pub touched: Arc<TouchLog>,
    /// The kernel.
    pub tables: Arc<dyn PolicyTables>,
    /// The node's cluster.
    pub cluster: ClusterName,
    /// The node's name.
    pub node: String,
    /// What proxies decide by.
    pub compiled: Publisher<CompiledPolicy>,
    /// What others may know.
    pub status: Publisher<PolicyStatus>,
    /// What is measured.
    pub metrics: Arc<PolicyMetrics>,
}

impl PolicyKeeper {
    /// Works until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let _cancelled: Option<()> = cancel.run_until_cancelled(self.keep_equal()).await;
    }

    async fn keep_equal(&self) {
        let mut failures = 0;
        let mut work = self.touched.policy_work().await;
        loop {
            // From nothing: after a failure nobody knows which of the old numbers the kernel still holds.
            let mut compiler = Compiler::new(self.settings());
            let mut uids = Uids::new();
            work.touched = PolicyTouched {
                everything: true,
                ..PolicyTouched::default()
            };
            let mut is_whole = true;
            while self.step(&mut compiler, &mut uids, &work, is_whole).await {
                is_whole = false;
                failures = 0;
                work = self.touched.policy_work().await;
            }
            failures += 1;
            sleep(retry_pause(failures)).await;
        }
    }

    fn settings(&self) -> CompilerSettings {
        CompilerSettings {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            limits: Limits::default(),
        }
    }

    /// Compiles and writes what changed; says whether the kernel took it.
    async fn step(
        &self,
        compiler: &mut Compiler,
        uids: &mut Uids,
        work: &PolicyWork,
        is_whole: bool,
    ) -> bool {
        let started = Instant::now();
        let gone = std::mem::replace(uids, self.subjects());
        let subjects = uids.keys().cloned().collect();
        let directory = self.directory.snapshot();
        let learned = self.learned.snapshot();
        let update = compiler.update(&directory, &subjects, &learned.names, &work.touched);
        self.metrics.compiled(started.elapsed(), &update.usage);
        let limits = update.limits_reached.clone();
        for limit in &limits {
            tracing::error!(%limit, "a bound of the compiled policies is reached");
        }
        let is_narrower = is_whole || tables::may_narrow(&update, &self.compiled.snapshot());
        // Proxies first: what they see of a connection they judge by the newest rules, whatever the kernel let through before.
        self.compiled.publish_arc(compiler.policy());
        let tables = Arc::clone(&self.tables);
        let write = if is_whole {
            let table = tables::whole(update, uids);
            tokio::task::spawn_blocking(move || tables.reconcile_policy(&table).map(Some))
        } else if update.is_empty() {
            tokio::task::spawn_blocking(|| Ok(None))
        } else {
            let changes = tables::changes(update, uids, &gone);
            tokio::task::spawn_blocking(move || tables.apply_policy(&changes).map(Some))
        };
        let last_error = match write.await {
            Ok(Ok(_report)) => None,
            Ok(Err(error)) => Some(crate::run::chain(&error)),
            Err(panicked) => Some(panicked.to_string()),
        };
        let is_written = last_error.is_none();
        if let Some(error) = &last_error {
            tracing::error!(
                error,
                "the kernel's policy tables cannot be brought up to date"
            );
        } else {
            self.metrics.enforced(work.since.elapsed());
        }
        let PolicyStatus {
            applied,
            narrowed,
            learned: before,
            ..
        } = *self.status.snapshot();
        self.status.publish(PolicyStatus {
            learned: if is_written {
                learned.generation
            } else {
                before
            },
            applied: applied.saturating_add(u64::from(is_written)),
            // What a failed write left is looked at after the whole table that follows it.
            narrowed: narrowed.saturating_add(u64::from(is_written && is_narrower)),
            last_error,
            limits,
        });
        is_written
    }

    /// The pods whose rules are compiled: those that are captured, and those that will be.
    fn subjects(&self) -> Uids {
        let pods = self.pods.snapshot();
        let listed = pods.pods.values().map(|pod| &pod.descriptor);
        let all = pods.adopted_pods.iter().chain(listed);
        all.map(|pod| {
            let name = WorkloadUid::of_pod(&self.cluster, &pod.namespace, &pod.name);
            (name, pod.uid.clone())
        })
        .collect()
    }
}

/// 50 ms after the first failure, doubled up to 5 s.
fn retry_pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX)
}

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
