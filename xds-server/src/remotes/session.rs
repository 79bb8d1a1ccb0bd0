//! One other cluster: connect, be admitted, list, watch; and again after every failure, with growing pauses.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use rand::Rng as _;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tulle_model::{Change, ClusterName};

use super::{
    RemoteEvent, RemotesContext, Turn,
    dialect::{Dialect, RemoteKind, Said},
    liveness::Liveness,
};
use crate::{
    chain::Chain,
    store::{EtcdError, EtcdSettings, KeyEvent, KeyState, Reader},
};

/// Reads a cluster until `stop`. The settings may change meanwhile.
pub(super) async fn read(
    cluster: ClusterName,
    kind: RemoteKind,
    settings: watch::Receiver<EtcdSettings>,
    context: RemotesContext,
) {
    let stop = context.stop.clone();
    let mut session = Session {
        dialect: Dialect::new(kind, &cluster),
        liveness: Liveness::new(kind, Instant::now()),
        cluster,
        settings,
        context,
        attempt: 0,
        next: None,
        faults: BTreeSet::new(),
        turns: Arc::new(Semaphore::new(BATCHES_MAX)),
    };
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        let ended = tokio::select! { // Cancel-safe: a session leaves nothing behind, events are sent whole.
            () = stop.cancelled() => return,
            ended = session.run() => ended,
        };
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        match ended {
            Ok(()) => continue,
            Err(EtcdError::Stopping) => return,
            Err(error) => session.note(&error),
        }
        session.attempt += 1;
        let jitter = rand::rng().random_range(0.5..1.5);
        tokio::select! { // Cancel-safe: all arms only wait.
            () = stop.cancelled() => return,
            // Whoever mends the settings need not wait.
            _ = session.settings.changed() => pause = PAUSE_MIN,
            () = sleep(pause.mul_f64(jitter)) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

struct Session {
    cluster: ClusterName,
    dialect: Dialect,
    liveness: Liveness,
    settings: watch::Receiver<EtcdSettings>,
    context: RemotesContext,
    attempt: usize,
    /// A connection with changed settings that has answered already.
    next: Option<Reader>,
    faults: BTreeSet<String>,
    turns: Arc<Semaphore>,
}

/// A dial beside the connection that is in use.
type Dialling = Pin<Box<dyn Future<Output = Result<Reader, EtcdError>> + Send>>;

impl Session {
    /// Ends well when it should begin again at once.
    async fn run(&mut self) -> Result<(), EtcdError> {
        let mut reader = match self.next.take() {
            Some(reader) => reader,
            None => {
                let settings = self.settings.borrow_and_update().clone();
                Reader::connect(&settings, self.attempt, &self.dialect.info_key()).await?
            }
        };
        self.admit(&mut reader).await?;
        self.context
            .status
            .connect_remote(&self.cluster, reader.address());
        if self.list(&mut reader).await? {
            return Ok(());
        }
        self.follow(&mut reader).await
    }

    /// Reads who the cluster is and asks whether it may come in.
    async fn admit(&mut self, reader: &mut Reader) -> Result<(), EtcdError> {
        let key = self.dialect.info_key();
        let (info, _) = reader.get(&key).await?;
        let Some(info) = info else {
            let own = self.context.status.own_etcd() == Some(reader.etcd_id());
            let why = if own {
                "the endpoints lead to this cluster's own etcd".to_owned()
            } else {
                format!("no cluster {} has published there yet", self.cluster)
            };
            return Err(self.refuse(format!(
                "cluster {} is refused: etcd has no key {key}: {why}",
                self.cluster
            )));
        };
        let bundle = match self.dialect.bundle_key() {
            Some(key) => reader.get(&key).await?.0,
            None => None,
        };
        let identity = match self.dialect.identify(&info, bundle.as_deref()) {
            Ok(identity) => identity,
            Err(refusal) => return Err(self.refuse(refusal)),
        };
        let (id, trust_domain) = (identity.id.value(), identity.trust_domain.clone());
        self.context.status.update_remote(&self.cluster, |r| {
            r.cluster_id = Some(id);
            r.trust_domain = Some(trust_domain);
        });
        let (reply, answer) = oneshot::channel();
        self.send(RemoteEvent::Admit { identity, reply }).await?;
        match answer.await {
            Ok(Ok(admission)) => {
                if admission.fresh {
                    self.dialect.clear();
                }
                self.context
                    .status
                    .update_remote(&self.cluster, |r| r.refused = None);
                Ok(())
            }
            Ok(Err(refusal)) => Err(self.refuse(refusal)),
            Err(_) => Err(EtcdError::Stopping),
        }
    }

    /// Reads everything; answers whether to begin again.
    async fn list(&mut self, reader: &mut Reader) -> Result<bool, EtcdError> {
        self.dialect.begin_lists();
        self.liveness.begin(Instant::now());
        let (mut revision, mut whole, mut keys) = (0, true, 0_usize);
        let mut restart = false;
        let heartbeat_key = self.dialect.heartbeat_key();
        for prefix in self.dialect.prefixes() {
            let mut list = reader.list(&prefix, revision);
            while let Some(page) = reader.next_page(&mut list).await? {
                let mut said = Said::default();
                keys += page.pairs.len() + page.too_large.len();
                for (key, value) in &page.pairs {
                    if *key == heartbeat_key {
                        self.liveness.listed(value, Instant::now());
                    }
                    self.dialect.put(key, value, &mut said);
                }
                for key in &page.too_large {
                    self.dialect.keep(key, &mut said);
                }
                restart |= said.restart;
                if keys > KEYS_LISTED_MAX {
                    whole = false;
                    said.fault_text(format!(
                        "more than {KEYS_LISTED_MAX} keys under {prefix}; the rest is not read"
                    ));
                }
                self.hand_over(said, false).await?;
                if !whole {
                    break;
                }
            }
            revision = revision.max(list.revision());
        }
        // The watch goes on where the first list was.
        reader.watch(&self.dialect.watches(), revision).await?;
        let mut said = Said::default();
        self.dialect.settle(&mut said);
        let complete = self.dialect.finish_lists(whole, &mut said);
        self.dialect.settle(&mut said);
        said.heartbeat = said.heartbeat.or(self.liveness.first_beat(Instant::now()));
        self.hand_over(said, complete).await?;
        tracing::info!(cluster = %self.cluster, complete, keys, "reading the cluster's state");
        self.show(reader);
        Ok(restart)
    }

    /// Follows what changes, until something breaks or it must begin again.
    async fn follow(&mut self, reader: &mut Reader) -> Result<(), EtcdError> {
        let mut ticks = interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settings = self.settings.clone();
        let mut dialling: Option<Dialling> = None;
        let mut changed_at = Instant::now();
        loop {
            tokio::select! { // Cancel-safe: events are taken whole; ticks and changes are only waited for here.
                events = reader.next() => {
                    if self.take_events(reader, events?).await? {
                        return Ok(());
                    }
                }
                _ = ticks.tick() => self.tick(reader).await?,
                changed = settings.changed() => {
                    changed.map_err(|_| EtcdError::Stopping)?;
                    changed_at = Instant::now();
                    let new = settings.borrow_and_update().clone();
                    dialling = Some(self.dial_beside(new, Duration::ZERO));
                }
                dialled = poll_option(&mut dialling) => match dialled {
                    Ok(reader) => {
                        self.settings.mark_unchanged();
                        self.next = Some(reader);
                        return Ok(());
                    }
                    // Files are not changed all at one moment; what was in force counts on a little.
                    Err(error) if changed_at.elapsed() < ROTATION_GRACE => {
                        self.note_fault(&format!("the changed settings do not work: {}", Chain(&error)));
                        let new = settings.borrow().clone();
                        dialling = Some(self.dial_beside(new, ROTATION_PAUSE));
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn dial_beside(&self, settings: EtcdSettings, pause: Duration) -> Dialling {
        let key = self.dialect.info_key();
        Box::pin(async move {
            sleep(pause).await;
            Reader::connect(&settings, 0, &key).await
        })
    }

    /// Answers whether to begin again.
    async fn take_events(
        &mut self,
        reader: &mut Reader,
        events: Vec<KeyEvent>,
    ) -> Result<bool, EtcdError> {
        let mut said = Said::default();
        let mut last: std::collections::BTreeMap<String, KeyState> =
            events.into_iter().map(|e| (e.key, e.now)).collect();
        let deleted: Vec<String> = last
            .extract_if(.., |_, now| *now == KeyState::Deleted)
            .map(|(key, _)| key)
            .collect();
        // What moves from one key to another is never gone in between.
        for (key, now) in &last {
            match now {
                KeyState::Value(value) => self.dialect.put(key, value, &mut said),
                KeyState::TooLarge(_) => self.dialect.keep(key, &mut said),
                KeyState::Deleted => {}
            }
        }
        for key in &deleted {
            self.dialect.delete(key, &mut said);
        }
        self.dialect.settle(&mut said);
        if let Some(value) = last.get(&self.dialect.heartbeat_key()) {
            said.heartbeat = self.liveness.heard(value, said.heartbeat, Instant::now());
        }
        let changed = !said.changes.is_empty();
        let restart = said.restart;
        self.hand_over(said, false).await?;
        self.count_bytes(reader, changed);
        Ok(restart)
    }

    /// Silence may be the cluster's or the connection's; one read tells which.
    async fn tick(&mut self, reader: &mut Reader) -> Result<(), EtcdError> {
        if self.liveness.wants_look(Instant::now()) {
            let (value, _) = reader.get(&self.dialect.heartbeat_key()).await?;
            let beat = self.liveness.looked(value.as_deref(), Instant::now())?;
            let said = Said {
                heartbeat: beat,
                ..Said::default()
            };
            self.hand_over(said, false).await?;
        }
        self.show(reader);
        Ok(())
    }

    /// Gives the world what was said, in parts, and waits until it is taken: a flood waits here, before the world.
    async fn hand_over(&mut self, said: Said, complete: bool) -> Result<(), EtcdError> {
        self.note_faults(&said);
        let mut changes = said.changes.into_iter();
        let mut heartbeat = said.heartbeat;
        loop {
            let part: Vec<Change> = changes.by_ref().take(CHANGES_LEN_MAX).collect();
            let last = changes.len() == 0;
            if part.is_empty() && heartbeat.is_none() && !(complete && last) {
                return Ok(());
            }
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            let turn = Turn(turn.map_err(|_| EtcdError::Stopping)?);
            self.send(RemoteEvent::Changes {
                cluster: self.cluster.clone(),
                changes: part,
                // A sign of life counts only with everything that was said before it.
                heartbeat: if last { heartbeat.take() } else { None },
                complete: complete && last,
                turn,
            })
            .await?;
            if last {
                return Ok(());
            }
        }
    }

    fn show(&self, reader: &mut Reader) {
        let (synced, counts) = (self.dialect.synced(), self.dialect.counts());
        self.context.status.update_remote(&self.cluster, |r| {
            r.synced = synced;
            r.counts.extend(counts);
        });
        self.count_bytes(reader, false);
    }

    fn count_bytes(&self, reader: &mut Reader, changed: bool) {
        let bytes = reader.take_bytes();
        self.context.metrics.count_read(&self.cluster, bytes);
        self.context.status.update_remote(&self.cluster, |r| {
            r.bytes.read += bytes;
            if changed {
                r.bytes.last_change = bytes;
                r.changes += 1;
            }
        });
    }

    fn refuse(&self, refusal: String) -> EtcdError {
        self.context
            .status
            .update_remote(&self.cluster, |r| r.refused = Some(refusal.clone()));
        EtcdError::Refused(refusal)
    }

    async fn send(&self, event: RemoteEvent) -> Result<(), EtcdError> {
        self.context
            .events
            .send(event)
            .await
            .map_err(|_| EtcdError::Stopping)
    }

    fn note(&mut self, error: &EtcdError) {
        self.context.metrics.remote_errors.inc();
        let text = Chain(error).to_string();
        let refused = error.is_refusal();
        if self.faults.len() >= FAULTS_MAX || self.faults.insert(text.clone()) {
            tracing::warn!(cluster = %self.cluster, "a remote cluster cannot be read: {text}");
        }
        self.context
            .status
            .disconnect_remote(&self.cluster, &text, refused);
    }

    fn note_fault(&mut self, text: &str) {
        self.context
            .status
            .update_remote(&self.cluster, |r| r.note_error(text));
        if self.faults.len() < FAULTS_MAX && self.faults.insert(text.to_owned()) {
            tracing::warn!(cluster = %self.cluster, "{text}");
        }
    }

    fn note_faults(&mut self, said: &Said) {
        self.context
            .metrics
            .remote_refusals
            .inc_by(said.faults_count);
        self.context.status.update_remote(&self.cluster, |r| {
            r.refusals += said.faults_count;
        });
        for fault in &said.faults {
            self.note_fault(fault);
        }
    }
}

/// Waits for the future, if there is one; it is gone when it has ended.
async fn poll_option(dialling: &mut Option<Dialling>) -> Result<Reader, EtcdError> {
    let Some(future) = dialling else {
        return std::future::pending().await;
    };
    let ended = future.await;
    *dialling = None;
    ended
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
/// So a cluster that is back is heard again within that time, whatever happened before.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How often liveness is looked at.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// How long changed settings may not work before they count all the same.
const ROTATION_GRACE: Duration = Duration::from_secs(10);
const ROTATION_PAUSE: Duration = Duration::from_millis(500);
/// Different faults that are logged; all are counted.
const FAULTS_MAX: usize = 64;
/// Changes that the world takes in at once.
const CHANGES_LEN_MAX: usize = 1000;
/// Of one cluster, before the world: others are served in between.
const BATCHES_MAX: usize = 1;
/// Keys that are read at most, whatever they are.
const KEYS_LISTED_MAX: usize = 500_000;
