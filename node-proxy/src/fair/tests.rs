use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures::FutureExt as _;

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

/// How many turns are taken; nobody may wait.
fn turns(all: &FairShare) -> usize {
    assert!(all.lock().is_empty());
    all.gate.load(Relaxed)
}

/// One thread, on which a flood's tasks are all ready all the time, and one task of a neighbour: how many steps the flood took
/// while the neighbour took `count`.
async fn flooded(flooders: usize, count: usize, cost: Duration) -> usize {
    let all = Arc::new(FairShare::new(1));
    let (flood, victim) = (all.share(), all.share());
    let done: Arc<[AtomicUsize; 2]> = Arc::default();
    let mut tasks = Vec::new();
    for _ in 0..flooders {
        let (share, done) = (flood.clone(), Arc::clone(&done));
        let work = async move { steps(usize::MAX, cost, &done[0]).await };
        tasks.push(tokio::spawn(share.run(work)));
    }
    // Everybody of the flood is there.
    while done[0].load(Relaxed) < flooders {
        tokio::task::yield_now().await;
    }
    let own = Arc::clone(&done);
    let before = done[0].load(Relaxed);
    let work = async move { steps(count, cost, &own[1]).await };
    tokio::spawn(victim.run(work)).await.unwrap();
    let flooded = done[0].load(Relaxed) - before;
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    assert_eq!(done[1].load(Relaxed), count);
    assert_eq!(turns(&all), 0);
    flooded
}

#[tokio::test]
async fn a_flood_gets_no_more_than_its_share() {
    let flooded = flooded(200, 1000, Duration::from_micros(50)).await;
    println!("a flood of 200 took {flooded} steps while its neighbour took 1000");
    // Without turns it is 200 for one; a busy machine's own pauses count as time that was used.
    assert!(flooded < 3000, "{flooded}");
}

#[tokio::test]
async fn turns_come_back_from_whoever_leaves() {
    let all = Arc::new(FairShare::new(1));
    let share = all.share();
    let mut cx = Context::from_waker(Waker::noop());
    let mut holder = Box::pin(share.run(tokio::task::yield_now()));
    let waiting = std::array::from_fn(|n| Box::pin(share.run(std::future::ready(n))));
    let [mut first, mut second, mut third]: [_; 3] = waiting;
    // A turn that is on its way to somebody.
    assert!(all.take_free());
    for waiter in [&mut first, &mut second, &mut third] {
        assert!(waiter.as_mut().poll(&mut cx).is_pending());
    }
    assert!(holder.as_mut().poll(&mut cx).is_pending());
    // One leaves while it waits, one after it was called.
    drop(first);
    all.end(&share.account, Used::Nothing);
    assert!(third.as_mut().poll(&mut cx).is_pending());
    drop(second);
    assert_eq!(third.as_mut().poll(&mut cx), Poll::Ready(2));
    drop(holder);
    assert_eq!(turns(&all), 0);
}

#[tokio::test]
async fn a_panic_ends_a_turn() {
    let all = Arc::new(FairShare::new(1));
    let share = all.share();
    let mut bad = Box::pin(share.run(async { panic!("on purpose") }));
    let seen = AssertUnwindSafe(&mut bad).catch_unwind().await;
    assert!(seen.is_err());
    assert_eq!(turns(&all), 0);
    let task = tokio::spawn(share.run(async { 1 }));
    assert_eq!(task.await.unwrap(), 1);
}

/// A waker that outlives its task calls nobody, and takes no turn.
#[tokio::test]
async fn a_late_wake_takes_no_turn() {
    let all = Arc::new(FairShare::new(1));
    let kept = Arc::new(Mutex::new(None));
    let keeper = Arc::clone(&kept);
    let work = std::future::poll_fn(move |cx| {
        *keeper.lock().unwrap() = Some(cx.waker().clone());
        Poll::<()>::Pending
    });
    let mut idle = Box::pin(all.share().run(work));
    assert!((&mut idle).now_or_never().is_none());
    assert_eq!(turns(&all), 0);
    let waker: Waker = kept.lock().unwrap().take().unwrap();
    // Woken twice: one turn.
    waker.wake_by_ref();
    waker.wake_by_ref();
    assert_eq!(turns(&all), 1);
    drop(idle);
    assert_eq!(turns(&all), 0);
    waker.wake();
    assert_eq!(turns(&all), 0);
}

/// A task that is woken by somebody else before its turn takes no step.
#[tokio::test]
async fn nobody_steps_out_of_turn() {
    let all = Arc::new(FairShare::new(1));
    let polled = AtomicUsize::new(0);
    let work = std::future::poll_fn(|_| {
        polled.fetch_add(1, Relaxed);
        Poll::<()>::Pending
    });
    let mut idle = Box::pin(all.share().run(work));
    assert!(all.take_free());
    for _ in 0..3 {
        assert!((&mut idle).now_or_never().is_none());
    }
    assert_eq!(polled.load(Relaxed), 0);
    all.end(&all.share().account, Used::Nothing);
    for _ in 0..3 {
        assert!((&mut idle).now_or_never().is_none());
    }
    assert_eq!(polled.load(Relaxed), 1);
}

/// On several threads, with tasks that wake each other, wait for time, and are cut at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn turns_and_places_agree_after_a_storm() {
    let all = Arc::new(FairShare::new(2));
    let shares: Vec<_> = (0..5).map(|_| all.share()).collect();
    let passed = Arc::new(AtomicUsize::new(0));
    for _round in 0..20 {
        let mut tasks = Vec::new();
        for pair in 0..100_usize {
            let (to, mut from) = tokio::sync::mpsc::channel::<usize>(1);
            let (share, other) = (&shares[pair % 5], &shares[(pair / 5) % 5]);
            let send = async move {
                for n in 0..50 {
                    if to.send(n).await.is_err() {
                        break;
                    }
                }
            };
            let seen = Arc::clone(&passed);
            let receive = async move {
                while from.recv().await.is_some() {
                    seen.fetch_add(1, Relaxed);
                    again().await;
                }
            };
            let cut = tokio::spawn(share.run(send));
            if pair % 3 == 0 {
                cut.abort();
            }
            tasks.push(cut);
            tasks.push(tokio::spawn(other.run(receive)));
        }
        for task in tasks {
            let ended = task.await;
            assert!(ended.is_ok() || ended.is_err_and(|e| e.is_cancelled()));
        }
        assert_eq!(turns(&all), 0);
    }
    // Two of three pairs were not cut.
    assert!(passed.load(Relaxed) >= 20 * 66 * 50);
}

/// What a connection costs for its turns, as long as it lives.
#[test]
fn a_place_is_small() {
    let size = size_of::<Place>() + size_of::<Ticket>();
    assert!(size <= 96, "{size} bytes");
}
