use std::time::SystemTime;

use super::*;
use crate::{
    CertificateAuthority,
    testing::{Flaw, Forge},
};

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn root(name: &str) -> String {
    let authority = CertificateAuthority::ephemeral(&domain(name), SystemTime::now()).unwrap();
    authority.root_pem().to_owned()
}

#[test]
fn a_bundle_is_added_replaced_and_removed_without_touching_others() {
    let empty = TrustBundles::default();
    let (first, second) = (root("a.tulle"), root("a.tulle"));
    let one = empty.with_pem(&domain("a.tulle"), &first).unwrap();
    let two = one.with_pem(&domain("b.tulle"), &root("b.tulle")).unwrap();
    let replaced = two.with_pem(&domain("a.tulle"), &second).unwrap();
    assert_eq!(empty.domains().count(), 0);
    assert_eq!(one.roots_pem(&domain("a.tulle")), Some(first.as_str()));
    assert_eq!(
        replaced.roots_pem(&domain("a.tulle")),
        Some(second.as_str())
    );
    assert_eq!(replaced.domains().count(), 2);
    let removed = replaced.without(&domain("a.tulle"));
    assert_eq!(removed.roots_pem(&domain("a.tulle")), None);
    assert_eq!(removed.domains().count(), 1);
}

#[test]
fn what_is_not_a_root_is_refused() {
    let check = |text: &str, expected: &str| {
        let error = TrustBundles::default()
            .with_pem(&domain("a.tulle"), text)
            .unwrap_err();
        let text = format!("{error}: {:?}", std::error::Error::source(&error));
        assert!(text.contains(expected), "{text}");
    };
    check("", "Empty");
    check("no PEM at all", "Empty");
    check(
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "Broken",
    );
    check(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "certificate 1",
    );
    check(&"x".repeat(300 * 1024), "TooLong");
    let forge = Forge::new(&domain("a.tulle")).unwrap();
    let id = "spiffe://a.tulle/ns/a/sa/b".parse().unwrap();
    let leaf = forge.svid(&id, Flaw::None).unwrap().chain_pem();
    check(&leaf, "not an authority");
    check(&format!("{}{leaf}", forge.root_pem()), "certificate 2");
    check(&forge.root_pem().repeat(65), "TooMany");
}

#[test]
fn the_number_of_domains_is_bounded() {
    let pem = root("a.tulle");
    let mut bundles = TrustBundles::default();
    for number in 0..DOMAINS_MAX {
        bundles = bundles
            .with_pem(&domain(&format!("d{number}")), &pem)
            .unwrap();
    }
    let error = bundles.with_pem(&domain("one-more"), &pem).unwrap_err();
    assert!(matches!(error, ParseBundleError::TooManyDomains { .. }));
    bundles.with_pem(&domain("d0"), &pem).unwrap();
}
