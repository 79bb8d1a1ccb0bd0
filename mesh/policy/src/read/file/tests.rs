use super::*;
use crate::{DefaultCluster, testing::settings};

fn read(text: &str) -> Vec<(usize, Result<ReadPolicy, ReadPolicyError>)> {
    read_policy_file(text, &settings(DefaultCluster::Any))
}

fn check_fault(text: &str, expected: &str) {
    let read = read(text);
    let (_, result) = read.last().expect(text);
    let error = result.as_ref().expect_err(text);
    let shown: String = text.chars().take(100).collect();
    assert_eq!(error.to_string(), expected, "{shown}");
}

#[test]
fn each_document_has_its_own_result() {
    let text = "\
# nothing but a comment
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a}
spec: {endpointSelector: {}, ingress: [{}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: b}
spec: {endpointSelector: {}, ingres: [{}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: c}
spec: {podSelector: {}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: d}
spec: {}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: e}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: f}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: g}
spec: {endpointSelector: {}, egress: [{}]}
";
    let shown: Vec<String> = read(text)
        .iter()
        .map(|(number, result)| match result {
            Ok(ReadPolicy::Rules(read)) => format!("{number} {}", read.rules.key),
            Ok(ReadPolicy::Authorization(policy)) => {
                format!("{number} istio/{}", policy.authorization.key())
            }
            Ok(ReadPolicy::PeerAuthentication(policy)) => format!("{number} mtls/{}", policy.key),
            Err(error) => {
                let field = error.field_path().unwrap_or("-");
                format!("{number} refused {field}")
            }
        })
        .collect();
    assert_eq!(
        shown,
        [
            "1 cilium/default/a",
            "2 refused spec.ingres",
            "3 kubernetes/default/c",
            "4 istio/default/d",
            "5 mtls/default/e",
            "6 refused -",
            "7 cilium//g",
        ]
    );
}

#[test]
fn what_is_no_object_is_refused_with_its_place() {
    let expected = "expected one of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy of cilium.io/v2, NetworkPolicy of networking.k8s.io/v1, AuthorizationPolicy and PeerAuthentication of security.istio.io/v1 or v1beta1";
    check_fault("7", &format!("the object is \"\" of \"\", {expected}"));
    check_fault(
        "a: b: c",
        "the document is no YAML object: mapping values are not allowed in this context at line 1 column 5",
    );
    check_fault(
        "spec: {}\nspec: {}",
        "the document is no YAML object: duplicate entry with key \"spec\"",
    );
    check_fault(
        "{1: x}",
        "the document is no YAML object: the key Number(1) is no text",
    );
    check_fault(
        "!x {}",
        "the document is no YAML object: the tag !x has no meaning here",
    );
    assert!(read("").is_empty());
    assert!(read("---\n---\n").is_empty());
}

#[test]
fn files_that_would_take_the_machine_are_refused() {
    let deep = "[".repeat(100_000);
    let error = read(&deep).remove(0).1.unwrap_err().to_string();
    let expected = "the document is no YAML object: recursion limit exceeded";
    assert!(error.starts_with(expected), "{error}");
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = format!("*a{}", i - 1);
        let items = vec![before; 10].join(", ");
        laughs += &format!("a{i}: &a{i} [{items}]\n");
    }
    check_fault(
        &laughs,
        "the document is no YAML object: repetition limit exceeded",
    );
    let many = "--- {}\n".repeat(DOCUMENTS_MAX + 2);
    assert_eq!(read(&many).len(), DOCUMENTS_MAX + 1);
    let large = "#".repeat(FILE_LEN_MAX + 1);
    check_fault(
        &large,
        "the document is no YAML object: the file has 8388609 bytes, expected at most 8388608",
    );
}
