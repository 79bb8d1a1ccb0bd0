//! Who is next: pure bookkeeping, without tasks or clocks.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The accounts in which somebody waits.
#[derive(Debug)]
pub(super) struct Line<P> {
    /// The time that an account must have used to stand where it would if it had been busy all along.
    clock: Duration,
    waiting: Vec<Arc<Account<P>>>,
}

/// What one pod has used, and who of it waits.
///
/// Its lock is taken only by whoever holds the line.
#[derive(Debug)]
pub(super) struct Account<P>(Mutex<State<P>>);

#[derive(Debug)]
struct State<P> {
    used: Duration,
    queue: VecDeque<P>,
    /// At this length the queue is looked through for those who left.
    looked_through_at: usize,
}

impl<P> Default for Line<P> {
    fn default() -> Self {
        Line {
            clock: Duration::ZERO,
            waiting: Vec::new(),
        }
    }
}

impl<P> Default for Account<P> {
    fn default() -> Self {
        Account(Mutex::new(State {
            used: Duration::ZERO,
            queue: VecDeque::new(),
            looked_through_at: LOOK_THROUGH_MIN,
        }))
    }
}

impl<P> Line<P> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Who waits, those included who have left and are not yet forgotten.
    pub(super) fn len(&self) -> usize {
        self.waiting
            .iter()
            .map(|account| account.lock().queue.len())
            .sum()
    }

    /// Puts `place` behind the others of its account. Those for whom `stays` is false have left, and may be forgotten.
    pub(super) fn push(
        &mut self,
        account: &Arc<Account<P>>,
        place: P,
        stays: impl FnMut(&P) -> bool,
    ) {
        let mut own = account.lock();
        if own.queue.is_empty() {
            own.catch_up(self.clock);
            self.waiting.push(Arc::clone(account));
        }
        own.queue.push_back(place);
        own.forget_the_gone(stays);
    }

    /// The next for whom `take` is true, of the account that has used the least. Whoever is refused has left, and is forgotten.
    pub(super) fn next(&mut self, mut take: impl FnMut(&P) -> bool) -> Option<P> {
        loop {
            let used = |(_, account): &(usize, &Arc<Account<P>>)| account.lock().used;
            let (at, account) = self.waiting.iter().enumerate().min_by_key(used)?;
            let mut own = account.lock();
            let mut next = None;
            while next.is_none()
                && let Some(place) = own.queue.pop_front()
            {
                next = take(&place).then_some(place);
            }
            if next.is_some() {
                self.clock = self.clock.max(own.used);
                // At once: so that one account does not get all free turns before it is known how long they take.
                own.used += TURN_COST;
            }
            if own.queue.is_empty() {
                own.give_back_memory();
                drop(own);
                self.waiting.swap_remove(at);
            }
            if next.is_some() {
                return next;
            }
        }
    }

    /// An account has used time, which counts since somebody waits.
    pub(super) fn charge(&mut self, account: &Account<P>, time: Duration) {
        let mut own = account.lock();
        own.catch_up(self.clock);
        own.used += time;
    }
}

impl<P> Account<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> State<P> {
    /// Whoever was idle is ahead of those who were not, but not by all the time that it was idle.
    fn catch_up(&mut self, clock: Duration) {
        self.used = self.used.max(clock.saturating_sub(CREDIT_MAX));
    }

    /// Keeps the queue within twice of those who really wait, at a cost that each of them pays once.
    fn forget_the_gone(&mut self, stays: impl FnMut(&P) -> bool) {
        if self.queue.len() >= self.looked_through_at {
            self.queue.retain(stays);
            self.looked_through_at = (self.queue.len() * 2).max(LOOK_THROUGH_MIN);
        }
    }

    fn give_back_memory(&mut self) {
        self.looked_through_at = LOOK_THROUGH_MIN;
        if self.queue.capacity() > KEPT_LEN_MAX {
            self.queue = VecDeque::new();
        }
    }
}

/// What a turn costs beside its time: to wake somebody, and to find the place in the caches again.
const TURN_COST: Duration = Duration::from_micros(5);
/// How far ahead of the busy ones somebody may be who was idle: a burst of some dozen steps.
const CREDIT_MAX: Duration = Duration::from_millis(1);
const LOOK_THROUGH_MIN: usize = 64;
/// The longest queue whose memory is kept while it is empty.
const KEPT_LEN_MAX: usize = 256;

#[cfg(test)]
mod tests;
