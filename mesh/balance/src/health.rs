//! The book of endpoints that could not be reached: who is out, and for how long.
//!
//! Passive health only: it holds what connections found out, and probes nobody. Whether an ejection is believed is not
//! decided here but by `select`, which sees the whole service.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tulle_model::ClusterName;

/// How ejections behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EjectionSettings {
    /// How long the first ejection lasts; each next one without a success in between lasts twice as long.
    pub base: Duration,
    /// The longest ejection. A failure is forgotten so long after the ejection ended.
    pub max: Duration,
    /// If more than so many percent are ejected, the ejections are not believed.
    pub panic_percent: u8,
    /// How many endpoints are remembered. Beyond it the whole network is down, and nobody more is ejected.
    pub capacity: usize,
}

impl Default for EjectionSettings {
    /// A refused or unanswered connect is hard evidence, so the panic threshold is higher than for slow answers or bad
    /// ones: when one of two clusters goes, half of the endpoints or more are dead at once, and that must be believed.
    fn default() -> Self {
        EjectionSettings {
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
            panic_percent: 80,
            capacity: 4096,
        }
    }
}

/// See the module's text. Time is what the caller says it is; it must not run backwards.
#[derive(Debug, Clone)]
pub struct Ejections {
    settings: EjectionSettings,
    records: HashMap<SocketAddr, Record>,
    /// Those who are out, by the end of their time.
    out: BTreeSet<(Duration, SocketAddr)>,
    /// Before this, nobody in a full book can be forgotten.
    forget_at: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    until: Duration,
    /// Ejections without a success in between.
    times: u32,
}

impl Ejections {
    /// Nobody is ejected.
    pub fn new(settings: EjectionSettings) -> Self {
        Ejections {
            settings,
            records: HashMap::new(),
            out: BTreeSet::new(),
            forget_at: Duration::ZERO,
        }
    }

    /// A connection to `endpoint` failed. Says whether that ejected it now.
    ///
    /// Failures of an endpoint that is out already are those of connections that were on their way: they change nothing.
    pub fn record_failure(&mut self, endpoint: SocketAddr, now: Duration) -> bool {
        if self.is_ejected(endpoint, now) {
            return false;
        }
        self.forget(now);
        let known = self.records.get(&endpoint).copied();
        if known.is_none() && self.records.len() >= self.settings.capacity {
            return false;
        }
        let times = match known {
            Some(record) if !self.is_forgotten(record, now) => record.times.saturating_add(1),
            Some(_) | None => 1,
        };
        let until = now.saturating_add(self.length(times));
        if let Some(known) = known {
            self.out.remove(&(known.until, endpoint));
        }
        self.records.insert(endpoint, Record { until, times });
        self.out.insert((until, endpoint));
        debug_assert!(self.invariants_hold());
        true
    }

    /// A connection to `endpoint` succeeded: its history is forgotten. Says whether it was out until now.
    pub fn record_success(&mut self, endpoint: SocketAddr, now: Duration) -> bool {
        let Some(record) = self.records.remove(&endpoint) else {
            return false;
        };
        self.out.remove(&(record.until, endpoint));
        debug_assert!(self.invariants_hold());
        record.until > now
    }

    /// Whether `endpoint` is out.
    pub fn is_ejected(&self, endpoint: SocketAddr, now: Duration) -> bool {
        self.records
            .get(&endpoint)
            .is_some_and(|record| record.until > now)
    }

    /// When the next one comes back, unless it did and [`Ejections::expire`] told so.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.out.first().map(|(until, _)| *until)
    }

    /// Who came back by time since this was last asked.
    pub fn expire(&mut self, now: Duration) -> Vec<SocketAddr> {
        let mut back = Vec::new();
        while let Some((until, endpoint)) = self.out.first().copied() {
            if until > now {
                break;
            }
            self.out.pop_first();
            back.push(endpoint);
        }
        back
    }

    /// Who is out, as `select` wants to know it.
    pub fn ejected(&self, now: Duration) -> Ejected {
        let addresses = self.out.iter().filter(|(until, _)| *until > now);
        Ejected::new(addresses.map(|(_, a)| *a), self.settings.panic_percent)
    }

    /// How many endpoints are remembered.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn length(&self, times: u32) -> Duration {
        let doublings = times.saturating_sub(1).min(DOUBLINGS_MAX);
        let length = self.settings.base.saturating_mul(1 << doublings);
        length.min(self.settings.max)
    }

    fn is_forgotten(&self, record: Record, now: Duration) -> bool {
        record.until.saturating_add(self.settings.max) <= now
    }

    /// Makes room. It looks at all of the book, so it waits until the book is full and somebody's time has come.
    fn forget(&mut self, now: Duration) {
        if self.records.len() < self.settings.capacity || now < self.forget_at {
            return;
        }
        let max = self.settings.max;
        let mut next = Duration::MAX;
        let out = &mut self.out;
        self.records.retain(|endpoint, record| {
            let end = record.until.saturating_add(max);
            if end <= now {
                out.remove(&(record.until, *endpoint));
                return false;
            }
            next = next.min(end);
            true
        });
        self.forget_at = next;
    }

    fn invariants_hold(&self) -> bool {
        self.records.len() <= self.settings.capacity && self.out.len() <= self.records.len()
    }
}

/// A snapshot of who is out; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejected {
    addresses: Arc<HashSet<SocketAddr>>,
    clusters: Arc<BTreeSet<ClusterName>>,
    panic_percent: u8,
}

impl Ejected {
    /// These endpoints are out; with more than `panic_percent` of a service out, that is not believed.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>, panic_percent: u8) -> Self {
        Ejected {
            addresses: Arc::new(addresses.into_iter().collect()),
            clusters: Arc::default(),
            panic_percent,
        }
    }

    /// These clusters seem out of reach: their endpoints serve only where nobody else does, however many they are.
    #[must_use]
    pub fn with_clusters(self, clusters: impl IntoIterator<Item = ClusterName>) -> Self {
        Ejected {
            clusters: Arc::new(clusters.into_iter().collect()),
            ..self
        }
    }

    /// Nobody is out.
    pub fn none() -> Self {
        Ejected::new([], 100)
    }

    /// Whether `endpoint` is out.
    pub fn contains(&self, endpoint: SocketAddr) -> bool {
        self.has_addresses() && self.addresses.contains(&endpoint)
    }

    /// Whether somebody is out: mostly nobody is, and then nobody needs to be looked for.
    pub(crate) fn has_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether all of `endpoints`, of which there are some, are out.
    pub(crate) fn contains_all(&self, endpoints: impl IntoIterator<Item = SocketAddr>) -> bool {
        let mut endpoints = endpoints.into_iter().peekable();
        endpoints.peek().is_some() && endpoints.all(|endpoint| self.contains(endpoint))
    }

    /// Whether `cluster` seems out of reach.
    pub fn is_out_of_reach(&self, cluster: &ClusterName) -> bool {
        !self.clusters.is_empty() && self.clusters.contains(cluster)
    }

    /// The clusters that seem out of reach.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> + '_ {
        self.clusters.iter()
    }

    /// All endpoints who are out, in no particular order.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().copied()
    }

    /// Whether `ejected` of `all` are few enough to be believed.
    pub(crate) fn believes(&self, ejected: usize, all: usize) -> bool {
        ejected.saturating_mul(100) <= all.saturating_mul(usize::from(self.panic_percent))
    }
}

/// More would overflow, and no back-off is that long.
const DOUBLINGS_MAX: u32 = 20;

#[cfg(test)]
mod tests;
