use proptest::prelude::*;

use super::NamespacedName;

fn check(text: &str, parts: Option<(&str, &str)>) {
    let expected = parts.map(|(namespace, name)| NamespacedName::new(namespace, name));
    assert_eq!(text.parse::<NamespacedName>().ok(), expected, "{text:?}");
    let stored = serde_json::to_string(text).unwrap();
    assert_eq!(
        serde_json::from_str::<NamespacedName>(&stored).ok(),
        expected,
        "{text:?}"
    );
}

#[test]
fn names_have_two_parts() {
    check("a/b", Some(("a", "b")));
    check(
        "default/rebel-base.default.svc.cluster.local",
        Some(("default", "rebel-base.default.svc.cluster.local")),
    );
    for text in ["", "/", "a", "a/", "/b", "a/b/c", "a//b", "a/b/"] {
        check(text, None);
    }
}

/// Iteration over a map of keys goes namespace by namespace, which text order would not (`a-b/…` < `a/…`).
#[test]
fn names_sort_by_namespace_first() {
    assert!(NamespacedName::new("a", "z") < NamespacedName::new("a-b", "a"));
}

#[test]
fn names_are_keys_of_stored_maps() {
    let map: std::collections::BTreeMap<_, _> = [(NamespacedName::new("a", "b"), 1)].into();
    let stored = serde_json::to_string(&map).unwrap();
    assert_eq!(stored, r#"{"a/b":1}"#);
    assert_eq!(
        serde_json::from_str::<std::collections::BTreeMap<NamespacedName, i32>>(&stored).unwrap(),
        map
    );
}

proptest! {
    #[test]
    fn every_pair_without_a_slash_survives(namespace in "[^/]{1,20}", name in "[^/]{1,20}") {
        let key = NamespacedName::new(namespace, name);
        prop_assert_eq!(key.to_string().parse::<NamespacedName>(), Ok(key));
    }
}
