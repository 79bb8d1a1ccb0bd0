use proptest::prelude::*;

use super::{ClusterId, ClusterName, ParseClusterError};

fn check(text: &str, valid: bool) {
    let parsed = text.parse::<ClusterName>();
    assert_eq!(parsed.is_ok(), valid, "{text:?}");
    match parsed {
        Ok(name) => assert_eq!((name.as_str(), name.to_string()), (text, text.to_owned())),
        Err(error) => assert!(error.to_string().contains("expected"), "{error}"),
    }
    // What is stored obeys the same rule as what is typed.
    let stored = serde_json::to_string(text).unwrap();
    assert_eq!(
        serde_json::from_str::<ClusterName>(&stored).is_ok(),
        valid,
        "{text:?}"
    );
}

#[test]
fn names_follow_the_rule() {
    for text in [
        "a",
        "0",
        "ab",
        "a-b",
        "a--b",
        "koornacht",
        "0-9",
        &"a".repeat(32),
    ] {
        check(text, true);
    }
    for text in [
        "",
        "-",
        "-a",
        "a-",
        "A",
        "aB",
        "a_b",
        "a.b",
        "a b",
        "ä",
        "a\n",
        &"a".repeat(33),
    ] {
        check(text, false);
    }
}

#[test]
fn ids_are_1_to_511() {
    for id in [1u16, 2, 510, 511] {
        let parsed = ClusterId::try_from(id).unwrap();
        assert_eq!(
            (parsed.value(), u16::from(parsed), parsed.to_string()),
            (id, id, id.to_string())
        );
    }
    for id in [0u16, 512, 513, u16::MAX] {
        assert_eq!(
            ClusterId::try_from(id),
            Err(ParseClusterError::Id { found: id })
        );
        assert!(serde_json::from_str::<ClusterId>(&id.to_string()).is_err());
    }
}

#[test]
fn a_refused_name_is_cut_in_the_error() {
    let error = "X".repeat(10_000).parse::<ClusterName>().unwrap_err();
    assert!(error.to_string().len() < 300);
}

proptest! {
    #[test]
    fn any_text_is_judged_as_the_pattern_says(text in ".{0,40}|[a-z0-9-]{0,40}") {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let valid = (1..=32).contains(&text.len())
            && text.chars().all(|c| inner(c) || c == '-')
            && text.starts_with(inner)
            && text.ends_with(inner);
        prop_assert_eq!(text.parse::<ClusterName>().is_ok(), valid);
    }
}
