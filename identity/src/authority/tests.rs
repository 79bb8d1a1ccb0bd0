use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Barrier},
};

use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::KeyRequest;

const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    "a.tulle".parse().unwrap()
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://a.tulle/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn ephemeral() -> CertificateAuthority {
    CertificateAuthority::ephemeral(&domain(), now()).unwrap()
}

fn der(pem_text: &str) -> CertificateDer<'static> {
    pem::certificates(pem_text).unwrap().remove(0)
}

#[test]
fn the_root_is_made_once_and_found_again() {
    let temp = TempDir::new().unwrap();
    let directory = temp.path().join("deep/ca");
    let first = CertificateAuthority::open(&directory, &domain(), now()).unwrap();
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("root-key.pem")), 0o600);
    assert_eq!(mode(&directory.join("root-cert.pem")), 0o644);
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        2,
        "a draft was left behind"
    );
    assert_eq!(
        fs::read_to_string(directory.join("root-cert.pem")).unwrap(),
        first.root_pem()
    );
    let second = CertificateAuthority::open(&directory, &domain(), now()).unwrap();
    assert_eq!(first.root_pem(), second.root_pem());
}

#[test]
fn processes_that_start_at_once_share_one_root() {
    let temp = TempDir::new().unwrap();
    let directory = Arc::new(temp.path().join("ca"));
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (directory, barrier) = (directory.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                let authority = CertificateAuthority::open(&directory, &domain(), now()).unwrap();
                authority.root_pem().to_owned()
            })
        })
        .collect();
    let roots: Vec<String> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(directory.as_path()).unwrap().count(), 2);
}

#[test]
fn a_key_that_others_may_read_is_refused_and_the_cure_is_named() {
    let temp = TempDir::new().unwrap();
    CertificateAuthority::open(temp.path(), &domain(), now()).unwrap();
    let key = temp.path().join("root-key.pem");
    for wide in [0o640, 0o604, 0o660, 0o644] {
        fs::set_permissions(&key, fs::Permissions::from_mode(wide)).unwrap();
        let error = CertificateAuthority::open(temp.path(), &domain(), now()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("chmod 600 {}", key.display())),
            "{text}"
        );
        assert!(text.contains(&format!("{wide:04o}")), "{text}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    CertificateAuthority::open(temp.path(), &domain(), now()).unwrap();
}

#[test]
fn a_start_that_was_cut_short_is_completed_with_the_same_key() {
    let temp = TempDir::new().unwrap();
    let first = CertificateAuthority::open(temp.path(), &domain(), now()).unwrap();
    let issued = first
        .sign_csr(
            KeyRequest::new(&id("app")).unwrap().csr_pem(),
            &id("app"),
            HOUR,
            now(),
        )
        .unwrap();
    fs::remove_file(temp.path().join("root-cert.pem")).unwrap();
    let second = CertificateAuthority::open(temp.path(), &domain(), now()).unwrap();
    verify(&issued.leaf_pem, second.root_pem()).unwrap();
}

#[test]
fn a_certificate_without_key_is_refused() {
    let temp = TempDir::new().unwrap();
    CertificateAuthority::open(temp.path(), &domain(), now()).unwrap();
    fs::remove_file(temp.path().join("root-key.pem")).unwrap();
    let error = CertificateAuthority::open(temp.path(), &domain(), now()).unwrap_err();
    assert!(
        matches!(error, OpenAuthorityError::KeyMissing { .. }),
        "{error}"
    );
}

#[test]
fn what_makes_no_authority_is_refused() {
    let authority = ephemeral();
    let other = ephemeral();
    let key_of = |authority: &CertificateAuthority| authority.issuer().key().serialize_pem();
    let open = |certificate: &str, key: &str, domain: &str| {
        let domain: TrustDomain = domain.parse().unwrap();
        CertificateAuthority::from_pem(certificate, key, &domain, now())
    };
    let root = authority.root_pem();
    open(root, &key_of(&authority), "a.tulle").unwrap();

    let refused = |outcome: Result<CertificateAuthority, OpenAuthorityError>, expected: &str| {
        let error = outcome.unwrap_err();
        assert!(format!("{error:?}").contains(expected), "{error:?}");
    };
    refused(open(root, &key_of(&other), "a.tulle"), "KeyMismatch");
    refused(
        open(root, &key_of(&authority), "b.tulle"),
        "OtherTrustDomain",
    );
    refused(open(root, "no key", "a.tulle"), "Key");
    refused(
        open("no certificate", &key_of(&authority), "a.tulle"),
        "Pem",
    );
    refused(
        open(&root.repeat(2), &key_of(&authority), "a.tulle"),
        "Several",
    );
    let later = now() + Duration::from_secs(11 * 365 * 86400);
    refused(
        CertificateAuthority::from_pem(root, &key_of(&authority), &domain(), later),
        "Expired",
    );
    let key = KeyPair::generate().unwrap();
    let leaf = leaf_params(vec![uri_name(&id("app")).unwrap()], now(), now() + HOUR).unwrap();
    let leaf = leaf.self_signed(&key).unwrap();
    let leaf = pem::encode("CERTIFICATE", leaf.der());
    refused(
        open(&leaf, &key.serialize_pem(), "a.tulle"),
        "not an authority",
    );
}

#[test]
fn a_root_that_no_peer_can_use_is_found_at_the_start() {
    // An authority whose certificate forbids to sign for TLS.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![rcgen::GeneralSubtree::DirectoryName(
            DistinguishedName::new(),
        )],
    });
    let certificate = params.self_signed(&key).unwrap();
    let root = pem::encode("CERTIFICATE", certificate.der());
    let outcome = CertificateAuthority::from_pem(&root, &key.serialize_pem(), &domain(), now());
    assert!(
        matches!(outcome, Err(OpenAuthorityError::Unusable { .. })),
        "{outcome:?}"
    );
}

