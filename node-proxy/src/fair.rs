//! Whose turn it is, where pods share the proxy.
//!
//! A runtime serves tasks in the order in which they become ready: a pod with a thousand busy connections gets a thousand turns
//! for one of its neighbour's. Here every task of a pod, whatever it does, takes each step in a turn of the pod's, and where more
//! are ready than there are turns, the next one goes to the pod that has used the least time. So a flood costs its own workload its
//! latency, and each neighbour gets its share of the proxy, however many connections the flood has. Envoy, shared by a node, has no
//! such notion; ztunnel neither.
//!
//! Time is measured, not steps counted: a pod whose requests are expensive to judge pays for that.
//!
//! Turns are given at the moment of the *wake*, not of the poll: a task has a waker of its own, and the runtime hears of it only when
//! its turn has come. So all who are ready are known although the runtime keeps its queue to itself; nobody passes through
//! that queue twice; and where turns are free the price is that of a few atomic operations: no lock, no allocation, no look at a clock.
//!
//! Only those who are known to be ready can be given turns, and under a flood the runtime always has something to do: it would look at
//! its sockets every 61 tasks, each of which may hand its thread to three more. So while somebody waits, every few turns one is
//! passed on only after such a look.

mod line;
mod place;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

use line::{Account, Line};
use place::{Entry, Place};

/// The turns of all pods of a node.
pub struct FairShare {
    /// How many turns are used, or given to somebody who is on the way; and [`SOMEBODY_WAITS`].
    ///
    /// **Invariant:** while nobody holds the line's lock, somebody waits only if no turn is free, and the flag says whether somebody
    /// waits (test `turns_and_places_agree_after_a_storm`).
    gate: AtomicUsize,
    line: Mutex<Line<Arc<Place>>>,
    turns_max: usize,
    /// Turns that were passed on while somebody else waited.
    passed_on: AtomicUsize,
}

/// What is known of the turns in one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// How many there are.
    pub max: usize,
    /// How many are used, or given to somebody who is on the way.
    pub taken: usize,
    /// Tasks that wait for one; some of them may have left.
    pub awaited: usize,
}

/// A pod's part in the turns.
#[derive(Debug, Clone, Default)]
pub struct Share {
    all: Arc<FairShare>,
    account: Arc<Account<Arc<Place>>>,
}

impl Default for FairShare {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores * TURNS_PER_CORE)
    }
}

impl fmt::Debug for FairShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gate = self.gate.load(Ordering::Relaxed);
        f.debug_struct("FairShare")
            .field("turns", &(gate & !SOMEBODY_WAITS))
            .field("turns_max", &self.turns_max)
            .field("somebody_waits", &(gate & SOMEBODY_WAITS != 0))
            .finish_non_exhaustive()
    }
}

impl FairShare {
    /// With this many turns at once.
    pub fn new(turns_max: usize) -> Self {
        FairShare {
            gate: AtomicUsize::new(0),
            line: Mutex::default(),
            turns_max: turns_max.max(1),
            passed_on: AtomicUsize::new(0),
        }
    }

