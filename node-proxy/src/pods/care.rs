//! The care for one pod, from the file's appearance to its end: one task, so that nothing of one pod ever happens twice at once.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use super::{
    PodDescriptor, PodRunner, PodState, RunningPod, Stop,
    directory::{Marker, PodDirectory},
};

/// What the directory wants of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// That this pod is captured.
    Pod(PodDescriptor),
    /// That it is released.
    Nothing,
    /// That it is drained, and stays captured for the next process.
    Shutdown,
}

/// News of one pod.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) key: String,
    pub(super) descriptor: PodDescriptor,
    pub(super) state: PodState,
}

/// Cares for one pod.
pub(super) struct Carer {
    pub(super) key: String,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) runner: Arc<dyn PodRunner>,
    pub(super) directory: Arc<PodDirectory>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) starts: Arc<Semaphore>,
    pub(super) drain_timeout: Duration,
}

impl Carer {
    /// Cares until the pod is gone; returns its key.
    pub(super) async fn run(mut self) -> String {
        let mut failures = 0_u32;
        loop {
            let Wanted::Pod(pod) = self.wanted.borrow_and_update().clone() else {
                break;
            };
            self.report(&pod, PodState::Starting).await;
            match self.start(&pod).await {
                Ok(running) => {
                    failures = 0;
                    self.directory.mark(&self.key, Marker::Captured, &pod.uid);
                    self.report(&pod, PodState::Captured).await;
                    let stop = self.until_unwanted(&pod).await;
                    self.directory.unmark(&self.key);
                    self.report(&pod, PodState::Draining).await;
                    running.stop(stop, self.deadline(stop)).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::error!(pod = self.key, error, "a pod cannot be captured");
                    self.directory.mark(&self.key, Marker::Error, &error);
                    self.report(&pod, PodState::Failed(error)).await;
                    // Another description is tried at once, the same one after a pause.
                    let _changed = timeout(retry_pause(failures), self.wanted.changed()).await;
                }
            }
        }
        self.directory.unmark(&self.key);
        self.key
    }

    async fn start(&self, pod: &PodDescriptor) -> Result<Box<dyn RunningPod>, String> {
        let _place = self
            .starts
            .acquire()
            .await
            .map_err(|closed| closed.to_string())?;
        self.runner
            .start(pod.clone())
            .await
            .map_err(|error| crate::run::chain(error.as_ref()))
    }

    /// Waits until something else than `pod` is wanted.
    async fn until_unwanted(&mut self, pod: &PodDescriptor) -> Stop {
        let other = |wanted: &Wanted| !matches!(wanted, Wanted::Pod(now) if now == pod);
        match self.wanted.wait_for(other).await.as_deref() {
            Ok(Wanted::Pod(_) | Wanted::Nothing) => Stop::PodGone,
            // A keeper that is gone cannot have asked to release anything.
            Ok(Wanted::Shutdown) | Err(_) => Stop::Shutdown,
        }
    }

    fn deadline(&self, stop: Stop) -> Duration {
        match stop {
            Stop::PodGone => self.drain_timeout.min(GONE_DRAIN_MAX),
            Stop::Shutdown => self.drain_timeout,
        }
    }

    async fn report(&self, pod: &PodDescriptor, state: PodState) {
        let report = Report {
            key: self.key.clone(),
            descriptor: pod.clone(),
            state,
        };
        // Without a keeper there is nobody to tell.
        let _keeper_gone = self.reports.send(report).await;
    }
}

/// One second after the first failure, doubled up to 30 s.
fn retry_pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(8);
    RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX)
}

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// When the plugin takes the file away, the pod's processes have ended; what is left are the last bytes of closed connections.
const GONE_DRAIN_MAX: Duration = Duration::from_secs(2);