fn verify(leaf_pem: &str, root_pem: &str) -> Result<(), rustls::Error> {
    let bundle = Bundle::from_pem(&domain(), root_pem).unwrap();
    let leaf = der(leaf_pem);
    bundle.verify(&PresentedChain {
        leaf: &leaf,
        intermediates: &[],
        role: PeerRole::Client,
        now: UnixTime::now(),
    })
}

#[test]
fn the_leaf_is_what_an_svid_must_be() {
    let authority = ephemeral();
    let request = KeyRequest::new(&id("app")).unwrap();
    let signed_at = now();
    let issued = authority
        .sign_csr(request.csr_pem(), &id("app"), HOUR, signed_at)
        .unwrap();
    verify(&issued.leaf_pem, authority.root_pem()).unwrap();

    let leaf = der(&issued.leaf_pem);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI(&id("app").to_string())]
    );
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    assert!(!leaf.is_ca());

    let parsed_der = der(&issued.leaf_pem);
    let parsed = Leaf::parse(&parsed_der).unwrap();
    assert_eq!(
        parsed.not_before(),
        whole_seconds(signed_at - Duration::from_secs(120))
    );
    assert_eq!(parsed.not_after(), whole_seconds(signed_at + HOUR));
    assert_eq!(issued.not_after, parsed.not_after());
}

