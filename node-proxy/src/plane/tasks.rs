//! The tasks of one pod: spawned here, waited for in drain, and cut when the drain's time is over.
//!
//! Whatever a task does, it takes each of its steps in the pod's turn: so nothing of a pod, whether judged, carried, accepted or
//! shaken hands with, takes more of the proxy than the pod's share.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::fair::Share;

/// A set of tasks that end together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Tasks that serve the others, and end when those have.
    servants: TaskTracker,
    /// Stop to take new work, finish what is under way.
    draining: CancellationToken,
    live: Arc<Mutex<Live>>,
    share: Share,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    handles: HashMap<u64, AbortHandle>,
    is_cut: bool,
}

impl Tasks {
    /// Tasks that take their steps in turns of `share`.
    pub(crate) fn new(share: Share) -> Self {
        Tasks {
            share,
            ..Tasks::default()
        }
    }

    /// Runs `work` until it ends or everything is cut.
    ///
    /// Costs little beside `work` itself: tasks are as many as connections.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(&self.tracker, work);
    }

    /// Runs `work` as long as the tasks that it serves: a drain does not wait for it, and ends it after them.
    pub(crate) fn spawn_servant(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(&self.servants, work);
    }

    fn spawn_in(&self, tracker: &TaskTracker, work: impl Future<Output = ()> + Send + 'static) {
        let mut live = self.lock();
        if live.is_cut {
            return;
        }
        live.next += 1;
        let key = live.next;
        let entry = Entry {
            live: Arc::clone(&self.live),
            key,
        };
        // Not an async block, which would hold `work` twice.
        let handle = tracker.spawn(self.share.run(work.map(move |()| drop(entry))));
        // The task may be over already: its entry waits for this lock, and is taken out after it was put in.
        live.handles.insert(key, handle.abort_handle());
    }

    /// Resolves when the drain begins.
    pub(crate) async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Begins the drain, waits for all tasks until the deadline, then cuts the rest. Says whether all ended by themselves.
    pub(crate) async fn drain(&self, deadline: Duration) -> bool {
        self.draining.cancel();
        self.tracker.close();
        let finished = tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok();
        self.cut();
        self.tracker.wait().await;
        self.servants.close();
        self.servants.wait().await;
        finished
    }

    /// Cuts everything without waiting.
    pub(crate) fn cut(&self) {
        self.draining.cancel();
        let handles = {
            let mut live = self.lock();
            live.is_cut = true;
            std::mem::take(&mut live.handles)
        };
        for handle in handles.values() {
            handle.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the task's handle out however the task ends.
struct Entry {
    live: Arc<Mutex<Live>>,
    key: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let _handle = live.handles.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_ends_what_a_drain_cannot() {
        let tasks = Tasks::default();
        let held = Arc::new(());
        let holder = Arc::clone(&held);
        tasks.spawn(async move {
            std::future::pending::<()>().await;
            drop(holder);
        });
        tasks.spawn(async {});
        assert!(!tasks.drain(Duration::from_millis(10)).await);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(tasks.lock().handles.is_empty());
    }

    #[tokio::test]
    async fn a_servant_ends_with_those_it_serves() {
        let tasks = Tasks::default();
        let (asked, mut questions) = tokio::sync::mpsc::channel::<()>(1);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let held = Arc::new(());
        let holder = Arc::clone(&held);
        tasks.spawn_servant(async move {
            questions.recv().await;
            let _told = answer.send(());
            std::future::pending::<()>().await;
            drop(holder);
        });
        let draining = tasks.clone();
        tasks.spawn(async move {
            draining.draining().await;
            asked.send(()).await.unwrap();
            answered.await.unwrap();
        });
        assert!(tasks.drain(Duration::from_secs(10)).await);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn finished_tasks_leave_nothing_behind() {
        let tasks = Tasks::default();
        for _ in 0..100 {
            tasks.spawn(async {});
        }
        assert!(tasks.drain(Duration::from_secs(10)).await);
        assert!(tasks.lock().handles.is_empty());
    }
}
