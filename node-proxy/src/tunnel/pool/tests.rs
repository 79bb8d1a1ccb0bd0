use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Semaphore;
use tulle_identity::testing::{Flaw, Forge};

use super::*;

fn svid() -> Arc<Svid> {
    let identity: SpiffeId = "spiffe://a.test/ns/default/sa/a".parse().unwrap();
    Forge::new(&identity.trust_domain)
        .unwrap()
        .svid(&identity, Flaw::None)
        .unwrap()
}

fn key(port: u16) -> PoolKey {
    PoolKey {
        destination: SocketAddr::from(([127, 0, 0, 1], port)),
        expected: Arc::from([]),
    }
}

fn headers() -> ConnectHeaders {
    ConnectHeaders {
        destination: SocketAddr::from(([127, 0, 0, 1], 80)),
        client: SocketAddr::from(([127, 0, 0, 1], 1)),
        service: None,
        baggage: None,
        trace: (1, 1),
    }
}

/// Without lanes: these are the rules for tunnels that are shared.
fn hbone_only() -> PlaneSettings {
    PlaneSettings {
        lanes_per_destination_max: 0,
        ..PlaneSettings::default()
    }
}

fn clock() -> WallClock {
    Arc::new(SystemTime::now)
}

/// A dial that waits for the gate, counts, and fails.
fn failing(gate: &Arc<Semaphore>, dials: &Arc<AtomicUsize>) -> Dial {
    let (gate, dials) = (Arc::clone(gate), Arc::clone(dials));
    Arc::new(move |key: PoolKey, _svid, _offer| -> Dialing {
        let (gate, dials) = (Arc::clone(&gate), Arc::clone(&dials));
        Box::pin(async move {
            dials.fetch_add(1, SeqCst);
            let _open = gate.acquire().await;
            Err(OpenTunnelError::ConnectTimeout {
                destination: key.destination,
                limit: Duration::ZERO,
            })
        })
    })
}

#[tokio::test]
async fn all_who_wait_for_one_tunnel_learn_of_its_failure() {
    let (gate, dials) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = Tasks::default();
    let pool = TunnelPool::new(failing(&gate, &dials), clock(), hbone_only(), tasks);
    let svid = svid();
    let mut waiters = tokio::task::JoinSet::new();
    for port in [1, 2] {
        for _ in 0..50 {
            let (pool, svid) = (Arc::clone(&pool), Arc::clone(&svid));
            waiters.spawn(async move { pool.open_stream(&key(port), &svid, &headers()).await });
        }
    }
    // One handshake per destination, however many wait.
    while dials.load(SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(Semaphore::MAX_PERMITS);
    while let Some(result) = waiters.join_next().await {
        let error = result.unwrap().unwrap_err();
        assert!(
            matches!(error, OpenTunnelError::ConnectTimeout { .. }),
            "{error}"
        );
    }
    // Who came after a failure had been told may have tried again; nobody else did.
    assert!(dials.load(SeqCst) <= 4, "{} dials", dials.load(SeqCst));
    pool.sweep();
    assert!(
        lock(&pool.entries).by_key.is_empty(),
        "nothing is kept of a failure"
    );
}

#[tokio::test]
async fn a_burst_beyond_one_tunnels_streams_dials_more_at_once() {
    let (gate, dials) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let settings = PlaneSettings {
        streams_per_tunnel_max: 10,
        ..hbone_only()
    };
    let pool = TunnelPool::new(failing(&gate, &dials), clock(), settings, Tasks::default());
    let svid = svid();
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..35 {
        let (pool, svid) = (Arc::clone(&pool), Arc::clone(&svid));
        waiters.spawn(async move { pool.open_stream(&key(1), &svid, &headers()).await });
    }
    while dials.load(SeqCst) < 4 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    assert_eq!(dials.load(SeqCst), 4);
    waiters.abort_all();
}

#[tokio::test]
async fn a_handshake_outlives_whoever_asked_first() {
    let (gate, dials) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let pool = TunnelPool::new(
        failing(&gate, &dials),
        clock(),
        hbone_only(),
        Tasks::default(),
    );
    let svid = svid();
    let first = {
        let (pool, svid) = (Arc::clone(&pool), Arc::clone(&svid));
        tokio::spawn(async move { pool.open_stream(&key(1), &svid, &headers()).await })
    };
    while dials.load(SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.open_stream(&key(1), &svid, &headers()).await })
    };
    while lock(&lock(&pool.entries).by_key[&key(1)].state).dials[0].waiters < 2 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1);
    assert!(second.await.unwrap().is_err());
    assert_eq!(dials.load(SeqCst), 1);
}

#[tokio::test]
async fn a_cut_releases_those_who_wait() {
    let (gate, dials) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = Tasks::default();
    let pool = TunnelPool::new(failing(&gate, &dials), clock(), hbone_only(), tasks.clone());
    let svid = svid();
    let waiting = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.open_stream(&key(1), &svid, &headers()).await })
    };
    while dials.load(SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    tasks.cut();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, OpenTunnelError::Draining), "{error}");
}

#[tokio::test]
async fn a_closed_pool_keeps_nothing() {
    let (gate, dials) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
    let tasks = Tasks::default();
    let pool = TunnelPool::new(failing(&gate, &dials), clock(), hbone_only(), tasks);
    pool.close();
    let result = pool.open_stream(&key(1), &svid(), &headers()).await;
    assert!(result.is_err());
    assert_eq!(dials.load(SeqCst), 1, "who is on its way gets there");
    assert!(lock(&pool.entries).by_key.is_empty());
}
