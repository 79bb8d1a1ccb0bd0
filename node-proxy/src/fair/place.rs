//! Where a task stands: idle, in line, on its way to its turn, or in it.

use std::{
    future::Future as _,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::Share;

/// A task's place, for all its life; also what its future's wakers wake.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) share: Share,
    state: AtomicU8,
    task: Mutex<Waker>,
}

/// With what a task comes to its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Its turn has come, and is used now.
    WithTurn,
    /// It is not its turn, or there is nothing to do: somebody beside us woke the task.
    WithoutTurn,
    /// It never had a turn and did not ask for one.
    First,
}

impl Place {
    pub(super) fn new(share: Share) -> Self {
        Place {
            share,
            state: AtomicU8::new(NEW),
            task: Mutex::new(Waker::noop().clone()),
        }
    }

    /// The task, woken by `task`, wants to take a step.
    pub(super) fn enter(&self, task: &Waker) -> Entry {
        self.task().clone_from(task);
        if self.goes(CALLED, RUNNING) {
            return Entry::WithTurn;
        }
        match self.state.load(Ordering::Acquire) {
            NEW => Entry::First,
            _ => Entry::WithoutTurn,
        }
    }

    /// The first step is taken at once.
    pub(super) fn begin(&self) {
        self.state.store(RUNNING, Ordering::Release);
    }

    /// The first step has to wait.
    pub(super) fn begin_waiting(&self) {
        self.state.store(WAITING, Ordering::Release);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }

    /// Gives a turn to somebody who waits; false if it has left.
    pub(super) fn is_given_turn(&self) -> bool {
        self.goes(WAITING, CALLED)
    }

    /// Tells the task that its turn has come.
    pub(super) fn call(&self) {
        let task = self.task().clone();
        task.wake();
    }

    /// The same, once the thread that calls has looked whose sockets became ready: as if the task had yielded to them.
    pub(super) fn call_after_look(&self) {
        let task = self.task().clone();
        let mut then = Context::from_waker(&task);
        // The runtime wakes whoever yields after its look; outside of a runtime at once.
        let _not_yet: Poll<()> = pin!(tokio::task::yield_now()).poll(&mut then);
    }

    /// The step is over and another will follow. True if the task was woken meanwhile: it waits for its next turn already.
    pub(super) fn is_woken_again(&self) -> bool {
        !self.goes(RUNNING, IDLE) && self.goes(WOKEN, WAITING)
    }

    /// The task is over. True if it had a turn that it did not use.
    pub(super) fn leave(&self) -> bool {
        let before = self.state.swap(GONE, Ordering::AcqRel);
        // Whoever still has a waker of ours holds no memory of the task.
        *self.task() = Waker::noop().clone();
        before == CALLED
    }

    fn goes(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn task(&self) -> MutexGuard<'_, Waker> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Place {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let woken = |state| match state {
            IDLE => Some(WAITING),
            RUNNING => Some(WOKEN),
            _ => None,
        };
        let before = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, woken);
        if before == Ok(IDLE) {
            self.share.all.ask(self);
        }
    }
}

/// Was never polled.
const NEW: u8 = 0;
/// Waits for what it waits for.
const IDLE: u8 = 1;
/// Is ready, and waits for a turn.
const WAITING: u8 = 2;
/// Has a turn; the runtime will poll it.
const CALLED: u8 = 3;
/// Uses its turn.
const RUNNING: u8 = 4;
/// Uses its turn, and is ready for another.
const WOKEN: u8 = 5;
/// Is over, or was dropped.
const GONE: u8 = 6;
