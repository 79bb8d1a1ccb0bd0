//! How old a connection may become.

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn connection_in_use_grows_old_and_ends_when_it_is_left() {
    const AGE: Duration = Duration::from_secs(20);
    let keep = Keep::default();
    keep.until_unused(AGE).await;
    let (one, two) = (keep.hold(), keep.hold());
    drop(one);
    let begun = Instant::now();
    let ended = tokio::join!(
        async {
            keep.until_unused(AGE).await;
            begun.elapsed()
        },
        async {
            // A little more than two ages; the connection may end only at the end of the next one.
            sleep(AGE * 5 / 2).await;
            drop(two);
        }
    );
    // Timers are a millisecond late at most.
    let third = AGE * 3..AGE * 3 + Duration::from_millis(10);
    assert!(third.contains(&ended.0), "{:?}", ended.0);
}
