//! Reads a certificate request from a stranger.
//!
//! Only the public key is taken from it, and only after the request's own signature proves that the sender holds it.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384},
    prelude::FromDer,
    x509::SubjectPublicKeyInfo as ParsedKeyInfo,
};

use super::error::SignCsrError;

pub(super) fn read(text: &str) -> Result<SubjectPublicKeyInfo, SignCsrError> {
    if text.len() > CSR_LEN_MAX {
        return Err(SignCsrError::TooLong {
            found: text.len(),
            limit: CSR_LEN_MAX,
        });
    }
    let malformed = |detail: String| SignCsrError::Malformed { detail };
    let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
        .map_err(|error| malformed(error.to_string()))?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("bytes after the request".to_owned()));
    }
    let key = &request.certification_request_info.subject_pki;
    if !is_wanted_kind(key) {
        return Err(SignCsrError::KeyKind);
    }
    request
        .verify_signature()
        .map_err(|_error| SignCsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|error| malformed(error.to_string()))
}

fn is_wanted_kind(key: &ParsedKeyInfo<'_>) -> bool {
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|curve| curve.as_oid().ok());
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
}

/// A request with a P-384 key and a long name has 1 KiB.
const CSR_LEN_MAX: usize = 16 * 1024;
