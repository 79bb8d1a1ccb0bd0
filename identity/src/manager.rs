//! Keeps the certificates of every local identity fresh.
//!
//! One task per identity asks for its certificate, renews it at half life, and repeats with growing pauses while the
//! authority fails; the old certificate serves as long as it is valid. Connections only read. So there is never more
//! than one request under way for one identity, however many connections wait for it.

use std::{
    collections::{HashMap, hash_map::Entry as MapEntry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};
use tulle_model::SpiffeId;

use crate::{
    manager::keeper::{Holding, Keeper},
    source::{FetchSvidError, SvidSource},
    svid::Svid,
};

mod keeper;

/// The certificates of this process's identities.
pub struct SvidManager {
    keeper: Arc<Keeper>,
    runtime: Handle,
    slots: Mutex<HashMap<SpiffeId, Slot>>,
}

/// One identity: what is known, who waits, and the task that cares for it.
struct Slot {
    holding: watch::Receiver<Holding>,
    demanded: watch::Sender<bool>,
    task: AbortOnDrop,
}

/// What tells the time, for which certificates are good.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How the manager behaves; the defaults are for production.
#[derive(Clone)]
pub struct SvidManagerSettings {
    /// How long [`SvidManager::get`] waits for a certificate that is not there yet.
    pub wait: Duration,
    /// How long one request may take.
    pub fetch_timeout: Duration,
    /// How many requests may be under way at once.
    pub fetches_max: usize,
    /// The first pause after a failure; each further one doubles it.
    pub backoff_min: Duration,
    /// The longest pause after a failure.
    pub backoff_max: Duration,
    /// How many identities may be kept.
    pub identities_max: usize,
    /// The wall clock.
    pub clock: WallClock,
    /// Random numbers between −1 and 1, evenly spread.
    pub jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Default for SvidManagerSettings {
    fn default() -> Self {
        SvidManagerSettings {
            wait: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(15),
            fetches_max: 8,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(150),
            identities_max: 4096,
            clock: Arc::new(SystemTime::now),
            jitter: Arc::new(|| rand::random_range(-1.0..=1.0)),
        }
    }
}

/// What is known of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidStatus {
    /// Whose.
    pub id: SpiffeId,
    /// The serial number of the certificate at hand, if there is one.
    pub serial: Option<String>,
    /// The first second of its validity.
    pub not_before: Option<SystemTime>,
    /// The last second of its validity.
    pub not_after: Option<SystemTime>,
    /// Why the last request failed, if it did; with all causes.
    pub last_error: Option<String>,
}

impl SvidManager {
    /// A manager that asks `source`, on the runtime it is created in.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(source: Arc<dyn SvidSource>, settings: SvidManagerSettings) -> Self {
        SvidManager {
            keeper: Arc::new(Keeper::new(source, settings)),
            runtime: Handle::current(),
            slots: Mutex::new(HashMap::new()),
        }
    }

    /// A valid certificate for `id`; waits for the first one, within [`SvidManagerSettings::wait`].
    ///
    /// # Errors
    /// No certificate in time, or none to be expected in time because the authority keeps failing.
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait only; the request goes on for others.
    pub async fn get(&self, id: &SpiffeId) -> Result<Arc<Svid>, GetSvidError> {
        let mut holding = {
            let mut slots = self.lock();
            let slot = self.slot(&mut slots, id)?;
            if let Some(svid) = slot.holding.borrow().valid_at(self.keeper.now()) {
                return Ok(svid);
            }
            slot.demanded.send_replace(true);
            slot.holding.clone()
        };
        let deadline = Instant::now() + self.keeper.settings.wait;
        let settled = |holding: &Holding| {
            holding.valid_at(self.keeper.now()).is_some() || holding.hopeless_until(deadline)
        };
        let waited = timeout_at(deadline, holding.wait_for(settled)).await;
        let forgotten = waited.is_ok_and(|settled| settled.is_err());
        let outcome = holding.borrow().clone();
        if forgotten {
            return Err(GetSvidError::Forgotten { id: id.clone() });
        }
        let (id, waited) = (id.clone(), self.keeper.settings.wait);
        match (outcome.valid_at(self.keeper.now()), outcome.failure) {
            (Some(svid), _) => Ok(svid),
            (None, Some(failure)) => Err(GetSvidError::Failed {
                id,
                source: failure.error,
            }),
            (None, None) => Err(GetSvidError::Timeout { id, waited }),
        }
    }

    /// Resolves when a certificate other than `svid` is at hand for `id`, which the next connection would prove.
    ///
    /// Never, if nobody cares for `id` any more.
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait only.
    pub async fn renewed(&self, id: &SpiffeId, svid: &Arc<Svid>) {
        let holding = self.lock().get(id).map(|slot| slot.holding.clone());
        if let Some(mut holding) = holding {
            let is_other = |holding: &Holding| {
                let valid = holding.valid_at(self.keeper.now());
                valid.is_some_and(|held| !Arc::ptr_eq(&held, svid))
            };
            if holding.wait_for(is_other).await.is_ok() {
                return;
            }
        }
        std::future::pending().await
    }

    /// The wall clock by which certificates are judged.
    pub fn clock(&self) -> WallClock {
        Arc::clone(&self.keeper.settings.clock)
    }

    /// Its time.
    pub fn now(&self) -> SystemTime {
        self.keeper.now()
    }

    /// Fetches a certificate for `id` ahead of its first use.
    ///
    /// # Errors
    /// There are too many identities already.
    pub fn prefetch(&self, id: &SpiffeId) -> Result<(), GetSvidError> {
        self.slot(&mut self.lock(), id).map(|_slot| ())
    }

    /// Ends the care for `id`. Whoever holds its certificate keeps it.
    pub fn forget(&self, id: &SpiffeId) {
        // Dropped after the lock is released.
        let _slot = self.lock().remove(id);
    }

    /// Every identity, in order of name.
    pub fn list(&self) -> Vec<SvidStatus> {
        let mut list: Vec<SvidStatus> = self
            .lock()
            .iter()
            .map(|(id, slot)| slot.holding.borrow().status(id))
            .collect();
        list.sort_by(|left, right| left.id.cmp(&right.id));
        list
    }

    fn slot<'a>(
        &self,
        slots: &'a mut HashMap<SpiffeId, Slot>,
        id: &SpiffeId,
    ) -> Result<&'a Slot, GetSvidError> {
        let identities_max = self.keeper.settings.identities_max;
        let full = slots.len() >= identities_max;
        match slots.entry(id.clone()) {
            MapEntry::Occupied(entry) => Ok(entry.into_mut()),
            MapEntry::Vacant(_) if full => Err(GetSvidError::TooMany {
                id: id.clone(),
                identities_max,
            }),
            MapEntry::Vacant(entry) => {
                let (publish, holding) = watch::channel(Holding::default());
                let demanded = watch::Sender::new(false);
                let care = self
                    .keeper
                    .clone()
                    .keep(id.clone(), publish, demanded.clone());
                let task = AbortOnDrop(self.runtime.spawn(care));
                Ok(entry.insert(Slot {
                    holding,
                    demanded,
                    task,
                }))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SvidManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidManager")
            .field("identities", &self.lock().len())
            .finish()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("task", &self.task.0.id())
            .finish_non_exhaustive()
    }
}

/// Why there is no certificate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GetSvidError {
    /// The last request failed, and the next comes too late.
    #[error("no certificate for {id}")]
    Failed {
        /// Whose.
        id: SpiffeId,
        /// Why.
        #[source]
        source: Arc<FetchSvidError>,
    },
    /// The first request is still under way.
    #[error("no certificate for {id} within {waited:?}")]
    Timeout {
        /// Whose.
        id: SpiffeId,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The identity was dropped meanwhile.
    #[error("{id} is no identity of this node any more")]
    Forgotten {
        /// Whose.
        id: SpiffeId,
    },
    /// No room.
    #[error("no room for {id}: {identities_max} identities are kept already")]
    TooMany {
        /// Whose.
        id: SpiffeId,
        /// The limit.
        identities_max: usize,
    },
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
