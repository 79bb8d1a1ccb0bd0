use std::{sync::atomic::AtomicUsize, sync::atomic::Ordering::Relaxed};

use super::*;

/// Takes a number of steps, each of which costs some time.
async fn steps(count: usize, cost: Duration, done: &AtomicUsize) {
    for _ in 0..count {
        let began = Instant::now();
        while began.elapsed() < cost {
            std::hint::spin_loop();
        }
        done.fetch_add(1, Relaxed);
        again().await;
    }
}

/// Ends the step, and is ready for the next at once.
async fn again() {
    let mut is_first = true;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::take(&mut is_first) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_flood_gets_no_more_than_its_share() {
    let all = Arc::new(FairShare::new(2));
    let (flood, victim) = (all.share(), all.share());
    let done: Arc<[AtomicUsize; 2]> = Arc::default();
    let cost = Duration::from_micros(50);
    for _ in 0..200 {
        let (share, done) = (flood.clone(), Arc::clone(&done));
        tokio::spawn(async move { share.run(steps(10_000, cost, &done[0])).await });
    }
    // Everybody of the flood is there.
    while done[0].load(Relaxed) < 200 {
        tokio::task::yield_now().await;
    }
    let before = done[0].load(Relaxed);
    let own = Arc::clone(&done);
    let task = tokio::spawn(async move { victim.run(steps(500, cost, &own[1])).await });
    task.await.unwrap();
    let flooded = done[0].load(Relaxed) - before;
    assert_eq!(done[1].load(Relaxed), 500);
    println!("a flood of 200 took {flooded} steps while its neighbour took 500");
    // Without turns it is 200 for one; a busy machine's own pauses count as time that was used.
    assert!(flooded < 5000, "{flooded}");
}

#[tokio::test]
async fn turns_come_back_from_whoever_leaves() {
    let all = Arc::new(FairShare::new(1));
    let share = all.share();
    let mut cx = Context::from_waker(Waker::noop());
    let mut holder = share.run(std::future::ready(0));
    let mut first = share.run(std::future::ready(1));
    let mut second = share.run(std::future::ready(2));
    let mut third = share.run(std::future::ready(3));
    for waiter in [&mut holder, &mut first, &mut second, &mut third] {
        assert!(Pin::new(waiter).poll(&mut cx).is_pending());
    }
    assert!(Pin::new(&mut second).poll(&mut cx).is_pending());
    // One leaves while it waits, one after it was called.
    drop(first);
    assert_eq!(Pin::new(&mut holder).poll(&mut cx), Poll::Ready(0));
    drop(second);
    assert_eq!(Pin::new(&mut third).poll(&mut cx), Poll::Ready(3));
    assert_eq!(lock(&all.state).turns, 0);
    assert!(lock(&all.state).waiting.is_empty());
}
