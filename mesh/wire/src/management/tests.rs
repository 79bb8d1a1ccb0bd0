use super::*;

#[test]
fn spread_of_counts() {
    assert_eq!(Spread::of([]), Spread::default());
    let spread = Spread::of([1, 2, 6]);
    assert_eq!((spread.min, spread.max), (1, 6));
    assert!((spread.avg - 3.0).abs() < 1e-9);
}

#[test]
fn message_of_another_version_is_read() {
    let text =
        r#"{"cluster": "tion", "later": 1, "remotes": [{"name": "koornacht", "state": "silent"}]}"#;
    let status: ClusterStatus = serde_json::from_str(text).unwrap();
    assert_eq!(status.cluster, "tion");
    assert_eq!(status.remotes[0].state, RemoteState::Silent);
    assert!(!status.ready);
}

#[test]
fn orders_with_unknown_words_are_refused() {
    // A misspelt field must not silently mean its default.
    serde_json::from_str::<Publishing>(r#"{"enabled": true, "endpoint": []}"#).unwrap_err();
    assert!(serde_json::from_str::<RemoteCluster>(r#"{"name": "tion"}"#).is_err());
}