    /// A pod's part.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            all: Arc::clone(self),
            account: Arc::default(),
        }
    }

    /// How it stands in this moment.
    pub fn seen(&self) -> Turns {
        Turns {
            max: self.turns_max,
            taken: self.gate.load(Ordering::Relaxed) & !SOMEBODY_WAITS,
            awaited: self.lock().len(),
        }
    }

    /// Gives `place`, which is marked as waiting, a turn now or in time, and then calls its task.
    fn ask(&self, place: &Arc<Place>) {
        if !self.take_free() {
            self.wait(place);
        } else if place.is_given_turn() {
            place.call();
        } else {
            // Whoever asked has gone meanwhile.
            self.end(&place.share.account, Used::Nothing);
        }
    }

    /// Takes a turn that nobody waits for.
    fn take_free(&self) -> bool {
        let free = |gate| (gate < self.turns_max).then_some(gate + 1);
        self.gate
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, free)
            .is_ok()
    }

    /// Stands in line.
    fn wait(&self, place: &Arc<Place>) {
        let called = {
            let mut line = self.lock();
            self.push(&mut line, place);
            // One may have become free before there was a line to give it to.
            let gate = self.gate.load(Ordering::Acquire) & !SOMEBODY_WAITS;
            match gate < self.turns_max {
                true => {
                    self.gate.fetch_add(1, Ordering::AcqRel);
                    self.pass_on(&mut line)
                }
                false => None,
            }
        };
        if let Some(called) = called {
            called.call();
        }
    }

    /// Ends a turn: the next in line has it.
    fn end(&self, account: &Account<Arc<Place>>, used: Used) {
        let alone = |gate| (gate & SOMEBODY_WAITS == 0).then_some(usize::saturating_sub(gate, 1));
        let free = self
            .gate
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, alone);
        if free.is_err() {
            let called = {
                let mut line = self.lock();
                line.charge(account, used.time());
                self.pass_on(&mut line)
            };
            self.call_in_time(called);
        }
    }

    /// Ends a turn of somebody, marked as waiting, who wants another: at once where nobody else waits.
    fn end_and_ask(&self, place: &Arc<Place>, used: Used) {
        let gate = self.gate.load(Ordering::Acquire);
        let called = if gate & SOMEBODY_WAITS == 0 {
            place.is_given_turn().then(|| Arc::clone(place))
        } else {
            let mut line = self.lock();
            line.charge(&place.share.account, used.time());
            self.push(&mut line, place);
            self.pass_on(&mut line)
        };
        self.call_in_time(called);
    }

    /// Tells somebody whose turn it is, now or after a look at who else is ready.
    fn call_in_time(&self, called: Option<Arc<Place>>) {
        let Some(called) = called else {
            return;
        };
        if !self.somebody_waits() {
            called.call();
            return;
        }
        match (self.passed_on.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(TURNS_PER_LOOK) {
            true => called.call_after_look(),
            false => called.call(),
        }
    }

    fn push(&self, line: &mut Line<Arc<Place>>, place: &Arc<Place>) {
        line.push(&place.share.account, Arc::clone(place), |place| {
            place.is_waiting()
        });
        self.gate.fetch_or(SOMEBODY_WAITS, Ordering::AcqRel);
    }

    /// Gives a turn that is counted to the next in line, or back.
    fn pass_on(&self, line: &mut Line<Arc<Place>>) -> Option<Arc<Place>> {
        let next = line.next(|place| place.is_given_turn());
        if line.is_empty() {
            self.gate.fetch_and(!SOMEBODY_WAITS, Ordering::AcqRel);
        }
        if next.is_none() {
            self.gate.fetch_sub(1, Ordering::AcqRel);
        }
        next
    }

    fn somebody_waits(&self) -> bool {
        self.gate.load(Ordering::Relaxed) & SOMEBODY_WAITS != 0
    }

    fn lock(&self) -> MutexGuard<'_, Line<Arc<Place>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a turn's time.
#[derive(Debug, Clone, Copy)]
enum Used {
    /// Nobody took a step in it.
    Nothing,
    /// It began before anybody waited, so nobody looked at the clock.
    Unknown,
    Since(Instant),
}

impl Used {
    fn time(self) -> Duration {
        match self {
            Used::Nothing => Duration::ZERO,
            Used::Unknown => UNKNOWN_TIME,
            // More is the kernel's doing, which gave the core to somebody else: a step's own work is bounded.
            Used::Since(began) => began.elapsed().min(TURN_TIME_MAX),
        }
    }
}

impl Share {
    /// Runs `work`, each step of it in a turn of the pod.
    ///
    /// What this returns is for a task of its own: it hears of what `work` waits for only by the wakers that it gives to `work`.
    pub fn run<F: Future>(&self, work: F) -> Fair<F> {
        let place = Arc::new(Place::new(self.clone()));
        Fair {
            work,
            ticket: Ticket {
                waker: Waker::from(Arc::clone(&place)),
                place,
            },
        }
    }
}

pin_project! {
    /// A future that takes its steps in turns.
    #[derive(Debug)]
    pub struct Fair<F> {
        #[pin]
        work: F,
        ticket: Ticket,
    }
}

/// What a future is known by in line; made once, used for all its turns.
#[derive(Debug)]
struct Ticket {
    place: Arc<Place>,
    /// Wakes `place`.
    waker: Waker,
}

impl<F: Future> Future for Fair<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let place = &this.ticket.place;
        let all = &place.share.all;
        match place.enter(cx.waker()) {
            Entry::WithTurn => {}
            Entry::WithoutTurn => return Poll::Pending,
            Entry::First => {
                if !all.take_free() {
                    place.begin_waiting();
                    all.wait(place);
                    return Poll::Pending;
                }
                place.begin();
            }
        }
        let mut turn = Turn {
            place,
            used: match all.somebody_waits() {
                true => Used::Since(Instant::now()),
                false => Used::Unknown,
            },
            goes_on: false,
        };
        let result = this.work.poll(&mut Context::from_waker(&this.ticket.waker));
        turn.goes_on = result.is_pending();
        result
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.place.leave() {
            self.place
                .share
                .all
                .end(&self.place.share.account, Used::Nothing);
        }
    }
}

/// A turn that is being used; it ends also when the work panics.
struct Turn<'a> {
    place: &'a Arc<Place>,
    used: Used,
    goes_on: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Share { all, account } = &self.place.share;
        match self.goes_on && self.place.is_woken_again() {
            true => all.end_and_ask(self.place, self.used),
            false => all.end(account, self.used),
        }
        if !self.goes_on {
            let _has_no_turn = self.place.leave();
        }
    }
}

/// Beside the number of turns, which never gets near it.
const SOMEBODY_WAITS: usize = 1 << (usize::BITS - 1);
/// Turns for each core. More would let the runtime's own order decide between those who have one.
const TURNS_PER_CORE: usize = 1;
/// Turns that are passed on between two looks at who else is ready, where one thread looks for all: a look costs a tenth of a turn.
const TURNS_PER_LOOK: usize = 4;
/// What a turn is taken to have cost that nobody measured.
const UNKNOWN_TIME: Duration = Duration::from_micros(20);
/// The most that one turn counts for.
const TURN_TIME_MAX: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
