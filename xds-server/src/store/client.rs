//! Connections to etcd: TLS, one endpoint after the other, bounded waits.

use std::{path::PathBuf, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use tokio::time::timeout;

/// Where an etcd is and how to prove oneself to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `https://host:port`, tried in turn; names are resolved at each dial.
    pub endpoints: Vec<String>,
    /// Roots that the servers are verified with; read at each dial.
    pub ca: PathBuf,
    /// The client's certificate; its common name is the etcd user. Read at each dial.
    pub cert: PathBuf,
    /// The key of `cert`. Read at each dial.
    pub key: PathBuf,
}

/// What goes wrong with an etcd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// A file of the credentials cannot be read.
    #[error("cannot read {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No endpoint answers.
    #[error("cannot reach etcd at {endpoint}")]
    Connect {
        /// The last one that was tried.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<EtcdError>,
    },
    /// There is nothing to dial.
    #[error("no etcd endpoint is configured")]
    NoEndpoint,
    /// etcd refused or the connection broke.
    #[error("etcd: {what}")]
    Request {
        /// What was wanted.
        what: &'static str,
        /// Why it did not work.
        #[source]
        source: Box<etcd_client::Error>,
    },
    /// No answer in time.
    #[error("etcd: {what}: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// What was wanted.
        what: &'static str,
    },
    /// The watch ended.
    #[error("the watch ended: {reason}")]
    WatchEnded {
        /// As etcd says.
        reason: String,
    },
    /// The state is larger than a cluster can be.
    #[error("more than {max} keys under {prefix}")]
    TooManyKeys {
        /// Where.
        prefix: String,
        /// How many are read.
        max: usize,
    },
    /// The lease of the heartbeat is gone.
    #[error("the lease of the heartbeat expired")]
    LeaseLost,
    /// The reader of the state is gone.
    #[error("the server is stopping")]
    Stopping,
    /// The cluster is not what it should be.
    #[error("{0}")]
    Refused(String),
    /// The cluster does not say who it is.
    #[error("etcd has no key {key}: that cluster's xds-server has not published yet")]
    NoInfo {
        /// The key.
        key: String,
    },
    /// What the cluster says of itself is not readable.
    #[error(transparent)]
    Entry(#[from] crate::layout::ReadEntryError),
}

/// Dials the endpoints in turn, beginning at number `first`, until one answers a read of `probe`.
pub(super) async fn connect(
    settings: &EtcdSettings,
    first: usize,
    probe: &str,
) -> Result<Client, EtcdError> {
    let tls = tls_options(settings).await?;
    let mut last = EtcdError::NoEndpoint;
    let len = settings.endpoints.len();
    for endpoint in settings
        .endpoints
        .iter()
        .cycle()
        .skip(first % len.max(1))
        .take(len)
    {
        match connect_one(endpoint, tls.clone(), probe).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                last = EtcdError::Connect {
                    endpoint: endpoint.clone(),
                    source: Box::new(error),
                };
            }
        }
    }
    Err(last)
}

async fn connect_one(endpoint: &str, tls: TlsOptions, probe: &str) -> Result<Client, EtcdError> {
    let options = ConnectOptions::new()
        .with_tls(tls)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let connect = Client::connect([endpoint], Some(options));
    let mut client = within("connect", connect).await?;
    // The client dials at its first request, so only an answer proves anything.
    let answer = client.get(probe, Some(GetOptions::new().with_keys_only()));
    within("first request", answer).await?;
    Ok(client)
}

/// One request with a bounded wait.
pub(super) async fn within<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, EtcdError> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(EtcdError::Request {
            what,
            source: Box::new(source),
        }),
        Err(_) => Err(EtcdError::Timeout { what }),
    }
}

/// All keys under a prefix as of one revision, and that revision.
pub(super) async fn list(client: &Client, prefix: &str) -> Result<(Vec<Pair>, i64), EtcdError> {
    let end = end_of_prefix(prefix);
    let mut kv = client
        .kv_client()
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut from = prefix.as_bytes().to_vec();
    let mut pairs: Vec<Pair> = Vec::new();
    let mut revision = 0;
    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(PAGE_LEN)
            .with_revision(revision);
        let mut page = within("list", kv.get(from.clone(), Some(options))).await?;
        if revision == 0 {
            revision = page
                .header()
                .map_or(0, etcd_client::ResponseHeader::revision);
        }
        let more = page.more();
        for pair in page.take_kvs() {
            let (key, value) = pair.into_key_value();
            from.clone_from(&key);
            pairs.push(Pair { key, value });
        }
        from.push(0);
        if pairs.len() > KEYS_MAX {
            return Err(EtcdError::TooManyKeys {
                prefix: prefix.to_owned(),
                max: KEYS_MAX,
            });
        }
        if !more {
            return Ok((pairs, revision));
        }
    }
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The first key after all keys with the prefix.
pub(super) fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Every prefix here ends in '/', so adding one to the last byte is enough.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

async fn tls_options(settings: &EtcdSettings) -> Result<TlsOptions, EtcdError> {
    let ca = read(&settings.ca).await?;
    let cert = read(&settings.cert).await?;
    let key = read(&settings.key).await?;
    Ok(TlsOptions::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(cert, key)))
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, EtcdError> {
    let read = tokio::fs::read(path).await;
    read.map_err(|source| EtcdError::Credentials {
        path: path.clone(),
        source,
    })
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// etcd answers in milliseconds; a leader election takes a second or two.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// etcd drops clients that ping more often than every 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Values are some hundred bytes, at most a few thousand.
const PAGE_LEN: i64 = 1000;
/// A page of unusually large values, or a watch that catches up.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Ten times the largest mesh that the design speaks of.
const KEYS_MAX: usize = 1_000_000;
