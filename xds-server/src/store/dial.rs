//! Dials an etcd: every endpoint, every address that its name has now, the first that answers wins.
//!
//! Addresses are resolved here and not by the transport, so that each of them is tried with TLS and a request, and none is
//! remembered from one dial to the next: what a load balancer's name means changes.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use etcd_client::{Client, ConnectOptions, GetOptions, TlsOptions};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use super::{
    client::{EtcdSettings, within},
    error::EtcdError,
};

/// A connection that has answered.
pub(super) struct Dialled {
    pub(super) client: Client,
    /// Who answered.
    pub(super) address: SocketAddr,
    /// The id of the etcd behind it.
    pub(super) etcd_id: u64,
}

/// A place to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    endpoint: String,
    /// Whom the certificate must name.
    name: String,
    address: SocketAddr,
}

/// Dials until one answers a read of `probe`. The endpoint number `first` begins; slow ones are overtaken by the next.
pub(super) async fn dial(
    settings: &EtcdSettings,
    first: usize,
    probe: &str,
) -> Result<Dialled, EtcdError> {
    if settings.endpoints.is_empty() {
        return Err(EtcdError::NoEndpoint);
    }
    let tls = settings.tls_options().await?;
    let (mut waiting, mut errors) = resolve(settings, first).await;
    let mut dials = FuturesUnordered::new();
    loop {
        if let Some(candidate) = waiting.pop_front() {
            dials.push(dial_one(candidate, tls.clone(), probe));
        } else if dials.is_empty() {
            return Err(match errors.len() {
                1 => errors.remove(0),
                _ => EtcdError::Unreachable(errors),
            });
        }
        tokio::select! { // Cancel-safe: dials that lose are dropped with their connections.
            Some(ended) = dials.next() => match ended {
                Ok(dialled) => return Ok(dialled),
                // Credentials that cannot be used are the same everywhere.
                Err(error @ EtcdError::UnusableCredentials { .. }) => return Err(error),
                Err(error) => errors.push(error),
            },
            () = sleep(STAGGER), if !waiting.is_empty() => {}
        }
    }
}

/// All addresses of all endpoints, and the names that have none.
async fn resolve(settings: &EtcdSettings, first: usize) -> (VecDeque<Candidate>, Vec<EtcdError>) {
    let len = settings.endpoints.len();
    let endpoints = settings
        .endpoints
        .iter()
        .cycle()
        .skip(first % len)
        .take(len);
    let lookups = endpoints.map(|endpoint| look_up(endpoint, settings.server_name.as_deref()));
    let mut candidates = VecDeque::new();
    let mut errors = Vec::new();
    for found in futures::future::join_all(lookups).await {
        match found {
            Ok(found) => candidates.extend(found),
            Err(error) => errors.push(error),
        }
    }
    candidates.truncate(CANDIDATES_MAX);
    (candidates, errors)
}

async fn look_up(endpoint: &str, server_name: Option<&str>) -> Result<Vec<Candidate>, EtcdError> {
    let uri: http::Uri = endpoint.parse().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(PORT_DEFAULT);
    let unresolved = |source| EtcdError::Resolve {
        host: host.to_owned(),
        source,
    };
    let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| unresolved(std::io::ErrorKind::TimedOut.into()))?
        .map_err(unresolved)?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found.take(CANDIDATES_MAX) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(unresolved(std::io::ErrorKind::NotFound.into()));
    }
    let candidate = |address| Candidate {
        endpoint: endpoint.to_owned(),
        name: server_name.unwrap_or(host).to_owned(),
        address,
    };
    Ok(addresses.into_iter().map(candidate).collect())
}

async fn dial_one(
    candidate: Candidate,
    tls: TlsOptions,
    probe: &str,
) -> Result<Dialled, EtcdError> {
    let failed = |error| match error {
        EtcdError::UnusableCredentials { .. } => error,
        _ => EtcdError::Dial {
            endpoint: candidate.endpoint.clone(),
            address: candidate.address,
            source: Box::new(error),
        },
    };
    let options = ConnectOptions::new()
        .with_tls(tls.domain_name(candidate.name.clone()))
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let url = format!("https://{}", candidate.address);
    let client = Client::connect([url], Some(options)).await;
    // Nothing is dialled yet: what fails here are the certificates.
    let mut client = client.map_err(|source| EtcdError::UnusableCredentials {
        source: Box::new(source),
    })?;
    // Only an answer proves anything.
    let answer = client.get(probe, Some(GetOptions::new().with_keys_only()));
    let answer = within("first request", answer).await.map_err(failed)?;
    Ok(Dialled {
        client,
        address: candidate.address,
        etcd_id: answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::cluster_id),
    })
}

const PORT_DEFAULT: u16 = 443;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An address that does not answer within it is no longer waited for alone.
const STAGGER: Duration = Duration::from_millis(250);
/// A name of a load balancer has a handful.
const CANDIDATES_MAX: usize = 32;
/// etcd drops clients that ping more often than every 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
