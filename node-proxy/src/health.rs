//! What connections found out about endpoints, and what follows from it.
//!
//! Passive health: an endpoint to which a connection failed is left out for a while, longer each time, by the next `connect()` (the
//! kernel's tables) and by the proxy's own choices alike; a success or the end of the time brings it back. Failures come from
//! two sides: the kernel tells of connections that lead straight to an endpoint, the proxy's own connections tell theirs. How
//! long, and how many at once, `tulle-balance` decides; here are the clock, the two sides, and those who must know.
//!
//! An endpoint of another cluster that is out of reach or silent makes the whole cluster *suspected*: the next connection avoids
//! all of it, and at once others of its endpoints are asked whether they are there (`suspects`).
//!
//! Connections to addresses where nobody is any more are reset ([`Reaper`]).

mod clusters;
mod keeper;
mod metrics;
mod reaper;
mod suspects;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};
use tulle_balance::{Ejected, EjectionSettings, Ejections};
use tulle_model::{ClusterName, Directory, TunnelProtocol};

pub(crate) use clusters::SilentClusters;
pub use clusters::{Probe, ProbeOutcome};
pub use keeper::HealthKeeper;
pub use metrics::HealthMetrics;
pub use reaper::{DestroyConnections, Reaper};
use suspects::Suspects;

/// How a connection to an endpoint failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The endpoint itself said no: its host is there, and other ports of it may be well.
    Refused,
    /// There is no way to its host: whatever else is at that address is gone too.
    Unreachable,
    /// No answer came in time.
    Silent,
}

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Witness {
    /// The kernel, of a connection that leads straight to the endpoint.
    Kernel,
    /// The proxy, of a connection of its own.
    Proxy,
}

/// The book of endpoints, shared by all who connect.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    book: Mutex<Book>,
    /// How many endpoints are in the book, so that the usual case (none) takes no lock.
    known: AtomicUsize,
    ejected: ArcSwap<Ejected>,
    silent: ArcSwap<SilentClusters>,
    /// Something waits for the keeper, or the next expiry is another one.
    changed: Notify,
    /// Something waits for the reaper.
    died: Notify,
    /// A cluster is suspected.
    suspected: Notify,
    metrics: HealthMetrics,
}

#[derive(Debug)]
struct Book {
    ejections: Ejections,
    suspects: Suspects,
    /// What went out or came back, of which the kernel's tables do not know yet.
    touched: Turned,
    /// Addresses that left the mesh's view, and when.
    gone: Vec<(IpAddr, Instant)>,
}

/// What the kernel's tables have to be computed again for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Turned {
    /// Addresses of endpoints.
    addresses: BTreeSet<IpAddr>,
    /// Whole clusters.
    clusters: BTreeSet<ClusterName>,
}

impl Default for Health {
    fn default() -> Self {
        Health::new(EjectionSettings::default())
    }
}

impl Health {
    /// Nobody is known.
    pub fn new(settings: EjectionSettings) -> Self {
        Health {
            began: Instant::now(),
            book: Mutex::new(Book {
                ejections: Ejections::new(settings),
                suspects: Suspects::default(),
                touched: Turned::default(),
                gone: Vec::new(),
            }),
            known: AtomicUsize::new(0),
            ejected: ArcSwap::from_pointee(Ejected::none()),
            silent: ArcSwap::from_pointee(SilentClusters::new()),
            changed: Notify::new(),
            died: Notify::new(),
            suspected: Notify::new(),
            metrics: HealthMetrics::default(),
        }
    }

    /// What is counted.
    pub fn metrics(&self) -> &HealthMetrics {
        &self.metrics
    }

    /// Who is out now.
    pub fn ejected(&self) -> Arc<Ejected> {
        self.ejected.load_full()
    }

    /// A connection from cluster `own` to `endpoint` failed. Where the host itself seems gone, so are the other endpoints that
    /// `directory` has there; and where it is in another cluster, that one is suspected.
    pub fn record_failure(
        &self,
        own: &ClusterName,
        directory: &Directory,
        endpoint: SocketAddr,
        failure: Failure,
        witness: Witness,
    ) {
        self.metrics.failure(failure, witness);
        let mut endpoints = vec![endpoint];
        if failure == Failure::Unreachable {
            endpoints.extend(neighbours(directory, endpoint));
        }
        let now = self.now();
        let mut book = self.lock();
        let mut is_changed = false;
        for endpoint in endpoints {
            if book.ejections.record_failure(endpoint, now) {
                self.metrics.ejections.inc();
                book.touched.addresses.insert(endpoint.ip());
                is_changed = true;
            }
        }
        if is_changed {
            tracing::info!(%endpoint, ?failure, ?witness, "an endpoint is left out for a while");
        }
        if failure != Failure::Refused
            && let Some(cluster) = cluster_of(directory, endpoint).filter(|cluster| *cluster != own)
        {
            is_changed |= self.suspect(&mut book, cluster);
        }
        if is_changed {
            self.publish(&book, now);
        }
    }

