use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use super::*;
use crate::{CertificateAuthority, KeyRequest};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn id(account: &str) -> SpiffeId {
    format!("spiffe://a.tulle/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

/// A wall clock that follows tokio's paused time, and can be set.
#[derive(Clone)]
struct Clock {
    epoch: SystemTime,
    start: Instant,
    jump: Arc<Mutex<Duration>>,
}

impl Clock {
    fn new() -> Self {
        let (epoch, start) = (SystemTime::now(), Instant::now());
        Clock {
            epoch,
            start,
            jump: Arc::default(),
        }
    }

    fn now(&self) -> SystemTime {
        self.epoch + self.start.elapsed() + *self.jump.lock().unwrap()
    }

    fn set_forward(&self, by: Duration) {
        *self.jump.lock().unwrap() += by;
    }
}

/// An authority whose answers the test decides.
struct Script {
    authority: CertificateAuthority,
    clock: Clock,
    ttl: Duration,
    /// When each fetch began, and for whom.
    fetches: Mutex<Vec<(Instant, SpiffeId)>>,
    /// How many fail, from now on.
    failures: AtomicUsize,
    /// Each fetch takes one of these before it answers.
    gate: Semaphore,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
}

impl Script {
    fn new(clock: &Clock, ttl: Duration) -> Arc<Self> {
        let domain = "a.tulle".parse().unwrap();
        Arc::new(Script {
            authority: CertificateAuthority::ephemeral(&domain, clock.now()).unwrap(),
            clock: clock.clone(),
            ttl,
            fetches: Mutex::default(),
            failures: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            under_way: AtomicUsize::new(0),
            under_way_max: AtomicUsize::new(0),
        })
    }

    fn closed(clock: &Clock, ttl: Duration) -> Arc<Self> {
        let mut script = Script::new(clock, ttl);
        Arc::get_mut(&mut script).unwrap().gate = Semaphore::new(0);
        script
    }

    fn fetched(&self) -> usize {
        self.fetches.lock().unwrap().len()
    }

    /// The pauses between the fetches.
    fn pauses(&self) -> Vec<Duration> {
        let fetches = self.fetches.lock().unwrap();
        fetches
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0)
            .collect()
    }
}

#[async_trait::async_trait]
impl SvidSource for Script {
    async fn fetch(&self, id: &SpiffeId) -> Result<Svid, FetchSvidError> {
        self.fetches
            .lock()
            .unwrap()
            .push((Instant::now(), id.clone()));
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.under_way_max.fetch_max(under_way, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let fail = |left: usize| left.checked_sub(1);
        if self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fail)
            .is_ok()
        {
            return Err(FetchSvidError::Source {
                message: "closed today".to_owned(),
            });
        }
        let request = KeyRequest::new(id).unwrap();
        let now = self.clock.now();
        let issued = self
            .authority
            .sign_csr(request.csr_pem(), id, self.ttl, now)
            .unwrap();
        Ok(request.into_svid(&issued.leaf_pem).unwrap())
    }
}

/// Jitter that takes the given values, then zero.
fn settings(clock: &Clock, jitter: &[f64]) -> SvidManagerSettings {
    let clock = clock.clone();
    let values = Mutex::new(jitter.iter().copied().collect::<VecDeque<f64>>());
    SvidManagerSettings {
        clock: Arc::new(move || clock.now()),
        jitter: Arc::new(move || values.lock().unwrap().pop_front().unwrap_or(0.0)),
        ..SvidManagerSettings::default()
    }
}

/// Lets time pass until `condition` holds; paused time costs nothing.
async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + 1000 * HOUR;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_callers_share_one_fetch() {
    let clock = Clock::new();
    let script = Script::closed(&clock, HOUR);
    let manager = Arc::new(SvidManager::new(script.clone(), settings(&clock, &[])));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.get(&id("app")).await.unwrap() })
        })
        .collect();
    until(|| script.fetched() == 1).await;
    script.gate.add_permits(100);
    let mut svids = Vec::new();
    for caller in callers {
        svids.push(caller.await.unwrap());
    }
    assert!(svids.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
    assert_eq!(script.fetched(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_life_give_or_take_a_tenth() {
    let half = HOUR / 2;
    for (jitter, expected) in [
        (0.0, half),
        (1.0, half + 3 * MINUTE),
        (-1.0, half - 3 * MINUTE),
    ] {
        let clock = Clock::new();
        let script = Script::new(&clock, HOUR);
        let manager = SvidManager::new(script.clone(), settings(&clock, &[jitter]));
        let first = manager.get(&id("app")).await.unwrap();
        until(|| script.fetched() == 2).await;
        let pause = script.pauses()[0];
        // Certificates count whole seconds.
        assert!(pause.abs_diff(expected) <= SECOND, "{jitter}: {pause:?}");
        until(|| manager.list()[0].serial != Some(first.serial())).await;
        let second = manager.get(&id("app")).await.unwrap();
        assert_ne!(first.serial(), second.serial());
        assert!(
            first.not_after() > clock.now(),
            "connections on the old one are not hurried"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_holds_a_certificate_hears_of_the_next_one() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    let first = manager.get(&id("app")).await.unwrap();
    let begun = Instant::now();
    manager.renewed(&id("app"), &first).await;
    let waited = begun.elapsed();
    assert!(waited.abs_diff(HOUR / 2) <= SECOND, "{waited:?}");
    let second = manager.get(&id("app")).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    // At once, for whoever comes late; never, where there is nothing to come.
    manager.renewed(&id("app"), &first).await;
    manager.forget(&id("app"));
    let app = id("app");
    let never = manager.renewed(&app, &second);
    assert!(timeout_at(begun + 24 * HOUR, never).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_old_certificate_serves_while_renewal_fails_and_not_beyond_its_end() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    let first = manager.get(&id("app")).await.unwrap();
    script.failures.store(usize::MAX, Ordering::SeqCst);
    until(|| clock.now() + SECOND >= first.not_after()).await;
    assert_eq!(
        manager.get(&id("app")).await.unwrap().serial(),
        first.serial()
    );
    let status = &manager.list()[0];
    assert_eq!(status.serial, Some(first.serial()));
    assert_eq!(status.not_after, Some(first.not_after()));
    assert_eq!(
        status.last_error.as_deref(),
        Some("the source failed: closed today")
    );

    until(|| clock.now() > first.not_after() + SECOND).await;
    let error = manager.get(&id("app")).await.unwrap_err();
    assert!(matches!(error, GetSvidError::Failed { .. }), "{error:?}");

    script.failures.store(0, Ordering::SeqCst);
    until(|| manager.list()[0].last_error.is_none()).await;
    assert_ne!(
        manager.get(&id("app")).await.unwrap().serial(),
        first.serial()
    );
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_from_one_second_to_150_and_start_over_after_success() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    script.failures.store(11, Ordering::SeqCst);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    manager.prefetch(&id("app")).unwrap();
    until(|| script.fetched() == 12).await;
    let seconds: Vec<u64> = script
        .pauses()
        .iter()
        .map(|pause| (*pause + SECOND / 2).as_secs())
        .collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150, 150]);

    script.failures.store(1, Ordering::SeqCst);
    until(|| script.fetched() == 14).await;
    let last = script.pauses()[12];
    assert!(last.abs_diff(SECOND) < SECOND / 2, "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn pauses_are_spread() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    script.failures.store(2, Ordering::SeqCst);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[1.0, -1.0]));
    manager.prefetch(&id("app")).unwrap();
    until(|| script.fetched() == 3).await;
    let pauses = script.pauses();
    assert!(
        pauses[0].abs_diff(Duration::from_millis(1200)) < SECOND / 20,
        "{pauses:?}"
    );
    assert!(
        pauses[1].abs_diff(Duration::from_millis(1600)) < SECOND / 20,
        "{pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiting_connection_outlives_a_failure_that_is_mended_in_time() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    script.failures.store(2, Ordering::SeqCst);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    let start = Instant::now();
    manager.get(&id("app")).await.unwrap();
    assert!(start.elapsed() < 4 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_connection_does_not_wait_when_the_next_attempt_comes_too_late() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    script.failures.store(usize::MAX, Ordering::SeqCst);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    manager.prefetch(&id("app")).unwrap();
    until(|| script.fetched() == 6).await;
    let start = Instant::now();
    let error = manager.get(&id("app")).await.unwrap_err();
    assert!(matches!(error, GetSvidError::Failed { .. }), "{error:?}");
    assert!(start.elapsed() < SECOND / 10);
}

#[tokio::test(start_paused = true)]
async fn a_silent_authority_is_given_up_in_time() {
    let clock = Clock::new();
    let script = Script::closed(&clock, HOUR);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    let start = Instant::now();
    let error = manager.get(&id("app")).await.unwrap_err();
    assert!(matches!(error, GetSvidError::Timeout { .. }), "{error:?}");
    assert_eq!(start.elapsed().as_secs(), 5);
    until(|| manager.list()[0].last_error.is_some()).await;
    assert_eq!(
        manager.list()[0].last_error.as_deref(),
        Some("no certificate within 15s")
    );
}

#[tokio::test(start_paused = true)]
async fn at_most_eight_fetches_run_and_two_are_kept_for_connections() {
    let clock = Clock::new();
    let script = Script::closed(&clock, HOUR);
    let mut settings = settings(&clock, &[]);
    settings.fetch_timeout = HOUR;
    settings.wait = HOUR;
    let manager = Arc::new(SvidManager::new(script.clone(), settings));
    for number in 0..50 {
        manager
            .prefetch(&id(&format!("prefetched-{number}")))
            .unwrap();
    }
    until(|| script.fetched() == 6).await;
    let waiting: Vec<_> = ["prefetched-40", "new-1", "new-2"]
        .into_iter()
        .map(|account| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.get(&id(account)).await.unwrap() })
        })
        .collect();
    until(|| script.fetched() == 8).await;
    {
        let fetches = script.fetches.lock().unwrap();
        let demanded = |account: &str| fetches.iter().any(|(_, fetched)| *fetched == id(account));
        // Two of the three that wait overtook 44 that do not.
        let overtook = ["prefetched-40", "new-1", "new-2"]
            .into_iter()
            .filter(|a| demanded(a));
        assert_eq!(overtook.count(), 2);
    }
    script.gate.add_permits(1000);
    for caller in waiting {
        caller.await.unwrap();
    }
    until(|| manager.list().iter().all(|status| status.serial.is_some())).await;
    assert_eq!(manager.list().len(), 52);
    assert_eq!(script.fetched(), 52);
    assert_eq!(script.under_way_max.load(Ordering::SeqCst), 8);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_identity_is_not_renewed_and_its_waiters_hear_of_it() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    let manager = Arc::new(SvidManager::new(script.clone(), settings(&clock, &[])));
    let svid = manager.get(&id("app")).await.unwrap();
    manager.forget(&id("app"));
    assert!(manager.list().is_empty());
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(script.fetched(), 1);
    assert_eq!(*svid.id(), id("app"));

    let script = Script::closed(&clock, HOUR);
    let manager = Arc::new(SvidManager::new(script.clone(), settings(&clock, &[])));
    let waiter = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.get(&id("app")).await })
    };
    until(|| script.fetched() == 1).await;
    manager.forget(&id("app"));
    let error = waiter.await.unwrap().unwrap_err();
    assert!(matches!(error, GetSvidError::Forgotten { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_renewed_after_the_manager_is_gone() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    manager.get(&id("app")).await.unwrap();
    drop(manager);
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(script.fetched(), 1);
    assert_eq!(Arc::strong_count(&script), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_is_noticed() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    manager.get(&id("app")).await.unwrap();
    clock.set_forward(3 * HOUR);
    let jumped = Instant::now();
    until(|| script.fetched() == 2).await;
    assert!(jumped.elapsed() <= 31 * SECOND, "{:?}", jumped.elapsed());
    manager.get(&id("app")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_expired_on_its_way_is_a_failure() {
    let clock = Clock::new();
    let behind = Clock {
        epoch: clock.epoch - 2 * HOUR,
        ..clock.clone()
    };
    let script = Script::new(&behind, HOUR);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    let error = manager.get(&id("app")).await.unwrap_err();
    assert!(matches!(error, GetSvidError::Failed { .. }), "{error:?}");
    assert!(
        manager.list()[0]
            .last_error
            .as_deref()
            .unwrap()
            .contains("clocks")
    );
    assert_eq!(manager.list()[0].serial, None);
}

#[tokio::test(start_paused = true)]
async fn a_very_short_lifetime_does_not_flood_the_authority() {
    let clock = Clock::new();
    let script = Script::new(&clock, SECOND);
    let manager = SvidManager::new(script.clone(), settings(&clock, &[]));
    manager.prefetch(&id("app")).unwrap();
    tokio::time::sleep(MINUTE).await;
    assert!(script.fetched() <= 62, "{}", script.fetched());
}

#[tokio::test(start_paused = true)]
async fn the_number_of_identities_is_bounded() {
    let clock = Clock::new();
    let script = Script::new(&clock, HOUR);
    let mut settings = settings(&clock, &[]);
    settings.identities_max = 2;
    let manager = SvidManager::new(script.clone(), settings);
    manager.prefetch(&id("a")).unwrap();
    manager.prefetch(&id("b")).unwrap();
    manager.prefetch(&id("a")).unwrap();
    let error = manager.get(&id("c")).await.unwrap_err();
    assert!(matches!(error, GetSvidError::TooMany { .. }), "{error:?}");
    manager.forget(&id("a"));
    manager.get(&id("c")).await.unwrap();
    assert_eq!(
        manager
            .list()
            .iter()
            .map(|status| status.id.clone())
            .collect::<Vec<_>>(),
        [id("b"), id("c")]
    );
}
