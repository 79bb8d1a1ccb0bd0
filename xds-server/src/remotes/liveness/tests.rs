//! Signs of life.

use super::*;

#[test]
fn tulle_counts_and_a_stuck_watch_is_noticed() {
    let start = Instant::now();
    let mut liveness = Liveness::new(RemoteKind::Tulle, start);
    liveness.begin(start);
    liveness.listed(b"1", start);
    assert!(!liveness.wants_look(start));
    let value = KeyState::Value(b"2".to_vec());
    assert_eq!(liveness.heard(&value, Some(2), start), Some(2));
    let later = start + QUIET_MAX;
    assert!(liveness.wants_look(later));
    // Silence of the cluster is no fault of the watch.
    assert_eq!(liveness.looked(Some(b"2"), later).unwrap(), None);
    assert_eq!(liveness.looked(None, later).unwrap(), None);
    assert!(liveness.looked(Some(b"3"), later).is_err());
}

#[test]
fn cilium_lives_while_its_etcd_answers_and_its_minute_is_not_overdue() {
    let start = Instant::now();
    let mut liveness = Liveness::new(RemoteKind::Cilium, start);
    liveness.begin(start);
    liveness.listed(b"12:00", start);
    assert_eq!(liveness.first_beat(start), Some(1));
    let later = start + CILIUM_OVERDUE / 2;
    assert!(liveness.wants_look(later));
    assert_eq!(liveness.looked(Some(b"12:00"), later).unwrap(), Some(2));
    let value = KeyState::Value(b"12:01".to_vec());
    assert_eq!(liveness.heard(&value, None, later), Some(3));
    let overdue = later + CILIUM_OVERDUE;
    assert_eq!(liveness.looked(Some(b"12:01"), overdue).unwrap(), None);
    assert_eq!(liveness.looked(Some(b"12:04"), overdue).unwrap(), Some(4));
}
