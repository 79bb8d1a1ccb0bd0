//! Whose turn it is, where pods share the proxy.
//!
//! A runtime serves tasks in the order in which they become ready: a pod with a thousand busy connections gets a thousand turns
//! for one of its neighbour's. Here a connection that is ready asks for a turn, and turns go to the pod that has used the least
//! time. So a flood costs its own workload its latency, and each
//! neighbour gets its share of the proxy, however many connections the flood has. Envoy, shared by a node, has no such notion;
//! ztunnel neither.
//!
//! Time is measured, not requests counted: a pod whose requests are expensive to judge pays for that.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// The turns of all pods of a node.
#[derive(Debug)]
pub struct FairShare {
    state: Mutex<State>,
    turns_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Turns that are being used, or were given to somebody who is on the way.
    turns: usize,
    /// Time that a pod must have used to stand where it would if it had been busy all the time.
    clock: Duration,
    waiting: Vec<Arc<Account>>,
}

/// What one pod has used.
#[derive(Debug, Default)]
struct Account {
    state: Mutex<AccountState>,
}

#[derive(Debug, Default)]
struct AccountState {
    used: Duration,
    queue: VecDeque<Arc<Ticket>>,
}

/// Somebody who waits for a turn.
#[derive(Debug)]
struct Ticket {
    is_called: AtomicBool,
    waker: Mutex<Waker>,
}

/// A pod's part in the turns.
#[derive(Debug, Clone)]
pub struct Share {
    all: Arc<FairShare>,
    account: Arc<Account>,
}

impl Default for FairShare {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores * TURNS_PER_CORE)
    }
}

impl FairShare {
    /// With this many turns at once.
    pub fn new(turns_max: usize) -> Self {
        FairShare {
            state: Mutex::default(),
            turns_max: turns_max.max(1),
        }
    }

    /// A pod's part.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            all: Arc::clone(self),
            account: Arc::default(),
        }
    }

    /// Takes a place in the queue.
    ///
    /// Also while turns are free: whoever is called goes once more through the runtime's own queue, and meanwhile all who are ready
    /// come to stand in ours. Without that a runtime of one thread, which polls one after the other, would never see two ask at once.
    fn ask(&self, account: &Arc<Account>, waker: &Waker) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket {
            is_called: AtomicBool::new(false),
            waker: Mutex::new(waker.clone()),
        });
        let called = {
            let mut state = lock(&self.state);
            let mut own = lock(&account.state);
            if own.queue.is_empty() {
                own.used = own.used.max(state.clock);
                state.waiting.push(Arc::clone(account));
            }
            own.queue.push_back(Arc::clone(&ticket));
            drop(own);
            state.call(self.turns_max)
        };
        for ticket in called {
            ticket.call();
        }
        ticket
    }

    /// Ends a turn, and calls whoever is next.
    fn end(&self, account: &Account, took: Duration) {
        let called = {
            let mut state = lock(&self.state);
            lock(&account.state).used += took;
            state.turns -= 1;
            state.call(self.turns_max)
        };
        for ticket in called {
            ticket.call();
        }
    }

    /// Somebody left while he waited, or after he was called.
    fn leave(&self, account: &Arc<Account>, ticket: &Arc<Ticket>) {
        let called = {
            let mut state = lock(&self.state);
            let mut own = lock(&account.state);
            let before = own.queue.len();
            own.queue.retain(|other| !Arc::ptr_eq(other, ticket));
            if own.queue.len() == before {
                state.turns -= 1;
            } else if own.queue.is_empty() {
                state.waiting.retain(|other| !Arc::ptr_eq(other, account));
            }
            drop(own);
            state.call(self.turns_max)
        };
        for ticket in called {
            ticket.call();
        }
    }
}

impl State {
    /// Gives free turns to the pods that have used the least.
    fn call(&mut self, turns_max: usize) -> Vec<Arc<Ticket>> {
        let mut called = Vec::new();
        while self.turns < turns_max {
            let used = |account: &Arc<Account>| lock(&account.state).used;
            let Some(at) = (0..self.waiting.len())
                .min_by_key(|at| self.waiting.get(*at).map(used).unwrap_or(Duration::MAX))
            else {
                break;
            };
            let Some(account) = self.waiting.get(at).cloned() else {
                break;
            };
            let mut own = lock(&account.state);
            self.clock = self.clock.max(own.used);
            // At once: so that one pod does not get all free turns before it is known how long they take.
            own.used += TURN_ADVANCE;
            let ticket = own.queue.pop_front();
            if own.queue.is_empty() {
                self.waiting.swap_remove(at);
            }
            if let Some(ticket) = ticket {
                self.turns += 1;
                called.push(ticket);
            }
        }
        called
    }
}

impl Ticket {
    fn call(&self) {
        self.is_called.store(true, Ordering::Release);
        lock(&self.waker).wake_by_ref();
    }
}

impl Share {
    /// Runs `work`, each step of it in a turn of the pod.
    pub fn run<F: Future>(&self, work: F) -> Fair<F> {
        Fair {
            share: self.clone(),
            work: Box::pin(work),
            ticket: None,
        }
    }
}

/// A future that takes its steps in turns.
#[derive(Debug)]
pub struct Fair<F> {
    share: Share,
    work: Pin<Box<F>>,
    ticket: Option<Arc<Ticket>>,
}

impl<F: Future> Future for Fair<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let Some(ticket) = &this.ticket else {
            this.ticket = Some(this.share.all.ask(&this.share.account, cx.waker()));
            return Poll::Pending;
        };
        lock(&ticket.waker).clone_from(cx.waker());
        if !ticket.is_called.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        this.ticket = None;
        let turn = Turn {
            share: &this.share,
            began: Instant::now(),
        };
        let result = this.work.as_mut().poll(cx);
        drop(turn);
        result
    }
}

impl<F> Drop for Fair<F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.share.all.leave(&self.share.account, &ticket);
        }
    }
}

/// A turn that is being used; it ends also when the work panics.
struct Turn<'a> {
    share: &'a Share,
    began: Instant,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.share
            .all
            .end(&self.share.account, self.began.elapsed());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns for each core: one that works, and one that is on its way to it.
const TURNS_PER_CORE: usize = 2;
/// What a turn costs beside its time.
const TURN_ADVANCE: Duration = Duration::from_micros(20);

#[cfg(test)]
mod tests;
