//! The care for one identity: ask, renew, repeat.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{AcquireError, Semaphore, SemaphorePermit, watch},
    time::{Instant, sleep_until, timeout},
};
use tulle_model::SpiffeId;

use super::{SvidManagerSettings, SvidStatus};
use crate::{
    causes::with_causes,
    source::{FetchSvidError, SvidSource},
    svid::Svid,
    term::wait_while,
};

/// What every identity's task shares.
pub(super) struct Keeper {
    source: Arc<dyn SvidSource>,
    pub(super) settings: SvidManagerSettings,
    fetches: Semaphore,
    /// Prefetches and renewals use only a part of the fetches: a waiting connection always finds room.
    background: Semaphore,
}

/// What is known of one identity.
#[derive(Clone, Default)]
pub(super) struct Holding {
    svid: Option<Arc<Svid>>,
    pub(super) failure: Option<Failure>,
}

/// The last request, if it failed.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) error: Arc<FetchSvidError>,
    retry_at: Instant,
}

impl Holding {
    pub(super) fn valid_at(&self, now: SystemTime) -> Option<Arc<Svid>> {
        self.svid
            .as_ref()
            .filter(|svid| now <= svid.not_after())
            .cloned()
    }

    /// Whether nothing will change before `deadline`.
    pub(super) fn hopeless_until(&self, deadline: Instant) -> bool {
        self.failure
            .as_ref()
            .is_some_and(|failure| failure.retry_at > deadline)
    }

    pub(super) fn status(&self, id: &SpiffeId) -> SvidStatus {
        SvidStatus {
            id: id.clone(),
            serial: self.svid.as_ref().map(|svid| svid.serial()),
            not_before: self.svid.as_ref().map(|svid| svid.not_before()),
            not_after: self.svid.as_ref().map(|svid| svid.not_after()),
            last_error: self
                .failure
                .as_ref()
                .map(|failure| with_causes(failure.error.as_ref())),
        }
    }
}

impl Keeper {
    pub(super) fn new(source: Arc<dyn SvidSource>, settings: SvidManagerSettings) -> Self {
        let fetches_max = settings.fetches_max.max(1);
        let background_max = fetches_max.saturating_sub(RESERVED_FETCHES).max(1);
        Keeper {
            source,
            settings,
            fetches: Semaphore::new(fetches_max),
            background: Semaphore::new(background_max),
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.settings.clock)()
    }

    /// Runs until it is aborted.
    pub(super) async fn keep(
        self: Arc<Self>,
        id: SpiffeId,
        publish: watch::Sender<Holding>,
        demanded: watch::Sender<bool>,
    ) {
        let mut demand = demanded.subscribe();
        let mut failures = 0_u32;
        loop {
            match self.fetch(&id, &mut demand).await {
                Ok(svid) => {
                    failures = 0;
                    let renew_in = self.renew_in(&svid);
                    let renew_at = self.now() + renew_in;
                    tracing::info!(%id, serial = svid.serial(), ?renew_in, "certificate obtained");
                    publish.send_replace(Holding {
                        svid: Some(Arc::new(svid)),
                        failure: None,
                    });
                    // From now on only a renewal is due, and nobody waits for it.
                    demanded.send_replace(false);
                    self.wait_until(renew_at).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = self.backoff(failures);
                    let retry_at = Instant::now() + pause;
                    tracing::warn!(%id, error = with_causes(&error), retry_in = ?pause, "no certificate");
                    let failure = Failure {
                        error: Arc::new(error),
                        retry_at,
                    };
                    publish.send_modify(|holding| holding.failure = Some(failure));
                    sleep_until(retry_at).await;
                }
            }
        }
    }

    async fn fetch(
        &self,
        id: &SpiffeId,
        demand: &mut watch::Receiver<bool>,
    ) -> Result<Svid, FetchSvidError> {
        let closed = |_closed: AcquireError| FetchSvidError::Source {
            message: "the manager is closed".to_owned(),
        };
        let _room = self.room(demand).await.map_err(closed)?;
        let _fetch = self.fetches.acquire().await.map_err(closed)?;
        let limit = self.settings.fetch_timeout;
        let svid = timeout(limit, self.source.fetch(id))
            .await
            .unwrap_or(Err(FetchSvidError::Timeout { limit }))?;
        if svid.not_after() <= self.now() {
            return Err(FetchSvidError::ExpiredOnArrival);
        }
        Ok(svid)
    }

    /// Room among the background fetches, or none at all once a connection waits.
    async fn room(
        &self,
        demand: &mut watch::Receiver<bool>,
    ) -> Result<Option<SemaphorePermit<'_>>, AcquireError> {
        tokio::select! {
            biased;
            // Cancel safe: waiting on a value takes nothing.
            _demanded = demand.wait_for(|demanded| *demanded) => Ok(None),
            // Cancel safe: only the place in the queue is lost.
            permit = self.background.acquire() => permit.map(Some),
        }
    }

    /// Half of what is left when the certificate comes, give or take a tenth of that.
    ///
    /// What is left counts, not the whole lifetime: certificates begin in the past, and with a short lifetime its middle
    /// may be over on arrival.
    fn renew_in(&self, svid: &Svid) -> Duration {
        let left = svid
            .not_after()
            .duration_since(self.now())
            .unwrap_or_default();
        self.spread(left / 2, RENEWAL_JITTER).max(RENEWAL_MIN)
    }

    fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(BACKOFF_DOUBLINGS_MAX);
        let pause = self.settings.backoff_min.saturating_mul(1 << doublings);
        self.spread(pause.min(self.settings.backoff_max), BACKOFF_JITTER)
    }

    fn spread(&self, length: Duration, share: f64) -> Duration {
        let factor = 1.0 + share * (self.settings.jitter)().clamp(-1.0, 1.0);
        Duration::try_from_secs_f64(length.as_secs_f64() * factor).unwrap_or(length)
    }

    async fn wait_until(&self, moment: SystemTime) {
        wait_while(|| moment.duration_since(self.now()).unwrap_or_default()).await;
    }
}

/// Fetches kept free for connections that wait.
const RESERVED_FETCHES: usize = 2;
const RENEWAL_JITTER: f64 = 0.1;
/// However short a certificate lives, the authority is not asked more often.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
const BACKOFF_JITTER: f64 = 0.2;
/// Enough for any ratio of pauses, and no overflow.
const BACKOFF_DOUBLINGS_MAX: u32 = 20;
