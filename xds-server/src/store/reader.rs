//! Reads an etcd: lists, then watches from the lists' revision, on one connection to one etcd. Never writes, and does not know
//! what the keys mean.

use std::net::SocketAddr;

use etcd_client::{Client, WatchOptions, WatchStream};
use futures::FutureExt as _;

use super::{
    client::{EtcdSettings, Listing, MESSAGE_BYTES_MAX, Page, VALUE_BYTES_MAX, within},
    dial::dial,
    error::EtcdError,
};

/// One connection to an etcd that is only read.
pub struct Reader {
    client: Client,
    address: SocketAddr,
    etcd_id: u64,
    watch: Option<WatchStream>,
    bytes: u64,
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchRange {
    /// All keys that begin so.
    Prefix(String),
    /// One key.
    Key(String),
}

/// A part of a list.
#[derive(Debug, Default)]
pub struct ListedPage {
    /// Keys and values.
    pub pairs: Vec<(String, Vec<u8>)>,
    /// Keys whose values are too large to be looked at.
    pub too_large: Vec<String>,
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEvent {
    /// The key.
    pub key: String,
    /// What became of it.
    pub now: KeyState,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// It has this value.
    Value(Vec<u8>),
    /// Its value is too large to be looked at.
    TooLarge(usize),
    /// It is gone.
    Deleted,
}

/// A list that is being read.
pub struct List(Listing);

impl Reader {
    /// Connects to the first endpoint that answers a read of `probe`.
    ///
    /// # Errors
    ///
    /// When none answers; the last word of each is told.
    pub async fn connect(
        settings: &EtcdSettings,
        first: usize,
        probe: &str,
    ) -> Result<Self, EtcdError> {
        let dialled = dial(settings, first, probe).await?;
        Ok(Reader {
            client: dialled.client,
            address: dialled.address,
            etcd_id: dialled.etcd_id,
            watch: None,
            bytes: 0,
        })
    }

    /// The address that answered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The id of the etcd that answers.
    pub fn etcd_id(&self) -> u64 {
        self.etcd_id
    }

    /// Bytes of keys and values since the last call.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// The value of one key, and the revision at which it was read.
    ///
    /// # Errors
    ///
    /// When etcd does not answer or another one does.
    pub async fn get(&mut self, key: &str) -> Result<(Option<Vec<u8>>, i64), EtcdError> {
        let mut kv = self
            .client
            .kv_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut answer = within("read a key", kv.get(key, None)).await?;
        let header = answer.header();
        let (id, revision) = header.map_or((0, 0), |h| (h.cluster_id(), h.revision()));
        self.check_etcd(id)?;
        let pair = answer.take_kvs().into_iter().next();
        let value = pair.map(|pair| pair.into_key_value().1);
        self.bytes += value.as_ref().map_or(0, |v| count(key.len() + v.len()));
        Ok((value, revision))
    }

    /// Begins to list all keys with the prefix, as of `revision`.
    pub fn list(&self, prefix: &str, revision: i64) -> List {
        List(Listing::new(prefix, revision))
    }

    /// The next part of a list; `None` after the last.
    ///
    /// # Errors
    ///
    /// When etcd does not answer or another one does.
    pub async fn next_page(&mut self, list: &mut List) -> Result<Option<ListedPage>, EtcdError> {
        let Some(page) = list.0.next(&self.client).await? else {
            return Ok(None);
        };
        self.check_etcd(page.etcd_id)?;
        let Page {
            pairs, too_large, ..
        } = page;
        let mut listed = ListedPage::default();
        for pair in pairs {
            self.bytes += count(pair.key.len() + pair.value.len());
            // A key that is no text is nobody's.
            if let Ok(key) = String::from_utf8(pair.key) {
                listed.pairs.push((key, pair.value));
            }
        }
        let named = too_large
            .into_iter()
            .filter_map(|k| String::from_utf8(k).ok());
        listed.too_large.extend(named);
        Ok(Some(listed))
    }

