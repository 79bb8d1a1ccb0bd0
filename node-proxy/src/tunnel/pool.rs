//! Which tunnel carries a new stream.
//!
//! One pool per pod, so identities never mix. To a proxy of this mesh a connection gets a lane of its own; to others, and in a burst,
//! a stream of a shared tunnel. A stream goes to a tunnel where it does not wait behind others: tunnels that carry
//! bulk, or whose readers stand still, get no newcomers while another can be had. Many who need the same new tunnel wait for one
//! handshake. No lock is held while anything is waited for.
//!
//! What was opened with a certificate ends with it, our own or the peer's: no new connection takes it, those that it carries go on. Our
//! own is left at its renewal already, the peer's at its end. Pools of Envoy and ztunnel look at neither: a connection that is used
//! often enough goes on under certificates that ended long ago.

mod lanes;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tulle_identity::{Offer, Svid, WallClock};
use tulle_model::SpiffeId;

use super::{
    client::{ConnectFailure, Tunnel},
    dial::Dialed,
    error::OpenTunnelError,
    headers::ConnectHeaders,
    lane::{Lane, LaneError, LaneHome as _, LaneStream, Opened},
    load::StreamLoad,
    stream::TunnelStream,
};
use crate::plane::{PlaneSettings, Tasks};
use lanes::{Home, Lanes, Opening};

/// Who is at the other end. The source is the pool's pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    /// Where the tunnel leads.
    pub(crate) destination: SocketAddr,
    /// Whom it may lead to; sorted.
    pub(crate) expected: Arc<[SpiffeId]>,
}

/// A tunnel being opened.
pub(crate) type Dialing = BoxFuture<'static, Result<Dialed, OpenTunnelError>>;

/// Opens one tunnel, or a lane if that is offered and the peer takes it.
pub(crate) type Dial = Arc<dyn Fn(PoolKey, Arc<Svid>, Offer) -> Dialing + Send + Sync>;

/// The tunnels of one pod.
pub(crate) struct TunnelPool {
    entries: Mutex<Entries>,
    dial: Dial,
    clock: WallClock,
    settings: PlaneSettings,
    tasks: Tasks,
    this: Weak<TunnelPool>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<PoolKey, Arc<Entry>>,
    /// Nothing is kept any more: a tunnel lives as long as its streams.
    is_closed: bool,
}

#[derive(Default)]
struct Entry {
    state: Mutex<EntryState>,
    lanes: Arc<Lanes>,
}

#[derive(Default)]
struct EntryState {
    tunnels: Vec<Arc<Tunnel>>,
    dials: Vec<Ticket>,
    tickets: u64,
}

/// A handshake under way.
struct Ticket {
    number: u64,
    waiters: usize,
    done: watch::Receiver<Option<DialResult>>,
}

type DialResult = Result<(), OpenTunnelError>;

/// A place on a tunnel.
struct Lease {
    tunnel: Arc<Tunnel>,
    load: Arc<StreamLoad>,
}

enum Choice {
    Tunnel(Lease),
    Wait(watch::Receiver<Option<DialResult>>),
    Full,
}