    /// A connection to `endpoint` came to be.
    pub fn record_success(&self, endpoint: SocketAddr) {
        if self.known.load(Relaxed) == 0 {
            return;
        }
        let now = self.now();
        let mut book = self.lock();
        if book.ejections.record_success(endpoint, now) {
            self.metrics.restored("success");
            book.touched.addresses.insert(endpoint.ip());
            self.publish(&book, now);
        } else {
            self.known.store(book.ejections.len(), Relaxed);
        }
    }

    /// These addresses left the mesh's view, and the kernel leads nobody there any more.
    pub fn note_gone(&self, addresses: Vec<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        let now = Instant::now();
        {
            let mut book = self.lock();
            let room = GONE_MAX.saturating_sub(book.gone.len());
            if addresses.len() > room {
                tracing::warn!(
                    "more addresses are gone than can be remembered; connections to some of them stay"
                );
            }
            let noted = addresses.into_iter().take(room);
            book.gone.extend(noted.map(|address| (address, now)));
        }
        self.died.notify_one();
    }

    /// The clusters that are silent are now these.
    pub(crate) fn set_silent(&self, clusters: SilentClusters) {
        self.silent.store(Arc::new(clusters));
        self.died.notify_one();
    }

    fn silent(&self) -> Arc<SilentClusters> {
        self.silent.load_full()
    }

    /// Takes the addresses that were gone before `before`.
    fn take_gone(&self, before: Instant) -> Vec<IpAddr> {
        let mut book = self.lock();
        let due = book.gone.extract_if(.., |(_, since)| *since <= before);
        due.map(|(address, _)| address).collect()
    }

    /// Since when the first of the addresses that wait is gone.
    fn next_burial(&self) -> Option<Instant> {
        self.lock().gone.iter().map(|(_, since)| *since).min()
    }

    /// Brings back whose time is over; then takes the addresses of which the kernel's tables do not know yet.
    fn take_touched(&self) -> Turned {
        let now = self.now();
        let mut book = self.lock();
        let back = book.ejections.expire(now);
        if !back.is_empty() {
            for endpoint in &back {
                self.metrics.restored("time");
                book.touched.addresses.insert(endpoint.ip());
            }
            self.publish(&book, now);
        }
        std::mem::take(&mut book.touched)
    }

    /// How long until the next one comes back.
    fn next_expiry(&self) -> Option<Duration> {
        let next = self.lock().ejections.next_expiry()?;
        Some(next.saturating_sub(self.now()))
    }

    fn publish(&self, book: &Book, now: Duration) {
        let clusters = book.suspects.clusters().cloned();
        let ejected = book.ejections.ejected(now).with_clusters(clusters);
        self.metrics.set_ejected(ejected.addresses().count());
        self.metrics.set_suspected(ejected.clusters().count());
        self.known.store(book.ejections.len(), Relaxed);
        self.ejected.store(Arc::new(ejected));
        self.changed.notify_one();
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose endpoint it is.
fn cluster_of(directory: &Directory, endpoint: SocketAddr) -> Option<&ClusterName> {
    let workload = directory.workload_at(endpoint.ip())?;
    Some(&workload.cluster)
}

/// The other endpoints at the same address, as services know them.
fn neighbours(directory: &Directory, endpoint: SocketAddr) -> Vec<SocketAddr> {
    let Some(workload) = directory.workload_at(endpoint.ip()) else {
        return Vec::new();
    };
    let services = workload.services.keys();
    let services = services.filter_map(|key| directory.service(key));
    let mut found: Vec<SocketAddr> = services
        .flat_map(|service| {
            let key = service.key();
            service.ports.iter().flat_map(move |port| {
                workload
                    .serving_addresses(&key, port)
                    .filter(|address| address.ip() == endpoint.ip())
                    .collect::<Vec<_>>()
            })
        })
        .filter(|address| *address != endpoint)
        .take(NEIGHBOURS_MAX)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Where a workload can be tried: its tunnel, or a port that it serves.
fn door(directory: &Directory, address: IpAddr, tunnel_port: u16) -> Option<SocketAddr> {
    let workload = directory.workload_at(address)?;
    if workload.tunnel_protocol == TunnelProtocol::Hbone {
        return Some(SocketAddr::new(address, tunnel_port));
    }
    neighbours(directory, SocketAddr::new(address, 0))
        .first()
        .copied()
}

/// Endpoints of one address that are left out together.
const NEIGHBOURS_MAX: usize = 64;
/// Addresses that may wait for their connections to be reset.
const GONE_MAX: usize = 65_536;

#[cfg(test)]
mod tests;
