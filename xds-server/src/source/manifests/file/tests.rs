//! Manifests as people write them, good and bad.

use super::*;
use crate::source::manifests::testing::settings;

fn keys(text: &str) -> Vec<String> {
    let manifest = parse_manifest(text, &settings()).unwrap();
    manifest.objects.keys().map(ToString::to_string).collect()
}

/// The fault's line, field and a part of its message.
fn check_fault(text: &str, line: Option<usize>, field: Option<&str>, message: &str) {
    let fault = parse_manifest(text, &settings()).unwrap_err();
    assert_eq!(
        (fault.line, fault.field.as_deref()),
        (line, field),
        "{fault:?}"
    );
    assert!(fault.message.contains(message), "{fault:?}");
}

/// The lab's own service, word for word.
const LAB_SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata:
  name: rebel-base
spec:
  type: ClusterIP
  ports:
  - port: 80
  selector:
    name: rebel-base
";

#[test]
fn lab_service_is_read() {
    assert_eq!(keys(LAB_SERVICE), ["Service default/rebel-base"]);
}

#[test]
fn several_documents_and_foreign_kinds() {
    let text = format!(
        "{LAB_SERVICE}---\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\n---\napiVersion: v1\nkind: Node\nmetadata: {{name: worker, namespace: ignored}}\n"
    );
    let manifest = parse_manifest(&text, &settings()).unwrap();
    let names: Vec<String> = manifest.objects.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["Node worker", "Service default/rebel-base"]);
    assert_eq!(manifest.ignored, ["apps/v1 Deployment"]);
}

#[test]
fn empty_file_is_an_empty_manifest() {
    for text in ["", "---\n", "# nothing\n", "---\n---\n"] {
        assert!(keys(text).is_empty(), "{text:?}");
    }
}

#[test]
fn fault_names_line_and_field() {
    let text = LAB_SERVICE.replace("port: 80", "port: eighty");
    check_fault(
        &text,
        Some(9),
        Some("spec.ports[0].port"),
        "Service default/rebel-base",
    );
    // In a second document the line counts from the beginning of the file.
    let text = format!(
        "{LAB_SERVICE}---\napiVersion: v1\nkind: Service\nmetadata: {{name: b}}\nspec:\n  ports: 7\n"
    );
    check_fault(&text, Some(17), Some("spec.ports"), "Service default/b");
    check_fault("a: [", Some(2), None, "");
    check_fault(
        "apiVersion: v1\nmetadata: {name: x}\n",
        None,
        None,
        "no apiVersion or no kind",
    );
}

#[test]
fn names_that_would_break_keys_are_refused() {
    for name in ["", "a/b", "A", "-a", "a_b", "..", "a\u{e9}"] {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name:?}}}\n");
        check_fault(&text, None, Some("metadata.name"), "not a DNS name");
        let text =
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {name:?}}}\n");
        check_fault(&text, None, Some("metadata.namespace"), "not a DNS name");
    }
    assert_eq!(
        keys("apiVersion: v1\nkind: Pod\nmetadata: {name: a.b-1}\n"),
        ["Pod default/a.b-1"]
    );
}

#[test]
fn same_object_twice_is_refused() {
    check_fault(
        &format!("{LAB_SERVICE}{LAB_SERVICE}"),
        None,
        None,
        "defined twice",
    );
}

#[test]
fn policies_are_read_with_their_file() {
    let policy = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  action: DENY
  rules:
  - from: [{source: {ipBlocks: [\"10.0.0.0/8\"]}}]
";
    assert_eq!(keys(policy), ["AuthorizationPolicy shop/p"]);
    let bad = policy.replace("10.0.0.0/8", "10.0.0.0/99");
    let fault = parse_manifest(&bad, &settings()).unwrap_err();
    assert!(fault.field.unwrap().contains("ipBlocks"));
}

#[test]
fn no_bytes_make_it_panic() {
    for text in [
        "\u{feff}",
        "&a [*a]",
        "!!binary x",
        "? a",
        "- - - -",
        "{{{{",
        "\t",
        "%YAML 1.2\n---\n",
    ] {
        drop(parse_manifest(text, &settings()));
    }
    let deep = "[".repeat(100_000);
    drop(parse_manifest(&deep, &settings()));
}
