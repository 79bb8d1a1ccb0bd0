//! Endpoints that could not be reached a moment ago.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Who is tried last for a while. Nobody is ever excluded: with nobody else left, an ejected endpoint is tried.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    /// How many there are, so that the usual case (none) takes no lock.
    count: AtomicUsize,
    until: Mutex<HashMap<IpAddr, Instant>>,
}

impl Ejections {
    pub(crate) fn eject(&self, address: IpAddr, time: Duration) {
        let now = Instant::now();
        let mut until = self.lock();
        if until.len() >= EJECTIONS_MAX {
            until.retain(|_, end| *end > now);
        }
        // Beyond the limit the whole network is down, and order no longer matters.
        if until.len() < EJECTIONS_MAX {
            until.insert(address, now + time);
        }
        self.count.store(until.len(), Relaxed);
    }

    pub(crate) fn forgive(&self, address: IpAddr) {
        if self.count.load(Relaxed) > 0 {
            let mut until = self.lock();
            until.remove(&address);
            self.count.store(until.len(), Relaxed);
        }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        if self.count.load(Relaxed) == 0 {
            return false;
        }
        self.lock()
            .get(&address)
            .is_some_and(|end| *end > Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const EJECTIONS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ejected_address_returns_by_time_or_by_success() {
        let ejections = Ejections::default();
        let [a, b] = ["10.1.1.1", "10.1.1.2"].map(|ip| ip.parse().unwrap());
        ejections.eject(a, Duration::from_secs(60));
        ejections.eject(b, Duration::ZERO);
        assert!(ejections.contains(a));
        assert!(!ejections.contains(b));
        ejections.forgive(a);
        assert!(!ejections.contains(a));
    }

    #[test]
    fn their_number_is_bounded() {
        let ejections = Ejections::default();
        for i in 0..10_000u32 {
            ejections.eject(IpAddr::from(i.to_be_bytes()), Duration::from_secs(60));
        }
        assert_eq!(ejections.lock().len(), EJECTIONS_MAX);
    }
}