impl TunnelPool {
    pub(crate) fn new(
        dial: Dial,
        clock: WallClock,
        settings: PlaneSettings,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| TunnelPool {
            entries: Mutex::default(),
            dial,
            clock,
            settings,
            tasks,
            this: this.clone(),
        })
    }

    /// Opens a stream to `key` as `svid`.
    ///
    /// A tunnel that turns out to be dead is left for another one; only a tunnel that was opened for this stream counts as the peer's
    /// answer.
    pub(crate) async fn open_stream(
        &self,
        key: &PoolKey,
        svid: &Arc<Svid>,
        headers: &ConnectHeaders,
    ) -> Result<TunnelStream, OpenTunnelError> {
        let entry = self.entry(key);
        if self.settings.lanes_per_destination_max > 0
            && let Some(result) = self.open_session(&entry, key, svid, headers).await
        {
            return result.map(TunnelStream::Lane);
        }
        let mut last = OpenTunnelError::Full {
            destination: key.destination,
        };
        for _ in 0..DEAD_TUNNELS_MAX {
            let (lease, is_new) = self.checkout(&entry, key, svid).await?;
            let patience = self.settings.response_timeout;
            match lease.tunnel.connect(lease.load, headers, patience).await {
                Ok(stream) => return Ok(stream),
                Err(ConnectFailure::Peer(error)) => return Err(error),
                Err(ConnectFailure::Tunnel(error)) if is_new => return Err(error),
                Err(ConnectFailure::Tunnel(error)) => last = error,
            }
        }
        Err(last)
    }

    /// Opens a session on a lane; `None` when the connection shall take a tunnel instead.
    async fn open_session(
        &self,
        entry: &Arc<Entry>,
        key: &PoolKey,
        svid: &Arc<Svid>,
        headers: &ConnectHeaders,
    ) -> Option<Result<LaneStream, OpenTunnelError>> {
        let destination = key.destination;
        let mut last = OpenTunnelError::Full { destination };
        for _ in 0..DEAD_LANES_MAX {
            let (lane, home, is_new) = match entry.lanes.choose(&self.settings, svid, self.now()) {
                lanes::Choice::Hbone => return None,
                lanes::Choice::Idle(idle) => (idle.lane, idle.home, false),
                lanes::Choice::Open(opening) => {
                    let home = Arc::clone(&opening.home);
                    match self.open_lane(opening, entry, key, svid).await {
                        Ok(Some(lane)) => (lane, home, true),
                        Ok(None) => return None,
                        Err(error) => return Some(Err(error)),
                    }
                }
            };
            let limit = self.settings.response_timeout;
            let opening = Box::pin(lane.open(headers.destination, headers.client));
            match tokio::time::timeout(limit, opening).await {
                Ok(Ok(Opened::Session(lane))) => return Some(Ok(LaneStream::new(lane, home))),
                Ok(Ok(Opened::Refused(lane, status))) => {
                    home.take_back(lane);
                    return Some(Err(OpenTunnelError::Refused {
                        destination,
                        status,
                    }));
                }
                Ok(Err(error)) => last = lost(destination, error),
                Err(_) => {
                    return Some(Err(OpenTunnelError::ResponseTimeout { destination, limit }));
                }
            }
            if is_new {
                break;
            }
        }
        Some(Err(last))
    }

    /// Opens a lane in a task of its own, so that it survives whoever asked; `None` when the peer speaks HBONE only, and now has a
    /// tunnel.
    async fn open_lane(
        &self,
        opening: Opening,
        entry: &Arc<Entry>,
        key: &PoolKey,
        svid: &Arc<Svid>,
    ) -> Result<Option<Box<Lane>>, OpenTunnelError> {
        let (told, outcome) = oneshot::channel();
        let (entry, home) = (Arc::clone(entry), Arc::clone(&opening.home));
        let dialing = (self.dial)(key.clone(), Arc::clone(svid), Offer::Any);
        self.tasks.spawn(async move {
            let dialed = match dialing.await {
                Ok(Dialed::Lane(lane)) => Ok(Some(lane)),
                Ok(Dialed::Tunnel(tunnel)) => {
                    entry.lanes.set_foreign();
                    lock(&entry.state).tunnels.push(Arc::new(tunnel));
                    Ok(None)
                }
                Err(error) => Err(error),
            };
            drop(opening);
            if let Err(Ok(Some(lane))) = told.send(dialed) {
                Home::take_back(home, lane);
            }
        });
        outcome.await.unwrap_or(Err(OpenTunnelError::Draining))
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }

    fn entry(&self, key: &PoolKey) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        match entries.by_key.get(key) {
            Some(entry) => Arc::clone(entry),
            None if entries.is_closed => Arc::default(),
            None => Arc::clone(entries.by_key.entry(key.clone()).or_default()),
        }
    }

    /// Closes tunnels that carry nothing for too long. Called now and then.
    pub(crate) fn sweep(&self) {
        let idle = self.settings.tunnel_idle_timeout;
        let mut closed = Vec::new();
        let mut lanes = Vec::new();
        let mut entries = lock(&self.entries);
        entries.by_key.retain(|_, entry| {
            let mut state = lock(&entry.state);
            state.split_unusable(idle, &mut closed);
            lanes.extend(entry.lanes.split_unusable(idle));
            // An entry that somebody holds is about to be used.
            !state.is_empty() || !entry.lanes.is_empty() || Arc::strong_count(entry) > 1
        });
        drop(entries);
        drop((closed, lanes));
    }

    /// Lets go of all tunnels: each closes when its last stream ends, and so do those that are opened from now on.
    pub(crate) fn close(&self) {
        let entries = {
            let mut entries = lock(&self.entries);
            entries.is_closed = true;
            std::mem::take(&mut entries.by_key)
        };
        drop(entries);
    }

    /// A place, and whether its tunnel was opened while the caller waited.
    async fn checkout(
        &self,
        entry: &Arc<Entry>,
        key: &PoolKey,
        svid: &Arc<Svid>,
    ) -> Result<(Lease, bool), OpenTunnelError> {
        for round in 0..CHECKOUT_ROUNDS_MAX {
            let mut done = match self.choose(entry, key, svid) {
                Choice::Tunnel(lease) => return Ok((lease, round > 0)),
                Choice::Full => {
                    return Err(OpenTunnelError::Full {
                        destination: key.destination,
                    });
                }
                Choice::Wait(done) => done,
            };
            let outcome = match done.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => Some(Err(OpenTunnelError::Draining)),
            };
            if let Some(Err(error)) = outcome {
                // A busy tunnel is better than none.
                let busy = lock(&entry.state).any_lease(&self.settings, svid, self.now());
                return busy.map(|lease| (lease, false)).ok_or(error);
            }
        }
        Err(OpenTunnelError::Full {
            destination: key.destination,
        })
    }

    fn choose(&self, entry: &Arc<Entry>, key: &PoolKey, svid: &Arc<Svid>) -> Choice {
        let mut unusable = Vec::new();
        let now = self.now();
        let mut state = lock(&entry.state);
        state.split_closed(svid, now, &mut unusable);
        let limits = &self.settings;
        let total = state.tunnels.len() + state.dials.len();
        if let Some(tunnel) = state.least_loaded(limits, |t| !t.load().is_busy()) {
            let lease = Lease::new(tunnel);
            if lease.tunnel.load().streams() > limits.streams_before_spread
                && total < limits.spread_tunnels_max
                && state.dials.is_empty()
            {
                let _done = self.start_dial(&mut state, entry, key, svid);
            }
            return Choice::Tunnel(lease);
        }
        let waiters_max = limits.streams_per_tunnel_max;
        if let Some(ticket) = state.dials.iter_mut().find(|t| t.waiters < waiters_max) {
            ticket.waiters += 1;
            return Choice::Wait(ticket.done.clone());
        }
        if total >= limits.bulk_tunnels_max
            && let Some(lease) = state.any_lease(limits, svid, now)
        {
            return Choice::Tunnel(lease);
        }
        if total >= limits.tunnels_per_destination_max {
            return Choice::Full;
        }
        Choice::Wait(self.start_dial(&mut state, entry, key, svid))
    }

    /// Starts a handshake in a task of its own, so that it survives whoever asked first.
    fn start_dial(
        &self,
        state: &mut EntryState,
        entry: &Arc<Entry>,
        key: &PoolKey,
        svid: &Arc<Svid>,
    ) -> watch::Receiver<Option<DialResult>> {
        let (told, done) = watch::channel(None);
        state.tickets += 1;
        let number = state.tickets;
        state.dials.push(Ticket {
            number,
            waiters: 1,
            done: done.clone(),
        });
        let (entry, pool) = (Arc::clone(entry), self.this.clone());
        let dialing = (self.dial)(key.clone(), Arc::clone(svid), Offer::Hbone);
        self.tasks.spawn(async move {
            let _ticket = TicketGuard {
                entry: Arc::clone(&entry),
                number,
            };
            let outcome = match dialing.await {
                // The pod is gone meanwhile: the tunnel closes by being dropped.
                Ok(_) if pool.strong_count() == 0 => Err(OpenTunnelError::Draining),
                Ok(Dialed::Tunnel(tunnel)) => {
                    lock(&entry.state).tunnels.push(Arc::new(tunnel));
                    Ok(())
                }
                Ok(Dialed::Lane(lane)) => {
                    // Not offered, so never agreed on.
                    drop(lane);
                    Err(OpenTunnelError::Draining)
                }
                Err(error) => Err(error),
            };
            told.send_replace(Some(outcome));
        });
        done
    }
}

