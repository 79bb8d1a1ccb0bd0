use std::sync::Arc;

use tulle_identity::{TrustBundles, testing::Forge};
use tulle_model::{TrustBundle, TrustDomain};

use super::merge;

fn root(domain: &TrustDomain) -> String {
    Forge::new(domain).unwrap().root_pem().to_owned()
}

fn bundle(domain: &TrustDomain, roots_pem: &str) -> Arc<TrustBundle> {
    Arc::new(TrustBundle {
        trust_domain: domain.clone(),
        roots_pem: roots_pem.to_owned(),
    })
}

#[test]
fn bundles_come_and_go_with_the_view() {
    let (a, b): (TrustDomain, TrustDomain) =
        ("a.tulle".parse().unwrap(), "b.tulle".parse().unwrap());
    let (root_a, root_b) = (root(&a), root(&b));
    let both = merge(
        &TrustBundles::default(),
        &[bundle(&a, &root_a), bundle(&b, &root_b)],
    );
    assert_eq!(both.domains().count(), 2);
    let one = merge(&both, &[bundle(&a, &root_a)]);
    assert_eq!(one.domains().collect::<Vec<_>>(), [&a]);
    assert!(one.roots_pem(&b).is_none());
}

#[test]
fn a_bundle_that_cannot_be_used_does_not_replace_one_that_can() {
    let a: TrustDomain = "a.tulle".parse().unwrap();
    let b: TrustDomain = "b.tulle".parse().unwrap();
    let good = merge(&TrustBundles::default(), &[bundle(&a, &root(&a))]);
    let kept = merge(&good, &[bundle(&a, "rubbish"), bundle(&b, &root(&b))]);
    assert_eq!(kept.roots_pem(&a), good.roots_pem(&a));
    assert!(kept.roots_pem(&b).is_some());
    assert_eq!(
        merge(&TrustBundles::default(), &[bundle(&a, "rubbish")])
            .domains()
            .count(),
        0
    );
}
