//! One other cluster: connect, be admitted, list, watch; and again after every failure, with growing pauses.

use std::{collections::BTreeSet, time::Duration};

use rand::Rng as _;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tulle_model::ClusterName;

use super::{RemoteEvent, RemotesContext};
use crate::{
    chain::Chain,
    layout::ClusterInfo,
    store::{EtcdError, EtcdSettings, ReadEvent, Reader},
};

/// Reads a cluster until `stop`.
pub(super) async fn read(cluster: ClusterName, settings: EtcdSettings, context: RemotesContext) {
    let stop = context.stop.clone();
    let mut session = Session {
        cluster,
        settings,
        context,
        attempt: 0,
        faults: BTreeSet::new(),
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
        let jitter = rand::rng().random_range(0.8..1.2);
        tokio::select! { // Cancel-safe: both arms only wait.
            () = stop.cancelled() => return,
            () = sleep(pause.mul_f64(jitter)) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

struct Session {
    cluster: ClusterName,
    settings: EtcdSettings,
    context: RemotesContext,
    attempt: usize,
    faults: BTreeSet<String>,
}

impl Session {
    /// Ends well when it should begin again at once.
    async fn run(&mut self) -> Result<(), EtcdError> {
        let (mut reader, info) =
            Reader::connect(&self.cluster, &self.settings, self.attempt).await?;
        self.admit(info).await?;
        let listed = reader.list().await?;
        reader.watch(listed.revision).await?;
        self.note_faults(listed.faults);
        self.send(RemoteEvent::State {
            cluster: self.cluster.clone(),
            state: Box::new(listed.state),
            complete: listed.complete,
            heartbeat: listed.heartbeat,
        })
        .await?;
        self.context.status.update_remote(&self.cluster, |r| {
            r.connected = true;
            r.last_error = None;
        });
        tracing::info!(cluster = %self.cluster, complete = listed.complete, "reading the cluster's state");
        loop {
            match reader.next().await? {
                ReadEvent::Restart => return Ok(()),
                ReadEvent::Changes {
                    changes,
                    heartbeat,
                    faults,
                } => {
                    self.note_faults(faults);
                    let cluster = self.cluster.clone();
                    self.send(RemoteEvent::Changes {
                        cluster,
                        changes,
                        heartbeat,
                    })
                    .await?;
                }
            }
        }
    }

    async fn admit(&self, info: ClusterInfo) -> Result<(), EtcdError> {
        if info.name != self.cluster {
            return Err(self.refuse(format!(
                "cluster {} is refused: its etcd says that it is {}; correct the name in its file",
                self.cluster, info.name
            )));
        }
        let (id, trust_domain) = (info.id.value(), info.trust_domain.clone());
        self.context.status.update_remote(&self.cluster, |r| {
            r.id = Some(id);
            r.trust_domain = Some(trust_domain);
        });
        let (reply, answer) = oneshot::channel();
        self.send(RemoteEvent::Admit { info, reply }).await?;
        match answer.await {
            Ok(Ok(())) => {
                self.context
                    .status
                    .update_remote(&self.cluster, |r| r.refused = None);
                Ok(())
            }
            Ok(Err(refusal)) => Err(self.refuse(refusal)),
            Err(_) => Err(EtcdError::Stopping),
        }
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

    fn note(&self, error: &EtcdError) {
        self.context.metrics.remote_errors.inc();
        let text = Chain(error).to_string();
        tracing::warn!(cluster = %self.cluster, "a remote cluster cannot be read: {text}");
        self.context.status.update_remote(&self.cluster, |r| {
            r.connected = false;
            r.last_error = Some(text);
        });
    }

    fn note_faults(&mut self, faults: Vec<String>) {
        for fault in faults {
            self.context.metrics.remote_refusals.inc();
            self.context
                .status
                .update_remote(&self.cluster, |r| r.last_error = Some(fault.clone()));
            if self.faults.len() < FAULTS_MAX && self.faults.insert(fault.clone()) {
                tracing::warn!(cluster = %self.cluster, "{fault}");
            }
        }
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Different faults that are logged; all are counted.
const FAULTS_MAX: usize = 64;
