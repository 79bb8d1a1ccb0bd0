//! Stale and fresh keys.

use super::*;

#[test]
fn only_keys_that_a_list_did_not_bring_are_stale() {
    let mut table = KeyTable::default();
    for key in ["a/1", "a/2", "b/1"] {
        assert_eq!(table.put(key, b"x", 1), Put::Room);
    }
    assert!(table.stale("").is_empty());
    table.mark_stale();
    assert!(table.is_same("a/1", b"x"));
    assert!(!table.is_same("a/2", b"y"));
    table.keep("a/2");
    assert_eq!(table.stale("a/"), Vec::<String>::new());
    assert_eq!(table.stale(""), ["b/1"]);
    table.remove("b/1");
    assert_eq!((table.len(), table.bytes), (2, 2));
}

#[test]
fn room_is_bounded() {
    let mut table = KeyTable::default();
    for n in 0..KEYS_MAX {
        assert_eq!(table.put(&n.to_string(), b"", 0), Put::Room);
    }
    assert_eq!(table.put("one more", b"", 0), Put::NoRoom);
    // A known key may change, as long as its value fits.
    assert_eq!(table.put("7", b"x", 1), Put::Room);
    assert_eq!(table.put("8", b"x", STATE_BYTES_MAX), Put::NoRoom);
    table.clear();
    assert_eq!(table.put("8", b"x", STATE_BYTES_MAX), Put::Room);
}
