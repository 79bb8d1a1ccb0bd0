use std::process::Command;

use super::*;
use crate::pem;

/// Certificate and key of an authority, made by another program than ours.
fn made_by_openssl(directory: &std::path::Path) -> (String, String) {
    let output = Command::new("openssl")
        .current_dir(directory)
        .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=etcd CA",
        ])
        .args(["-keyout", "ca.key", "-out", "ca.crt"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let read = |name| std::fs::read_to_string(directory.join(name)).unwrap();
    (read("ca.crt"), read("ca.key"))
}

#[test]
fn client_certificate_is_verified_by_openssl_under_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = made_by_openssl(directory.path());
    let now = SystemTime::now();
    let authority = ClientAuthority::from_pem(&cert, &key, now).unwrap();
    let hour = Duration::from_secs(3600);
    let issued = authority.issue("remote-tion", hour, now).unwrap();
    std::fs::write(directory.path().join("leaf.crt"), &issued.cert_pem).unwrap();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .current_dir(directory.path())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    openssl(&[
        "verify",
        "-purpose",
        "sslclient",
        "-CAfile",
        "ca.crt",
        "leaf.crt",
    ]);
    let subject = openssl(&["x509", "-in", "leaf.crt", "-noout", "-subject"]);
    assert!(subject.trim().ends_with("CN = remote-tion"), "{subject}");
    assert!(issued.not_after <= now + hour);
    assert!(issued.key_pem.contains("PRIVATE KEY"));
    assert!(!format!("{issued:?}").contains("PRIVATE KEY"));
    // It is nobody in the mesh.
    let der = pem::certificates(&issued.cert_pem).unwrap();
    let leaf = crate::leaf::Leaf::parse(&der[0]).unwrap();
    leaf.workload_id().unwrap_err();
}

#[test]
fn certificate_never_outlives_its_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = made_by_openssl(directory.path());
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let authority = ClientAuthority::from_pem(&cert, &key, now).unwrap();
    assert!(authority.issue("x", 30 * day, now).unwrap().not_after <= now + 2 * day);
    let late = authority.issue("x", day, now + 3 * day);
    assert!(matches!(late, Err(SignCsrError::RootExpired)));
    let expired = ClientAuthority::from_pem(&cert, &key, now + 3 * day);
    assert!(matches!(expired, Err(OpenAuthorityError::Expired)));
}

#[test]
fn key_of_another_authority_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cert, _) = made_by_openssl(one.path());
    let (_, key) = made_by_openssl(other.path());
    let opened = ClientAuthority::from_pem(&cert, &key, SystemTime::now());
    assert!(matches!(opened, Err(OpenAuthorityError::KeyMismatch)));
    let broken = ClientAuthority::from_pem("nothing", &key, SystemTime::now());
    assert!(broken.is_err());
}
