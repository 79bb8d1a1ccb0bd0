use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    CertificateAuthority, KeyRequest,
    testing::{Flaw, Forge},
};

fn id(account: &str) -> SpiffeId {
    format!("spiffe://a.tulle/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::ephemeral(&"a.tulle".parse().unwrap(), SystemTime::now()).unwrap()
}

fn issue(authority: &CertificateAuthority, request: &KeyRequest, id: &SpiffeId) -> String {
    let hour = Duration::from_secs(3600);
    authority
        .sign_csr(request.csr_pem(), id, hour, SystemTime::now())
        .unwrap()
        .leaf_pem
}

#[test]
fn a_request_becomes_an_svid() {
    let authority = authority();
    let request = KeyRequest::new(&id("app")).unwrap();
    let chain = issue(&authority, &request, &id("app"));
    let svid = request.into_svid(&chain).unwrap();
    assert_eq!(*svid.id(), id("app"));
    assert_eq!(svid.chain_pem(), chain);
    let now = SystemTime::now();
    assert!(svid.not_before() < now && now < svid.not_after());
    assert_eq!(svid.serial().len(), 32);
}

#[test]
fn neither_debug_nor_chain_shows_the_key() {
    let forge = Forge::new(&"a.tulle".parse().unwrap()).unwrap();
    let svid = forge.svid(&id("app"), Flaw::None).unwrap();
    assert!(!svid.chain_pem().contains("PRIVATE"));
    assert_eq!(
        format!("{svid:?}"),
        format!(
            "Svid {{ id: {:?}, serial: {:?}, .. }}",
            svid.id(),
            svid.serial()
        )
    );
}

#[test]
fn a_chain_for_somebody_else_is_refused() {
    let request = KeyRequest::new(&id("app")).unwrap();
    let chain = issue(&authority(), &request, &id("other"));
    let error = request.into_svid(&chain).unwrap_err();
    assert!(
        matches!(error, AcceptSvidError::OtherIdentity { .. }),
        "{error:?}"
    );
}

#[test]
fn a_chain_for_another_key_is_refused() {
    let authority = authority();
    let (mine, other) = (
        KeyRequest::new(&id("app")).unwrap(),
        KeyRequest::new(&id("app")).unwrap(),
    );
    let chain = issue(&authority, &other, &id("app"));
    let error = mine.into_svid(&chain).unwrap_err();
    assert!(matches!(error, AcceptSvidError::Key { .. }), "{error:?}");
}

#[test]
fn a_chain_that_is_no_svid_is_refused() {
    let forge = Forge::new(&"a.tulle".parse().unwrap()).unwrap();
    let check = |chain: &str, expected: &str| {
        let error = KeyRequest::new(&id("app"))
            .unwrap()
            .into_svid(chain)
            .unwrap_err();
        assert!(format!("{error:?}").contains(expected), "{error:?}");
    };
    check("", "Empty");
    check(&"x".repeat(300 * 1024), "TooLong");
    check(
        &forge.svid(&id("app"), Flaw::NoSan).unwrap().chain_pem(),
        "NoSan",
    );
    check(
        &forge.svid(&id("app"), Flaw::TwoSans).unwrap().chain_pem(),
        "SeveralSans",
    );
    check(
        &forge.svid(&id("app"), Flaw::Authority).unwrap().chain_pem(),
        "WrongUsage",
    );
    check(forge.root_pem(), "NotAWorkloadId");
}
