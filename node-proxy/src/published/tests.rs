use std::{sync::Arc, thread};

use super::{Published, Publisher, PublisherGone};

#[tokio::test]
async fn a_wait_sees_the_present_value() {
    let published = Published::fixed(7);
    assert_eq!(
        published.clone().wait_for(|v| *v == 7).await.as_deref(),
        Ok(&7)
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_value_that_satisfies_it() {
    let publisher = Publisher::new(0);
    let mut reader = publisher.subscribe();
    let waiting = tokio::spawn(async move { reader.wait_for(|v| *v >= 3).await });
    for value in 1..=3 {
        publisher.publish(value);
    }
    assert_eq!(*waiting.await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn a_wait_ends_when_the_publisher_is_gone() {
    let publisher = Publisher::new(0);
    let mut reader = publisher.subscribe();
    drop(publisher);
    assert_eq!(reader.wait_for(|v| *v == 1).await, Err(PublisherGone));
    assert_eq!(*reader.snapshot(), 0);
}

#[test]
fn readers_see_whole_values_in_order() {
    let publisher = Publisher::new((0_u64, 0_u64));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let reader = publisher.subscribe();
            thread::spawn(move || {
                let mut last = 0;
                while last < ROUNDS {
                    let seen: Arc<(u64, u64)> = reader.snapshot();
                    assert_eq!(seen.0, seen.1);
                    assert!(seen.0 >= last);
                    last = seen.0;
                }
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        publisher.publish((round, round));
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

const ROUNDS: u64 = 20_000;
