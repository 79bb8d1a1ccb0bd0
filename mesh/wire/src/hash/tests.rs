use super::resource_version;

fn check(bytes: &[u8], expected: &str) {
    assert_eq!(resource_version(bytes), expected, "{bytes:?}");
}

/// Vectors published with the algorithm.
#[test]
fn known_vectors() {
    check(b"", "cbf29ce484222325");
    check(b"a", "af63dc4c8601ec8c");
    check(b"foobar", "85944171f73967e8");
}