#[test]
fn serial_numbers_differ_though_the_key_is_the_same() {
    let authority = ephemeral();
    let request = KeyRequest::new(&id("app")).unwrap();
    let serial = || {
        let issued = authority
            .sign_csr(request.csr_pem(), &id("app"), HOUR, now())
            .unwrap();
        Leaf::parse(&der(&issued.leaf_pem)).unwrap().serial()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn lifetimes_are_bounded() {
    let authority = ephemeral();
    let request = KeyRequest::new(&id("app")).unwrap();
    let lifetime = |ttl: Duration, at: SystemTime| {
        let issued = authority.sign_csr(request.csr_pem(), &id("app"), ttl, at)?;
        Ok(issued.not_after.duration_since(whole_seconds(at)).unwrap())
    };
    let at = now();
    assert_eq!(lifetime(Duration::ZERO, at), Ok(SVID_TTL_DEFAULT));
    assert_eq!(lifetime(HOUR, at), Ok(HOUR));
    assert_eq!(lifetime(SVID_TTL_MAX, at), Ok(SVID_TTL_MAX));
    assert_eq!(lifetime(SVID_TTL_MAX + HOUR, at), Ok(SVID_TTL_MAX));
    assert_eq!(lifetime(Duration::MAX, at), Ok(SVID_TTL_MAX));
    let minute = Duration::from_secs(60);
    let end = authority.root_not_after;
    assert_eq!(lifetime(HOUR, end - minute), Ok(minute));
    assert_eq!(lifetime(HOUR, end), Err(SignCsrError::RootExpired));
}

#[test]
fn names_in_the_request_are_ignored() {
    let authority = ephemeral();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(uri_name(&id("somebody-else")).unwrap());
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
        &[1, 2, 3, 4],
        vec![5, 0],
    )];
    let csr = params.serialize_request(&key).unwrap();
    let csr = pem::encode("CERTIFICATE REQUEST", csr.der());
    let issued = authority.sign_csr(&csr, &id("app"), HOUR, now()).unwrap();
    let leaf = der(&issued.leaf_pem);
    let leaf = Leaf::parse(&leaf).unwrap();
    assert_eq!(leaf.workload_id().unwrap(), id("app"));
    assert_eq!(leaf.public_key_info(), key.subject_public_key_info());
    leaf.check_usage().unwrap();
    let raw = der(&issued.leaf_pem);
    let (_, parsed) = X509Certificate::from_der(&raw).unwrap();
    assert_eq!(parsed.subject().iter().count(), 0);
    assert_eq!(
        parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
}

#[test]
fn bad_requests_are_refused() {
    let authority = ephemeral();
    let refused = |csr: &str, expected: &str| {
        let error = authority
            .sign_csr(csr, &id("app"), HOUR, now())
            .unwrap_err();
        assert!(format!("{error:?}").contains(expected), "{error:?}");
    };
    refused("", "Malformed");
    refused("not PEM", "Malformed");
    refused("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n", "Malformed");
    refused(
        &pem::encode("CERTIFICATE REQUEST", &[0x30, 0x03, 1, 2, 3]),
        "Malformed",
    );
    refused(&pem::encode("CERTIFICATE REQUEST", &[]), "Malformed");
    refused(authority.root_pem(), "Malformed");
    refused(&"x".repeat(17 * 1024), "TooLong");

    let request = KeyRequest::new(&id("app")).unwrap();
    let good = request.csr_pem();
    let mut bytes = csr_der(good).as_ref().to_vec();
    bytes.push(0);
    refused(&pem::encode("CERTIFICATE REQUEST", &bytes), "Malformed");
    bytes.pop();
    *bytes.last_mut().unwrap() ^= 1;
    refused(&pem::encode("CERTIFICATE REQUEST", &bytes), "Signature");
    for cut in 0..bytes.len() {
        let cut = pem::encode("CERTIFICATE REQUEST", &bytes[..cut]);
        authority
            .sign_csr(&cut, &id("app"), HOUR, now())
            .unwrap_err();
    }

    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&ed25519)
        .unwrap();
    refused(&pem::encode("CERTIFICATE REQUEST", csr.der()), "KeyKind");
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&p384)
        .unwrap();
    let csr = pem::encode("CERTIFICATE REQUEST", csr.der());
    authority.sign_csr(&csr, &id("app"), HOUR, now()).unwrap();

    let foreign = "spiffe://b.tulle/ns/default/sa/app".parse().unwrap();
    let error = authority.sign_csr(good, &foreign, HOUR, now()).unwrap_err();
    assert!(matches!(error, SignCsrError::ForeignTrustDomain { .. }));
}

fn csr_der(text: &str) -> rustls::pki_types::CertificateSigningRequestDer<'static> {
    rustls::pki_types::pem::PemObject::from_pem_slice(text.as_bytes()).unwrap()
}

#[test]
fn a_server_has_dns_names_besides_its_identity() {
    let authority = ephemeral();
    let names = ["xds-server.tulle-system.svc", "localhost"];
    let svid = authority
        .issue_server(&id("xds-server"), &names, HOUR, now())
        .unwrap();
    assert_eq!(*svid.id(), id("xds-server"));
    verify(&svid.chain_pem(), authority.root_pem()).unwrap();
    let raw = der(&svid.chain_pem());
    let (_, parsed) = X509Certificate::from_der(&raw).unwrap();
    let found = &parsed
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(found.len(), 3);
    assert!(
        authority
            .issue_server(&id("xds-server"), &["bücher"], HOUR, now())
            .is_err()
    );
}
