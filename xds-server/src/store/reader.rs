//! Reads another cluster's state from its etcd: list, then watch from the list's revision. Never writes.

use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchStream};
use tokio::time::timeout;
use tulle_model::{Change, ClusterName, Directory};

use super::client::{EtcdError, EtcdSettings, MESSAGE_BYTES_MAX, Pair, connect, list, within};
use crate::layout::{self, ClusterInfo, Entry};

/// One session with another cluster's etcd.
pub struct Reader {
    cluster: ClusterName,
    prefix: String,
    client: Client,
    watch: Option<WatchStream>,
    heartbeat: Option<u64>,
}

/// What a session tells.
#[derive(Debug)]
pub enum ReadEvent {
    /// Things changed, or the cluster gave a sign of life.
    Changes {
        /// What changed.
        changes: Vec<Change>,
        /// The newest heartbeat among them.
        heartbeat: Option<u64>,
        /// Values that could not be read.
        faults: Vec<String>,
    },
    /// What was said before no longer holds as a whole (the cluster's state became complete, or it is another cluster now):
    /// begin again.
    Restart,
}

/// The state at the beginning of a session.
#[derive(Debug)]
pub struct ListedState {
    /// All facts.
    pub state: Directory,
    /// The cluster has published everything: what is missing is gone.
    pub complete: bool,
    /// Its heartbeat, if it is there.
    pub heartbeat: Option<u64>,
    /// Values that could not be read.
    pub faults: Vec<String>,
    /// The revision of etcd that the state is of.
    pub revision: i64,
}

impl Reader {
    /// Connects to the first endpoint that answers and reads who the cluster is.
    ///
    /// # Errors
    ///
    /// When no endpoint answers or the cluster does not say who it is.
    pub async fn connect(
        cluster: &ClusterName,
        settings: &EtcdSettings,
        first: usize,
    ) -> Result<(Self, ClusterInfo), EtcdError> {
        let prefix = layout::prefix(cluster);
        let key = format!("{prefix}{}", layout::INFO);
        let mut client = connect(settings, first, &key).await?;
        let answer = within("read the cluster's info", client.get(key.clone(), None)).await?;
        let pair = answer.kvs().first().ok_or(EtcdError::NoInfo { key })?;
        let Entry::Info(info) = layout::read_entry(layout::INFO, pair.value())? else {
            return Err(EtcdError::NoInfo {
                key: layout::INFO.to_owned(),
            });
        };
        let cluster = cluster.clone();
        Ok((
            Reader {
                cluster,
                prefix,
                client,
                watch: None,
                heartbeat: None,
            },
            info,
        ))
    }

    /// Reads the whole state.
    ///
    /// # Errors
    ///
    /// When etcd fails; single unreadable values are faults in the answer.
    pub async fn list(&mut self) -> Result<ListedState, EtcdError> {
        let (pairs, revision) = list(&self.client, &self.prefix).await?;
        let mut listed = ListedState {
            state: Directory::default(),
            complete: false,
            heartbeat: None,
            faults: Vec::new(),
            revision,
        };
        for pair in pairs {
            self.take_listed(&pair, &mut listed);
        }
        self.heartbeat = listed.heartbeat;
        Ok(listed)
    }

