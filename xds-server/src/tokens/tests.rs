//! The file of token hashes.

use std::fs;

use tempfile::TempDir;

use super::*;

fn hash(token: &str) -> String {
    Sha256::digest(token)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[tokio::test]
async fn token_names_its_node() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tokens.json");
    let tokens = NodeTokens::new(path.clone());
    assert_eq!(tokens.node_of(b"one").await, None);
    assert!(tokens.fault().unwrap().contains("tokens.json"));
    fs::write(
        &path,
        format!(
            r#"{{"n1": "{}", "n2": "{}"}}"#,
            hash("one"),
            hash("two").to_uppercase()
        ),
    )
    .unwrap();
    assert_eq!(tokens.node_of(b"one").await.as_deref(), Some("n1"));
    assert_eq!(tokens.node_of(b"two").await.as_deref(), Some("n2"));
    assert_eq!(tokens.node_of(b"three").await, None);
    assert_eq!(tokens.node_of(b"").await, None);
    assert_eq!(tokens.fault(), None);
    // Replaced, as Kubernetes does it: seen at the next request.
    let other = directory.path().join("other");
    fs::write(&other, format!(r#"{{"n3": "{}"}}"#, hash("one"))).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(tokens.node_of(b"one").await.as_deref(), Some("n3"));
}

#[tokio::test]
async fn bad_file_keeps_the_last_good_one() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tokens.json");
    let tokens = NodeTokens::new(path.clone());
    for bad in [
        "",
        "[]",
        r#"{"n": 7}"#,
        r#"{"n": "abc"}"#,
        &format!(r#"{{"n": "{}"}}"#, "g".repeat(64)),
    ] {
        fs::write(&path, format!(r#"{{"n1": "{}"}}"#, hash("one"))).unwrap();
        assert_eq!(tokens.node_of(b"one").await.as_deref(), Some("n1"));
        let other = directory.path().join("other");
        fs::write(&other, bad).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(tokens.node_of(b"one").await.as_deref(), Some("n1"), "{bad}");
        let fault = tokens.fault().unwrap();
        assert!(!fault.contains(&hash("one")), "{fault}");
        fs::remove_file(&path).unwrap();
    }
}