impl EntryState {
    fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.dials.is_empty()
    }

    /// Takes out tunnels that are closed, prove an older certificate, or whose peer's is over; those close when their streams end.
    fn split_closed(&mut self, svid: &Arc<Svid>, now: SystemTime, out: &mut Vec<Arc<Tunnel>>) {
        out.extend(
            self.tunnels
                .extract_if(.., |t| t.load().is_closed() || !t.proves(svid, now)),
        );
    }

    fn split_unusable(&mut self, idle: Duration, out: &mut Vec<Arc<Tunnel>>) {
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        out.extend(self.tunnels.extract_if(.., |t| {
            t.load().is_closed() || t.load().idle_millis().is_some_and(|millis| millis >= idle)
        }));
    }

    fn least_loaded(
        &self,
        limits: &PlaneSettings,
        wanted: impl Fn(&Tunnel) -> bool,
    ) -> Option<&Arc<Tunnel>> {
        let has_place =
            |t: &Tunnel| t.load().streams() < limits.streams_per_tunnel_max.min(t.streams_max());
        self.tunnels
            .iter()
            .filter(|t| has_place(t) && wanted(t))
            .min_by_key(|t| t.load().streams())
    }

    /// A place on any tunnel, busy or not.
    fn any_lease(
        &self,
        limits: &PlaneSettings,
        svid: &Arc<Svid>,
        now: SystemTime,
    ) -> Option<Lease> {
        self.least_loaded(limits, |t| !t.load().is_closed() && t.proves(svid, now))
            .map(Lease::new)
    }
}

impl Lease {
    fn new(tunnel: &Arc<Tunnel>) -> Self {
        Lease {
            tunnel: Arc::clone(tunnel),
            load: tunnel.load().open_stream(),
        }
    }
}

/// Takes the ticket back however the handshake ends.
struct TicketGuard {
    entry: Arc<Entry>,
    number: u64,
}

impl Drop for TicketGuard {
    fn drop(&mut self) {
        lock(&self.entry.state)
            .dials
            .retain(|t| t.number != self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lane broke before the peer answered; no byte of the application was sent.
fn lost(destination: SocketAddr, error: LaneError) -> OpenTunnelError {
    OpenTunnelError::Lost {
        destination,
        source: Arc::new(error),
    }
}

/// Dead lanes that one connection may meet before it gives up: a peer that restarts leaves as many as were idle, which are seen to be
/// closed; these are the ones that closed just then.
const DEAD_LANES_MAX: usize = 4;
/// Dead tunnels that one stream may meet before it gives up; each was alive when it was chosen.
const DEAD_TUNNELS_MAX: usize = 3;
/// Times that one stream may lose the race for a place.
const CHECKOUT_ROUNDS_MAX: usize = 16;

#[cfg(test)]
mod tests;
