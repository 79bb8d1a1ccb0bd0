use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::*;
use crate::{
    MeshTls,
    testing::{Forge, bundles},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Path validation counts whole seconds and takes a certificate in the whole of its last one.
#[test]
fn a_term_ends_when_the_handshake_would_fail() {
    let term = Term::until(at(100));
    let almost = at(101) - Duration::from_nanos(1);
    for (now, is_over) in [
        (at(0), false),
        (at(100), false),
        (almost, false),
        (at(101), true),
        (at(200), true),
        (SystemTime::UNIX_EPOCH - SECOND, false),
    ] {
        assert_eq!(term.is_over(now), is_over, "{now:?}");
        assert_eq!(term.left(now).is_zero(), is_over, "{now:?}");
    }
    assert_eq!(term.left(at(90)), 11 * SECOND);
}

#[tokio::test]
async fn both_ends_learn_when_the_others_certificate_ends() {
    let forge = Forge::new(&"a.tulle".parse().unwrap()).unwrap();
    let tls = MeshTls::new();
    tls.set_bundles(bundles(&[&forge]).unwrap());
    let id = |account: &str| {
        format!("spiffe://a.tulle/ns/default/sa/{account}")
            .parse()
            .unwrap()
    };
    let client = forge.svid_for(&id("client"), 2 * HOUR).unwrap();
    let server = forge.svid_for(&id("server"), HOUR).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server_id = [id("server")];
    let (connected, accepted) = tokio::join!(
        tls.connect(Arc::clone(&client), &server_id, near),
        tls.accept(Arc::clone(&server), far),
    );
    let (seen_server, seen_client) = (connected.unwrap().1, accepted.unwrap().1);
    assert_eq!(seen_server.not_after, server.not_after());
    assert_eq!(seen_client.not_after, client.not_after());
    // Whoever looks at both sees the same end.
    let ends = [
        Term::of_both(&client, &seen_server),
        Term::of_both(&server, &seen_client),
        Term::of_peer(&seen_server),
    ];
    assert_eq!(ends, [Term::until(server.not_after()); 3]);
    assert!(Term::of_peer(&seen_client) > ends[0]);
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_in_time_though_the_clock_is_set() {
    let (begun, jump) = (Instant::now(), Mutex::new(Duration::ZERO));
    let clock = || at(1000) + begun.elapsed() + *jump.lock().unwrap();
    let term = Term::until(at(1000) + HOUR);
    let ended = tokio::join!(
        async {
            term.end(clock).await;
            begun.elapsed()
        },
        async {
            sleep(600 * SECOND).await;
            *jump.lock().unwrap() = 2 * HOUR;
        }
    );
    let noticed = 600 * SECOND..=600 * SECOND + CLOCK_CHECK_INTERVAL;
    assert!(noticed.contains(&ended.0), "{:?}", ended.0);
    // And not before its time when nobody touches the clock.
    *jump.lock().unwrap() = Duration::ZERO;
    let begun = Instant::now();
    let clock = || at(1000) + begun.elapsed();
    term.end(clock).await;
    let exact = HOUR + SECOND..=HOUR + SECOND + Duration::from_millis(10);
    assert!(exact.contains(&begun.elapsed()), "{:?}", begun.elapsed());
}
