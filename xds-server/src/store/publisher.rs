//! Keeps the own etcd equal to the own state.
//!
//! Level-triggered: after every change, failure or restart it writes the difference between what etcd holds and what it should
//! hold. While etcd is away nothing queues up; the newest state is written when it is back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp};
use imbl::{OrdMap, ordmap::DiffItem};
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    client::{EtcdSettings, Listing, within},
    dial::dial,
    error::EtcdError,
    plan::PublishPlan,
};
use crate::{chain::Chain, metrics::Metrics, status::StatusBoard, world::OwnState};

/// Publishes until `stop`.
pub async fn publish(
    plan: PublishPlan,
    settings: EtcdSettings,
    mut states: watch::Receiver<OwnState>,
    status: Arc<StatusBoard>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut publisher = Publisher {
        plan,
        settings,
        status,
        metrics,
        last_beat: 0,
    };
    let mut pause = PAUSE_MIN;
    let mut attempt = 0;
    loop {
        let began = Instant::now();
        let ended = tokio::select! { // Cancel-safe: what is half written is seen and completed by the next session.
            () = stop.cancelled() => return,
            ended = publisher.session(&mut states, attempt) => ended,
        };
        let Err(error) = ended else { return };
        publisher.note(&error);
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        attempt += 1;
        let jitter = rand::rng().random_range(0.5..1.5);
        tokio::select! { // Cancel-safe: both arms only wait.
            () = stop.cancelled() => return,
            () = sleep(pause.mul_f64(jitter)) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

struct Publisher {
    plan: PublishPlan,
    settings: EtcdSettings,
    status: Arc<StatusBoard>,
    metrics: Arc<Metrics>,
    last_beat: u64,
}

struct Heart {
    lease: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    kept: Instant,
    beaten: Instant,
}

impl Publisher {
    /// One connection's life: ends with the first failure, or when nobody changes the state any more.
    async fn session(
        &mut self,
        states: &mut watch::Receiver<OwnState>,
        attempt: usize,
    ) -> Result<(), EtcdError> {
        let dialled = dial(&self.settings, attempt, &self.plan.first).await?;
        let mut client = dialled.client;
        let mut heart = new_heart(&mut client, self.plan.lease_ttl).await?;
        self.beat(&mut client, &mut heart).await?;
        let mut held = self.read(&mut client).await?;
        self.status.update(|s| match self.plan.is_own() {
            true => {
                s.store.connected = true;
                s.store.etcd_id = Some(dialled.etcd_id);
            }
            false => s.store.cilium = Some(false),
        });
        // Only what is there after the source was read may be taken for the whole.
        let mut published = false;
        let mut ticks = interval(self.plan.heartbeat_interval.min(KEEP_INTERVAL_MAX));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        states.mark_changed();
        loop {
            tokio::select! { // Cancel-safe: ticks and changes are only waited for here.
                _ = ticks.tick() => self.keep(&mut client, &mut heart).await?,
                changed = states.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let state = states.borrow_and_update().clone();
                    let bytes = self.write(&mut client, &mut heart, &mut held, &state).await?;
                    if state.complete && !published {
                        self.put_marks(&mut client, &heart).await?;
                        published = true;
                    }
                    self.show(&state, published, bytes);
                }
            }
        }
    }

    fn show(&self, state: &OwnState, published: bool, bytes: usize) {
        self.status.update(|s| {
            if !self.plan.is_own() {
                s.store.cilium = Some(published);
                return;
            }
            s.store.published = published;
            s.store.keys = state.entries.len();
            s.store.last_error = None;
            if bytes > 0 {
                s.store.last_change_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            }
        });
    }

    /// What etcd holds of us.
    async fn read(&self, client: &mut Client) -> Result<OrdMap<Arc<str>, Bytes>, EtcdError> {
        let mut held = BTreeMap::new();
        for prefix in &self.plan.prefixes {
            let mut listing = Listing::new(prefix, 0);
            while let Some(page) = listing.next(client).await? {
                // A value that nobody can have written for us is one that should not be there.
                let strange = page.too_large.into_iter().map(|key| (key, Vec::new()));
                let pairs = page.pairs.into_iter().map(|p| (p.key, p.value));
                for (key, value) in pairs.chain(strange) {
                    let Ok(key) = String::from_utf8(key) else {
                        continue;
                    };
                    if !self.plan.is_special(&key) {
                        held.insert(Arc::from(key), Bytes::from(value));
                    }
                }
            }
        }
        for key in &self.plan.singles {
            let mut answer = within("read a key", client.get(key.as_str(), None)).await?;
            for pair in answer.take_kvs() {
                let (_, value) = pair.into_key_value();
                held.insert(Arc::from(key.as_str()), Bytes::from(value));
            }
        }
        // Sorted already; the map is built at once.
        Ok(held.into())
    }

    /// Writes the difference, in transactions; `held` follows what is written. Answers how many bytes that took.
    ///
    /// Deletions come last: what moves from one key to another is never gone in between.
    async fn write(
        &mut self,
        client: &mut Client,
        heart: &mut Heart,
        held: &mut OrdMap<Arc<str>, Bytes>,
        state: &OwnState,
    ) -> Result<usize, EtcdError> {
        let mut batch = Batch::default();
        let (before, wanted) = (held.clone(), &state.entries);
        let mut gone = Vec::new();
        if let Some(value) = wanted.get(self.plan.first.as_str())
            && before.get(self.plan.first.as_str()) != Some(value)
        {
            batch.put(&self.plan.first, value);
        }
        for item in before.diff(wanted) {
            match item {
                DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. }
                    if **key == *self.plan.first => {}
                DiffItem::Add(key, value)
                | DiffItem::Update {
                    new: (key, value), ..
                } => {
                    if value.len() > PUT_BYTES_MAX {
                        self.note_too_large(key, value.len());
                        continue;
                    }
                    if batch.bytes + value.len() > BATCH_BYTES_MAX {
                        self.commit(client, &mut batch).await?;
                    }
                    batch.put(key, value);
                }
                DiffItem::Remove(key, _) if state.complete => gone.push(Arc::clone(key)),
                DiffItem::Remove(..) => {}
            }
            self.commit_full(client, heart, &mut batch).await?;
        }
        for key in gone {
            batch.delete(&key);
            self.commit_full(client, heart, &mut batch).await?;
        }
        self.commit(client, &mut batch).await?;
        // While the state is incomplete, what etcd holds more than we know stays, in `held` too.
        *held = if state.complete {
            wanted.clone()
        } else {
            wanted.clone().union(before)
        };
        let bytes = batch.written;
        if bytes > 0 {
            self.metrics.count_written(bytes);
        }
        Ok(bytes)
    }

    async fn commit_full(
        &mut self,
        client: &mut Client,
        heart: &mut Heart,
        batch: &mut Batch,
    ) -> Result<(), EtcdError> {
        if !batch.is_full() {
            return Ok(());
        }
        self.commit(client, batch).await?;
        // A long first publication must not look like silence.
        self.keep(client, heart).await
    }

    async fn commit(&self, client: &mut Client, batch: &mut Batch) -> Result<(), EtcdError> {
        if batch.ops.is_empty() {
            return Ok(());
        }
        let ops = std::mem::take(&mut batch.ops);
        batch.bytes = 0;
        let len = u64::try_from(ops.len()).unwrap_or(u64::MAX);
        within("write", client.txn(Txn::new().and_then(ops))).await?;
        self.metrics.store_writes.inc_by(len);
        Ok(())
    }

    async fn put_marks(&self, client: &mut Client, heart: &Heart) -> Result<(), EtcdError> {
        for mark in &self.plan.marks {
            let options = self
                .plan
                .marks_are_leased()
                .then(|| PutOptions::new().with_lease(heart.lease));
            within(
                "write",
                client.put(mark.as_str(), self.plan.mark(), options),
            )
            .await?;
        }
        tracing::info!(
            layout = self.plan.name(),
            "the cluster's state is published"
        );
        Ok(())
    }

    /// What is due of the heartbeat and of the lease that it hangs on.
    async fn keep(&mut self, client: &mut Client, heart: &mut Heart) -> Result<(), EtcdError> {
        if heart.beaten.elapsed() >= self.plan.heartbeat_interval {
            self.beat(client, heart).await?;
        }
        if heart.kept.elapsed() >= (self.plan.lease_ttl / 4).min(KEEP_INTERVAL_MAX) {
            within("keep the lease", heart.keeper.keep_alive()).await?;
            let answer = within("keep the lease", heart.answers.message()).await?;
            if answer.is_none_or(|a| a.ttl() <= 0) {
                return Err(EtcdError::LeaseLost);
            }
            heart.kept = Instant::now();
        }
        Ok(())
    }

    async fn beat(&mut self, client: &mut Client, heart: &mut Heart) -> Result<(), EtcdError> {
        let options = PutOptions::new().with_lease(heart.lease);
        let beat = self.plan.beat(&mut self.last_beat);
        let put = client.put(self.plan.heartbeat.as_str(), beat, Some(options));
        // A tick that is a moment early must not wait for the next.
        heart.beaten = Instant::now() - BEAT_EARLY.min(self.plan.heartbeat_interval / 4);
        within("heartbeat", put).await.map(drop)
    }

    fn note_too_large(&self, key: &str, len: usize) {
        self.metrics.store_errors.inc();
        let text = format!(
            "{key} is not published: {len} bytes are more than an etcd takes ({PUT_BYTES_MAX})"
        );
        tracing::warn!("{text}");
        self.status.update(|s| s.store.last_error = Some(text));
    }

    fn note(&self, error: &EtcdError) {
        self.metrics.store_errors.inc();
        let text = Chain(error).to_string();
        tracing::warn!(layout = self.plan.name(), "the own etcd fails: {text}");
        self.status.update(|s| {
            if self.plan.is_own() {
                s.store.connected = false;
                s.store.published = false;
            } else {
                s.store.cilium = Some(false);
            }
            s.store.last_error = Some(text);
        });
    }
}

async fn new_heart(client: &mut Client, ttl: Duration) -> Result<Heart, EtcdError> {
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let lease = within("take a lease", client.lease_grant(ttl, None))
        .await?
        .id();
    let (keeper, answers) = within("keep the lease", client.lease_keep_alive(lease)).await?;
    let now = Instant::now();
    Ok(Heart {
        lease,
        keeper,
        answers,
        kept: now,
        beaten: now,
    })
}

/// A transaction in the making.
#[derive(Default)]
struct Batch {
    ops: Vec<TxnOp>,
    bytes: usize,
    /// By all transactions.
    written: usize,
}

impl Batch {
    fn put(&mut self, key: &str, value: &Bytes) {
        self.bytes += value.len();
        self.written += key.len() + value.len();
        self.ops.push(TxnOp::put(key, value.to_vec(), None));
    }

    fn delete(&mut self, key: &str) {
        self.written += key.len();
        self.ops.push(TxnOp::delete(key, None));
    }

    fn is_full(&self) -> bool {
        self.ops.len() >= BATCH_OPS_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

/// A lease is kept at least so often, so that a lost etcd is noticed.
const KEEP_INTERVAL_MAX: Duration = Duration::from_secs(5);
const BEAT_EARLY: Duration = Duration::from_millis(20);
/// etcd takes 128 operations and 1.5 MiB in one transaction.
const BATCH_OPS_MAX: usize = 100;
/// One value with its key still fits into a request alone.
const PUT_BYTES_MAX: usize = 1400 << 10;
const BATCH_BYTES_MAX: usize = 512 << 10;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
