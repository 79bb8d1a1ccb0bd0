//! The lanes to one peer: kept when their session is over, lent to the next connection.
//!
//! The lane that was used last is lent first: its memory is warm, and those that a burst left behind become old and are closed.
//! When many connections come at once, only a few wait for lanes of their own; the others share an HBONE tunnel, so that a burst
//! costs a bounded number of handshakes.

use std::{
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant, SystemTime},
};

use tulle_identity::Svid;

use super::lock;
use crate::{
    plane::PlaneSettings,
    tunnel::lane::{Lane, LaneHome},
};

/// The lanes to one peer.
#[derive(Default)]
pub(super) struct Lanes {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<IdleLane>,
    /// All of them: idle, lent, being opened.
    count: usize,
    opening: usize,
    /// The peer was found to speak HBONE only.
    is_foreign: bool,
}

/// A lane that waits for its next session.
pub(super) struct IdleLane {
    pub(super) lane: Box<Lane>,
    pub(super) home: Arc<Home>,
    since: Instant,
}

/// Where a lane returns to; lives as long as its lane.
pub(super) struct Home {
    lanes: Weak<Lanes>,
    svid: Arc<Svid>,
}

/// A lane being opened.
pub(super) struct Opening {
    pub(super) home: Arc<Home>,
    lanes: Arc<Lanes>,
}

/// What a new connection gets.
pub(super) enum Choice {
    /// This lane.
    Idle(IdleLane),
    /// The right to open one.
    Open(Opening),
    /// A place on a tunnel of HBONE.
    Hbone,
}

impl Lanes {
    /// Lends a lane that proves `svid`, and whose peer's proof still holds, or allows to open one.
    pub(super) fn choose(
        self: &Arc<Self>,
        settings: &PlaneSettings,
        svid: &Arc<Svid>,
        now: SystemTime,
    ) -> Choice {
        let mut unusable = Vec::new();
        let mut state = lock(&self.state);
        if state.is_foreign {
            return Choice::Hbone;
        }
        while let Some(mut idle) = state.idle.pop() {
            let is_proven = Arc::ptr_eq(&idle.home.svid, svid) && !idle.lane.term().is_over(now);
            if is_proven && idle.lane.is_silent() {
                drop(state);
                drop(unusable);
                return Choice::Idle(idle);
            }
            // Closed outside of the lock, which its home takes.
            unusable.push(idle);
        }
        let leaving = unusable.len();
        let is_full = state.count.saturating_sub(leaving) >= settings.lanes_per_destination_max
            || state.opening >= settings.lanes_opening_max;
        if is_full {
            drop(state);
            return Choice::Hbone;
        }
        state.count += 1;
        state.opening += 1;
        drop(state);
        Choice::Open(Opening {
            home: Arc::new(Home {
                lanes: Arc::downgrade(self),
                svid: Arc::clone(svid),
            }),
            lanes: Arc::clone(self),
        })
    }

    /// Takes out the lanes that are idle for too long, or closed.
    pub(super) fn split_unusable(&self, idle: Duration) -> Vec<IdleLane> {
        let mut state = lock(&self.state);
        state
            .idle
            .extract_if(.., |lane| {
                lane.since.elapsed() >= idle || !lane.lane.is_silent()
            })
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.state).count == 0
    }

    /// The peer speaks HBONE only: nobody asks it for a lane again, as long as it is known.
    pub(super) fn set_foreign(&self) {
        lock(&self.state).is_foreign = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        lock(&self.lanes.state).opening -= 1;
    }
}

impl LaneHome for Home {
    fn take_back(self: Arc<Self>, lane: Box<Lane>) {
        if let Some(lanes) = self.lanes.upgrade() {
            lock(&lanes.state).idle.push(IdleLane {
                lane,
                home: self,
                since: Instant::now(),
            });
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(lanes) = self.lanes.upgrade() {
            lock(&lanes.state).count -= 1;
        }
    }
}
