//! The root certificate and its key: made, read, checked.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, string::Ia5String,
};
use rustls::pki_types::CertificateDer;
use tulle_model::TrustDomain;

use super::{CLOCK_SKEW, calendar, error::OpenAuthorityError, random_serial};
use crate::{leaf::Leaf, pem};

pub(super) fn new_key() -> Result<KeyPair, OpenAuthorityError> {
    KeyPair::generate().map_err(key_fault)
}

pub(crate) fn read_key(text: &str) -> Result<KeyPair, OpenAuthorityError> {
    KeyPair::from_pem(text).map_err(key_fault)
}

fn key_fault(error: rcgen::Error) -> OpenAuthorityError {
    OpenAuthorityError::Key {
        detail: error.to_string(),
    }
}

/// A self-signed root for the trust domain, as PEM.
pub(super) fn certify(
    trust_domain: &TrustDomain,
    key: &KeyPair,
    now: SystemTime,
) -> Result<String, OpenAuthorityError> {
    let fault = |detail: String| OpenAuthorityError::Certificate { detail };
    let uri = Ia5String::try_from(format!("spiffe://{trust_domain}"))
        .map_err(|error| fault(error.to_string()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Tulle");
    // RFC 5280 allows 64 characters here; the whole trust domain stands among the alternative names.
    let short: String = trust_domain
        .as_str()
        .chars()
        .take(COMMON_NAME_LEN_MAX)
        .collect();
    params.distinguished_name.push(DnType::CommonName, short);
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.serial_number = Some(random_serial());
    params.not_before = calendar(now - CLOCK_SKEW).map_err(|error| fault(error.to_string()))?;
    params.not_after = calendar(now + ROOT_TTL).map_err(|error| fault(error.to_string()))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params
        .self_signed(key)
        .map_err(|error| fault(error.to_string()))?;
    Ok(pem::encode("CERTIFICATE", certificate.der()))
}

/// Whether certificate and key make a root, and for the trust domain if one is given; returns the end of its time, and the certificate.
pub(crate) fn check(
    certificate_pem: &str,
    key: &KeyPair,
    trust_domain: Option<&TrustDomain>,
    now: SystemTime,
) -> Result<(SystemTime, CertificateDer<'static>), OpenAuthorityError> {
    let mut certificates = pem::certificates(certificate_pem).map_err(OpenAuthorityError::Pem)?;
    let found = certificates.len();
    let (Some(der), true) = (certificates.pop(), found == 1) else {
        return Err(OpenAuthorityError::Several { found });
    };
    let fault = |detail: String| OpenAuthorityError::Certificate { detail };
    let parsed = Leaf::parse(&der).map_err(|refusal| fault(refusal.to_string()))?;
    if !parsed.is_authority() {
        return Err(fault("it is not an authority's certificate".to_owned()));
    }
    if parsed.public_key_info() != key.subject_public_key_info() {
        return Err(OpenAuthorityError::KeyMismatch);
    }
    if let (Some(found), Some(expected)) = (parsed.authority_domain(), trust_domain)
        && found != expected.as_str()
    {
        return Err(OpenAuthorityError::OtherTrustDomain {
            found,
            expected: expected.clone(),
        });
    }
    let not_after = parsed.not_after();
    if not_after <= now {
        return Err(OpenAuthorityError::Expired);
    }
    Ok((not_after, der))
}

/// Ten years of 365.25 days.
const ROOT_TTL: Duration = Duration::from_secs(10 * 31_557_600);
/// RFC 5280, appendix A: ub-common-name.
const COMMON_NAME_LEN_MAX: usize = 64;
