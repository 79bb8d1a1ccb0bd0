//! What a pod's keeper knows of it, and how the controller hears of it.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::watch::Bell;

/// A pod as its keeper sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PodView {
    /// Its namespace and capture stand: containers may start.
    pub(super) sandbox_ready: bool,
    /// Why it does not get on, if so: reason and sentence.
    pub(super) trouble: Option<(String, String)>,
    /// Its containers, in the order of the specification.
    pub(super) containers: Vec<ContainerView>,
}

impl PodView {
    /// Nothing runs: what was known of earlier runs is over.
    pub(super) fn forget_runs(&mut self) {
        self.sandbox_ready = false;
        for container in &mut self.containers {
            (container.started, container.ready) = (false, false);
            container.state = ContainerState::creating();
        }
    }
}

impl ContainerState {
    /// The state of a container that has never run.
    fn creating() -> ContainerState {
        ContainerState::Waiting {
            reason: "ContainerCreating".to_owned(),
            message: String::new(),
        }
    }
}

/// A container as its keeper sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerView {
    pub(super) name: String,
    pub(super) state: ContainerState,
    pub(super) last: Option<Ended>,
    pub(super) restarts: u32,
    pub(super) started: bool,
    pub(super) ready: bool,
}

/// The state of a container, in Kubernetes' three words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContainerState {
    Waiting { reason: String, message: String },
    Running { since: String },
    Terminated(Ended),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) started_at: String,
    pub(super) finished_at: String,
}

/// What the controller and the threads of one pod share.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    bell: Bell,
}

/// The shared state.
#[derive(Default)]
pub(super) struct State {
    /// What is seen of the pod.
    pub(super) view: PodView,
    /// The pod shall end.
    pub(super) stopping: bool,
    /// The pod's containers shall end now.
    pub(super) terminating: bool,
    /// Grows when a ConfigMap of the pod changes.
    pub(super) config_revision: u64,
    /// Nothing is left of the pod.
    pub(super) finished: bool,
    /// The present run of each container.
    pub(super) runs: Vec<Run>,
}

/// One run of a container's process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// The exit code, once the first process has ended.
    pub(super) exit_code: Option<i32>,
    /// Why the liveness or startup probe wants it to end.
    pub(super) unhealthy: Option<String>,
    /// The keeper has given it up: its probes end.
    pub(super) over: bool,
}

impl Shared {
    pub(super) fn new(bell: Bell, names: impl Iterator<Item = String>) -> Shared {
        let containers: Vec<ContainerView> = names
            .map(|name| ContainerView {
                name,
                state: ContainerState::creating(),
                last: None,
                restarts: 0,
                started: false,
                ready: false,
            })
            .collect();
        let runs = vec![Run::default(); containers.len()];
        let view = PodView {
            containers,
            ..PodView::default()
        };
        let state = Mutex::new(State {
            view,
            runs,
            ..State::default()
        });
        Shared {
            state,
            changed: Condvar::new(),
            bell,
        }
    }

    /// Looks at the state.
    pub(super) fn look(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left a state of plain facts behind: it is as good as before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells the pod's threads and the controller.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.look());
        self.changed.notify_all();
        self.bell.ring();
        answer
    }

    /// Waits until `condition` holds, at most until `deadline`; says whether it held.
    pub(super) fn wait_until(
        &self,
        deadline: Option<Instant>,
        condition: impl Fn(&State) -> bool,
    ) -> bool {
        let mut state = self.look();
        loop {
            if condition(&state) {
                return true;
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => IDLE_WAIT,
            };
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for `time` unless the pod is stopped before; says whether it goes on.
    pub(super) fn pause(&self, time: Duration) -> bool {
        !self.wait_until(Some(Instant::now() + time), |state| state.stopping)
    }
}

/// A wait without a deadline looks again this often.
const IDLE_WAIT: Duration = Duration::from_secs(3600);
