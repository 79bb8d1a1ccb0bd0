use std::time::Duration;

use serde_json::{Value, json};

use super::spread;

#[test]
fn a_spread_is_of_what_was_seen() {
    let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
    assert_eq!(
        spread(&times),
        json!({"p50": 101.0, "p99": 199.0, "max": 200.0})
    );
    assert_eq!(
        spread(&times[..1]),
        json!({"p50": 200.0, "p99": 200.0, "max": 200.0})
    );
    assert_eq!(spread(&[]), Value::Null);
}
