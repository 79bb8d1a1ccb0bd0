//! Connections to etcd: credentials, bounded waits, and lists that no size of a value can break.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use etcd_client::{Certificate, Client, GetOptions, Identity, TlsOptions};
use tokio::time::timeout;

use super::error::EtcdError;

/// Where an etcd is and how to prove oneself to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `https://host:port`, all tried; names are resolved at each dial.
    pub endpoints: Vec<String>,
    /// Roots that the servers are verified with; read at each dial.
    pub ca: PemSource,
    /// The client's certificate; its common name is the etcd user. Read at each dial.
    pub cert: PemSource,
    /// The key of `cert`. Read at each dial.
    pub key: PemSource,
    /// The name that the servers' certificates must have, if not the endpoint's own.
    pub server_name: Option<String>,
}

/// PEM text, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum PemSource {
    /// A file, read at each use.
    File(PathBuf),
    /// The text itself.
    Inline(Arc<str>),
}

impl From<PathBuf> for PemSource {
    fn from(path: PathBuf) -> Self {
        PemSource::File(path)
    }
}

/// A key must not come into a log.
impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PemSource::File(path) => path.fmt(f),
            PemSource::Inline(_) => f.write_str("inline"),
        }
    }
}

impl PemSource {
    /// The text as it is now.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub async fn read(&self) -> Result<Vec<u8>, EtcdError> {
        match self {
            PemSource::Inline(text) => Ok(text.as_bytes().to_vec()),
            PemSource::File(path) => {
                let read = tokio::fs::read(path).await;
                read.map_err(|source| EtcdError::Credentials {
                    path: path.clone(),
                    source,
                })
            }
        }
    }
}

impl EtcdSettings {
    pub(super) async fn tls_options(&self) -> Result<TlsOptions, EtcdError> {
        let ca = self.ca.read().await?;
        let cert = self.cert.read().await?;
        let key = self.key.read().await?;
        Ok(TlsOptions::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(cert, key)))
    }
}

/// One request with a bounded wait.
pub(super) async fn within<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, EtcdError> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(EtcdError::of_request(what, source)),
        Err(_) => Err(EtcdError::Timeout { what }),
    }
}

/// A list of a prefix, page by page, at one revision.
///
/// A page that is larger than a message may be is asked for again in smaller parts, down to single keys; a value that is too
/// large even so is left out and named.
pub(super) struct Listing {
    prefix: String,
    from: Vec<u8>,
    end: Vec<u8>,
    page_len: i64,
    /// Of all pages; 0 = that of the first.
    revision: i64,
    done: bool,
}

/// A part of a list.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) pairs: Vec<Pair>,
    /// Keys whose values are larger than `VALUE_BYTES_MAX`.
    pub(super) too_large: Vec<Vec<u8>>,
    /// The id of the etcd that answered.
    pub(super) etcd_id: u64,
}

impl Listing {
    /// Of all keys with the prefix.
    pub(super) fn new(prefix: &str, revision: i64) -> Self {
        Listing {
            prefix: prefix.to_owned(),
            from: prefix.as_bytes().to_vec(),
            end: end_of_prefix(prefix),
            page_len: PAGE_LEN,
            revision,
            done: false,
        }
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The next part; `None` after the last.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<Page>, EtcdError> {
        while !self.done {
            match self.ask(client, self.page_len, false).await {
                Ok(page) => {
                    self.page_len = (self.page_len * 2).min(PAGE_LEN);
                    return Ok(Some(page));
                }
                Err(error) if error.is_too_large() && self.page_len > 1 => self.page_len /= 4,
                Err(error) if error.is_too_large() => {
                    // Its name comes without its value, and the list goes on behind it.
                    let mut page = self.ask(client, 1, true).await?;
                    page.too_large = page.pairs.drain(..).map(|p| p.key).collect();
                    return Ok(Some(page));
                }
                Err(error) => return Err(error),
            }
            self.page_len = self.page_len.max(1);
        }
        Ok(None)
    }

    async fn ask(&mut self, client: &Client, len: i64, keys_only: bool) -> Result<Page, EtcdError> {
        let mut kv = client
            .kv_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut options = GetOptions::new()
            .with_range(self.end.clone())
            .with_limit(len)
            .with_revision(self.revision);
        if keys_only {
            options = options.with_keys_only();
        }
        let mut answer = within("list", kv.get(self.from.clone(), Some(options))).await?;
        let header = answer.header();
        let etcd_id = header.map_or(0, etcd_client::ResponseHeader::cluster_id);
        if self.revision == 0 {
            self.revision = header.map_or(0, etcd_client::ResponseHeader::revision);
        }
        self.done = !answer.more();
        let mut page = Page {
            etcd_id,
            ..Page::default()
        };
        for pair in answer.take_kvs() {
            let (key, value) = pair.into_key_value();
            self.from.clone_from(&key);
            if value.len() > VALUE_BYTES_MAX {
                page.too_large.push(key);
            } else {
                page.pairs.push(Pair { key, value });
            }
        }
        self.from.push(0);
        Ok(page)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The first key after all keys with the prefix.
fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Every prefix here ends in '/', so adding one to the last byte is enough.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// etcd answers in milliseconds; a leader election takes a second or two.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Values are some thousand bytes; a page of larger ones is halved until it fits.
const PAGE_LEN: i64 = 256;
/// The largest message that is read from an etcd.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The largest value that is looked at: what an etcd takes by default.
pub(super) const VALUE_BYTES_MAX: usize = 3 << 19;