    /// Watches what comes after `revision`: nothing between the list and the watch is lost.
    ///
    /// # Errors
    ///
    /// When etcd fails. That the revision is compacted already is told by `next`.
    pub async fn watch(&mut self, revision: i64) -> Result<(), EtcdError> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(revision.saturating_add(1))
            .with_fragment();
        let mut watches = self
            .client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let watch = within("watch", watches.watch(self.prefix.clone(), Some(options))).await?;
        self.watch = Some(watch);
        Ok(())
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// When the watch ends (compaction included) or stands still although etcd has news: begin a new session.
    pub async fn next(&mut self) -> Result<ReadEvent, EtcdError> {
        loop {
            let Some(watch) = &mut self.watch else {
                return Err(EtcdError::WatchEnded {
                    reason: "it was never begun".to_owned(),
                });
            };
            match timeout(QUIET_MAX, watch.message()).await {
                Ok(Ok(Some(response))) if response.canceled() => {
                    let compacted = response.compact_revision() > 0;
                    let reason = if compacted {
                        "compacted"
                    } else {
                        response.cancel_reason()
                    };
                    return Err(EtcdError::WatchEnded {
                        reason: reason.to_owned(),
                    });
                }
                Ok(Ok(Some(response))) => {
                    let event = self.take_events(response.events());
                    if !matches!(&event, ReadEvent::Changes { changes, heartbeat: None, faults } if changes.is_empty() && faults.is_empty())
                    {
                        return Ok(event);
                    }
                }
                Ok(Ok(None)) => {
                    return Err(EtcdError::WatchEnded {
                        reason: "the server closed it".to_owned(),
                    });
                }
                Ok(Err(source)) => {
                    return Err(EtcdError::Request {
                        what: "watch",
                        source: Box::new(source),
                    });
                }
                Err(_) => self.check_quiet().await?,
            }
        }
    }

    /// Silence may be the cluster's or the connection's; one read tells which.
    async fn check_quiet(&mut self) -> Result<(), EtcdError> {
        let key = format!("{}{}", self.prefix, layout::HEARTBEAT);
        let answer = within("look for a heartbeat", self.client.get(key, None)).await?;
        let Some(pair) = answer.kvs().first() else {
            return Ok(());
        };
        match layout::read_entry(layout::HEARTBEAT, pair.value())? {
            Entry::Heartbeat(value) if self.heartbeat != Some(value) => {
                // It may have come between the wait and the read; then the next session begins with it.
                Err(EtcdError::WatchEnded {
                    reason: "it stands still".to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    fn take_listed(&self, pair: &Pair, listed: &mut ListedState) {
        let Some(key) = self.short_key(&pair.key) else {
            return;
        };
        match layout::read_entry(key, &pair.value) {
            Ok(Entry::Fact(change)) => listed.state.apply(change),
            Ok(Entry::Synced) => listed.complete = true,
            Ok(Entry::Heartbeat(value)) => listed.heartbeat = Some(value),
            Ok(Entry::Info(_) | Entry::Unknown) => {}
            Err(error) => push_fault(&mut listed.faults, &error),
        }
    }

    fn take_events(&mut self, events: &[etcd_client::Event]) -> ReadEvent {
        let (mut changes, mut heartbeat, mut faults) = (Vec::new(), None, Vec::new());
        for pair in events.iter().filter_map(etcd_client::Event::kv) {
            let Some(key) = self.short_key(pair.key()) else {
                continue;
            };
            // A deletion sets the version to zero; asking the event for its type would panic on a type of a later etcd.
            if pair.version() == 0 {
                match layout::read_deletion(&self.cluster, key) {
                    Ok(change) => changes.extend(change),
                    Err(error) => push_fault(&mut faults, &error),
                }
                continue;
            }
            match layout::read_entry(key, pair.value()) {
                Ok(Entry::Fact(change)) => changes.push(change),
                Ok(Entry::Heartbeat(value)) => heartbeat = Some(value),
                Ok(Entry::Synced | Entry::Info(_)) => return ReadEvent::Restart,
                Ok(Entry::Unknown) => {}
                Err(error) => push_fault(&mut faults, &error),
            }
        }
        self.heartbeat = heartbeat.or(self.heartbeat);
        ReadEvent::Changes {
            changes,
            heartbeat,
            faults,
        }
    }

    fn short_key<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)
    }
}

fn push_fault(faults: &mut Vec<String>, error: &layout::ReadEntryError) {
    if faults.len() < FAULTS_MAX {
        faults.push(crate::chain::Chain(error).to_string());
    }
}

/// Six heartbeats.
const QUIET_MAX: Duration = Duration::from_secs(3);
const FAULTS_MAX: usize = 16;
