//! Sets of labels.

use super::*;

#[test]
fn text_is_sorted_and_each_label_ends() {
    let labels = SmallMap::from_iter([("app".into(), "baz".into())]);
    let text = labels_text("cluster3", "bar", "default", &labels);
    assert_eq!(
        text,
        "k8s:app=baz;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=bar;k8s:io.cilium.k8s.policy.cluster=cluster3;k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=bar;"
    );
    assert_eq!(pod_labels(&text), labels);
    let fixture = "k8s:app=baz;k8s:io.cilium.k8s.policy.cluster=cluster3;k8s:io.kubernetes.pod.namespace=bar;";
    assert_eq!(pod_labels(fixture), labels);
    assert_eq!(pod_labels("reserved:host;;k8s:;=;"), SmallMap::new());
}

#[test]
fn numbers_belong_to_the_cluster_and_are_kept_while_used() {
    let mut numbers = Numbers::new(3, 255);
    let first = numbers.take("a").unwrap();
    assert_eq!(first >> 16, 3);
    assert!(first & 0xffff >= LOCAL_MIN);
    assert_eq!(numbers.take("a"), Some(first));
    assert_ne!(numbers.take("b"), Some(first));
    assert_eq!(numbers.give_back("a"), None);
    assert_eq!(numbers.give_back("a"), Some(first));
    assert_eq!(numbers.give_back("a"), None);
    // The same labels have the same number in another life.
    assert_eq!(Numbers::new(3, 255).take("a"), Some(first));
    let of_many = Numbers::new(300, 511).take("a").unwrap();
    assert_eq!(of_many >> 15, 300);
}

#[test]
fn numbers_end_where_the_split_says() {
    let mut numbers = Numbers::new(1, 511);
    let room = (1 << 15) - LOCAL_MIN;
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..room {
        assert!(seen.insert(numbers.take(&n.to_string()).unwrap()));
    }
    assert_eq!(numbers.take("one more"), None);
    numbers.give_back("7");
    assert!(numbers.take("one more").is_some());
}
