//! Keeps the own etcd equal to the own state.
//!
//! Level-triggered: after every change, failure or restart it writes the difference between what etcd holds and what it should
//! hold. While etcd is away nothing queues up; the newest state is written when it is back.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp};
use imbl::{OrdMap, ordmap::DiffItem};
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tulle_model::ClusterName;

use super::client::{EtcdError, EtcdSettings, connect, list, within};
use crate::{chain::Chain, layout, metrics::Metrics, status::StatusBoard, world::OwnState};

/// Publishes until `stop`.
pub async fn publish(
    cluster: ClusterName,
    settings: EtcdSettings,
    mut states: watch::Receiver<OwnState>,
    status: Arc<StatusBoard>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    status.update(|s| s.store.kind = "etcd");
    let prefix = layout::prefix(&cluster);
    let mut publisher = Publisher {
        prefix,
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
        let jitter = rand::rng().random_range(0.8..1.2);
        tokio::select! { // Cancel-safe: both arms only wait.
            () = stop.cancelled() => return,
            () = sleep(pause.mul_f64(jitter)) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

struct Publisher {
    prefix: String,
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
}

impl Publisher {
    /// One connection's life: ends with the first failure, or when nobody changes the state any more.
    async fn session(
        &mut self,
        states: &mut watch::Receiver<OwnState>,
        attempt: usize,
    ) -> Result<(), EtcdError> {
        let probe = self.key(layout::INFO);
        let mut client = connect(&self.settings, attempt, &probe).await?;
        let mut heart = new_heart(&mut client).await?;
        self.beat(&mut client, &mut heart).await?;
        let mut held = self.read(&client).await?;
        self.status.update(|s| s.store.connected = true);
        // Only what is there after the source was read may be taken for the whole.
        let mut published = held.contains_key(layout::SYNCED);
        let mut beats = interval(HEARTBEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        states.mark_changed();
        loop {
            tokio::select! { // Cancel-safe: ticks and changes are only waited for here.
                _ = beats.tick() => self.beat(&mut client, &mut heart).await?,
                changed = states.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let state = states.borrow_and_update().clone();
                    self.write(&mut client, &mut heart, &mut held, &state).await?;
                    if state.complete && !published {
                        self.put_synced(&mut client).await?;
                        published = true;
                    }
                    let keys = state.entries.len();
                    self.status.update(|s| {
                        s.store.published = published && state.complete;
                        s.store.keys = keys;
                        s.store.last_error = None;
                    });
                }
            }
        }
    }

    /// What etcd holds of us, without the heartbeat.
    async fn read(&self, client: &Client) -> Result<OrdMap<Arc<str>, Bytes>, EtcdError> {
        let (pairs, _revision) = list(client, &self.prefix).await?;
        let ours = pairs.into_iter().filter_map(|pair| {
            let key = String::from_utf8_lossy(&pair.key).into_owned();
            let key = key.strip_prefix(&self.prefix)?;
            (key != layout::HEARTBEAT).then(|| (Arc::from(key), Bytes::from(pair.value)))
        });
        // Sorted already; the map is built at once.
        Ok(ours.collect::<BTreeMap<_, _>>().into())
    }

    /// Writes the difference, in transactions; `held` follows what is written.
    async fn write(
        &mut self,
        client: &mut Client,
        heart: &mut Heart,
        held: &mut OrdMap<Arc<str>, Bytes>,
        state: &OwnState,
    ) -> Result<(), EtcdError> {
        let mut batch = Batch::default();
        let wanted = &state.entries;
        let before = held.clone();
        for item in before.diff(wanted) {
            match item {
                DiffItem::Add(key, value)
                | DiffItem::Update {
                    new: (key, value), ..
                } => {
                    batch.put(&self.prefix, key, value);
                }
                DiffItem::Remove(key, _) if state.complete && **key != *layout::SYNCED => {
                    batch.delete(&self.prefix, key);
                }
                DiffItem::Remove(..) => {}
            }
            if batch.is_full() {
                self.commit(client, &mut batch).await?;
                // A long first publication must not look like silence.
                if heart.kept.elapsed() >= HEARTBEAT_INTERVAL {
                    self.beat(client, heart).await?;
                }
            }
        }
        self.commit(client, &mut batch).await?;
        // While the state is incomplete, what etcd holds more than we know stays, in `held` too.
        *held = if state.complete {
            wanted.clone()
        } else {
            wanted.clone().union(before)
        };
        Ok(())
    }

    async fn commit(&self, client: &mut Client, batch: &mut Batch) -> Result<(), EtcdError> {
        if batch.ops.is_empty() {
            return Ok(());
        }
        let ops = std::mem::take(batch).ops;
        let len = u64::try_from(ops.len()).unwrap_or(u64::MAX);
        within("write", client.txn(Txn::new().and_then(ops))).await?;
        self.metrics.store_writes.inc_by(len);
        Ok(())
    }

    async fn put_synced(&self, client: &mut Client) -> Result<(), EtcdError> {
        within("write", client.put(self.key(layout::SYNCED), "true", None)).await?;
        tracing::info!("the cluster's state is published");
        Ok(())
    }

    /// Every value is new, also after a restart and when the clock steps back within a run.
    async fn beat(&mut self, client: &mut Client, heart: &mut Heart) -> Result<(), EtcdError> {
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let clock = u64::try_from(clock).unwrap_or(u64::MAX);
        self.last_beat = clock.max(self.last_beat.saturating_add(1));
        let options = PutOptions::new().with_lease(heart.lease);
        let put = client.put(
            self.key(layout::HEARTBEAT),
            self.last_beat.to_string(),
            Some(options),
        );
        within("heartbeat", put).await?;
        if heart.kept.elapsed() >= LEASE_TTL / 4 {
            within("keep the lease", heart.keeper.keep_alive()).await?;
            let answer = within("keep the lease", heart.answers.message()).await?;
            if answer.is_none_or(|a| a.ttl() <= 0) {
                return Err(EtcdError::LeaseLost);
            }
            heart.kept = Instant::now();
        }
        Ok(())
    }

    fn note(&self, error: &EtcdError) {
        self.metrics.store_errors.inc();
        let text = Chain(error).to_string();
        tracing::warn!("the own etcd fails: {text}");
        self.status.update(|s| {
            s.store.connected = false;
            s.store.published = false;
            s.store.last_error = Some(text);
        });
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

async fn new_heart(client: &mut Client) -> Result<Heart, EtcdError> {
    let ttl = i64::try_from(LEASE_TTL.as_secs()).unwrap_or(i64::MAX);
    let lease = within("take a lease", client.lease_grant(ttl, None))
        .await?
        .id();
    let (keeper, answers) = within("keep the lease", client.lease_keep_alive(lease)).await?;
    Ok(Heart {
        lease,
        keeper,
        answers,
        kept: Instant::now(),
    })
}

/// A transaction in the making.
#[derive(Default)]
struct Batch {
    ops: Vec<TxnOp>,
    bytes: usize,
}

impl Batch {
    fn put(&mut self, prefix: &str, key: &str, value: &Bytes) {
        self.bytes += value.len();
        self.ops
            .push(TxnOp::put(format!("{prefix}{key}"), value.to_vec(), None));
    }

    fn delete(&mut self, prefix: &str, key: &str) {
        self.ops.push(TxnOp::delete(format!("{prefix}{key}"), None));
    }

    fn is_full(&self) -> bool {
        self.ops.len() >= BATCH_OPS_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Long against an etcd restart, so that a short one leaves the key where it is.
const LEASE_TTL: Duration = Duration::from_secs(20);
/// etcd takes 128 operations and 1.5 MiB in one transaction.
const BATCH_OPS_MAX: usize = 100;
const BATCH_BYTES_MAX: usize = 512 << 10;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