    /// Watches what comes after `revision`: nothing between the lists and the watch is lost.
    ///
    /// # Errors
    ///
    /// When etcd fails. That the revision is compacted already is told by `next`.
    pub async fn watch(&mut self, ranges: &[WatchRange], revision: i64) -> Result<(), EtcdError> {
        for range in ranges {
            let options = WatchOptions::new()
                .with_start_revision(revision.saturating_add(1))
                .with_fragment();
            let (key, options) = match range {
                WatchRange::Prefix(prefix) => (prefix.as_str(), options.with_prefix()),
                WatchRange::Key(key) => (key.as_str(), options),
            };
            match &mut self.watch {
                Some(watch) => within("watch", watch.watch(key, Some(options))).await?,
                None => {
                    let client = self.client.watch_client();
                    let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
                    let begun = within("watch", client.watch(key, Some(options))).await?;
                    self.watch = Some(begun);
                }
            }
        }
        Ok(())
    }

    /// Waits for changes; takes what has come already along, up to a limit.
    ///
    /// # Errors
    ///
    /// When the watch ends, compaction included: begin a new session.
    ///
    /// # Cancel safety
    ///
    /// A message is taken whole or not at all; what was taken before is handed out before anything is waited for.
    pub async fn next(&mut self) -> Result<Vec<KeyEvent>, EtcdError> {
        let mut events = Vec::new();
        while events.is_empty() {
            self.take_message()
                .await?
                .into_iter()
                .for_each(|e| events.push(e));
        }
        while events.len() < EVENTS_LEN_MAX {
            match self.take_message().now_or_never() {
                Some(Ok(more)) => events.extend(more),
                // It will say it again to the next call.
                Some(Err(_)) | None => break,
            }
        }
        Ok(events)
    }

    async fn take_message(&mut self) -> Result<Vec<KeyEvent>, EtcdError> {
        let ended = |reason: &str| EtcdError::WatchEnded {
            reason: reason.to_owned(),
        };
        let Some(watch) = &mut self.watch else {
            return Err(ended("it was never begun"));
        };
        let message = match watch.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(ended("the server closed it")),
            Err(source) => return Err(EtcdError::of_request("watch", source)),
        };
        if message.canceled() {
            self.watch = None;
            return Err(match message.compact_revision() {
                0 => ended(message.cancel_reason()),
                _ => ended("compacted"),
            });
        }
        let id = message
            .header()
            .map_or(0, etcd_client::ResponseHeader::cluster_id);
        self.check_etcd(id)?;
        let pairs = message.events().iter().filter_map(etcd_client::Event::kv);
        let mut events = Vec::new();
        for pair in pairs {
            let (key, value) = (pair.key(), pair.value());
            self.bytes += count(key.len() + value.len());
            let Ok(key) = std::str::from_utf8(key) else {
                continue;
            };
            // A deletion sets the version to zero; asking the event for its type would panic on a type of a later etcd.
            let now = match pair.version() {
                0 => KeyState::Deleted,
                _ if value.len() > VALUE_BYTES_MAX => KeyState::TooLarge(value.len()),
                _ => KeyState::Value(value.to_vec()),
            };
            events.push(KeyEvent {
                key: key.to_owned(),
                now,
            });
        }
        Ok(events)
    }

    /// Replicas of an etcd that are none (each with its own data) may stand behind one address.
    fn check_etcd(&self, found: u64) -> Result<(), EtcdError> {
        if found == self.etcd_id || found == 0 {
            return Ok(());
        }
        Err(EtcdError::OtherEtcd {
            wanted: self.etcd_id,
            found,
        })
    }
}

impl List {
    /// The revision that the list is of; 0 before its first part.
    pub fn revision(&self) -> i64 {
        self.0.revision()
    }

    /// What is listed.
    pub fn prefix(&self) -> &str {
        self.0.prefix()
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Changes that are handed out together; so many of one key are one.
const EVENTS_LEN_MAX: usize = 4096;
