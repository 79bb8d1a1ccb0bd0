//! The task that brings together what the kernel saw, what time does, and the kernel's tables.

use std::{io, sync::Arc};

use tokio::{io::unix::AsyncFd, time::sleep};
use tokio_util::sync::CancellationToken;
use tulle_datapath::{ConnectEvent, ConnectEvents, ConnectOutcome};
use tulle_model::{ClusterName, Directory, Workload};

use super::{Failure, Health, Turned, Witness};
use crate::{
    kernel_sync::{TouchLog, Touched},
    published::Published,
    ring,
};

/// Reads the kernel's events and tells `kernel_sync` which endpoints went out or came back.
pub struct HealthKeeper {
    /// The book.
    pub health: Arc<Health>,
    /// The cluster of this node.
    pub cluster: ClusterName,
    /// The mesh view.
    pub directory: Published<Directory>,
    /// Where changes for the kernel's tables are collected.
    pub touched: Arc<TouchLog>,
    /// What the kernel saw.
    pub events: Option<ConnectEvents>,
}

impl HealthKeeper {
    /// Works until it is cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        // Cancelling between two steps loses nothing that a successor would want to know.
        let _cancelled: Option<()> = cancel.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&mut self) {
        let events = self.events.take().map(ring::watch).transpose();
        let mut events = events.unwrap_or_else(|error| {
            tracing::error!(%error, "connections that lead straight to an endpoint are not watched");
            None
        });
        loop {
            let touched = self.health.take_touched();
            if touched != Turned::default() {
                self.tell(touched);
            }
            let expiry = self.health.next_expiry();
            // All arms are cancel-safe: what is not read stays in the ring, a notice that is not taken stays.
            tokio::select! {
                () = self.health.changed.notified() => {}
                () = async {
                    match expiry {
                        Some(pause) => sleep(pause).await,
                        None => std::future::pending().await,
                    }
                } => {}
                result = read(&mut events, &self.cluster, &self.health, &self.directory) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "connections that lead straight to an endpoint are no longer watched");
                        events = None;
                    }
                }
            }
        }
    }

    fn tell(&self, turned: Turned) {
        let (directory, mut touched) = (self.directory.snapshot(), Touched::default());
        touched.note_addresses(&directory, turned.addresses.into_iter());
        if !turned.clusters.is_empty() {
            let is_theirs = |w: &&Arc<Workload>| turned.clusters.contains(&w.cluster);
            for workload in directory.workloads().filter(is_theirs) {
                touched.services.extend(workload.services.keys().cloned());
            }
        }
        self.touched.add(touched);
    }
}

/// Waits for events and notes some of them: the others wait in the ring until the tables know of these.
async fn read(
    events: &mut Option<AsyncFd<ConnectEvents>>,
    own: &ClusterName,
    health: &Health,
    directory: &Published<Directory>,
) -> io::Result<()> {
    let Some(events) = events else {
        return std::future::pending().await;
    };
    let mut ready = events.readable_mut().await?;
    let directory = directory.snapshot();
    for _ in 0..EVENTS_PER_TURN {
        match ready.get_inner_mut().take_next() {
            Some(event) => note(own, health, &directory, event),
            None => {
                ready.clear_ready();
                break;
            }
        }
    }
    Ok(())
}

fn note(own: &ClusterName, health: &Health, directory: &Directory, event: ConnectEvent) {
    let failure = match event.outcome {
        ConnectOutcome::Refused => Failure::Refused,
        ConnectOutcome::Unreachable => Failure::Unreachable,
        ConnectOutcome::Silent => Failure::Silent,
        ConnectOutcome::Recovered => return health.record_success(event.backend),
    };
    health.record_failure(own, directory, event.backend, failure, Witness::Kernel);
}

/// A flood of failures must not keep the ejections that follow from the first ones from the tables.
const EVENTS_PER_TURN: usize = 256;
