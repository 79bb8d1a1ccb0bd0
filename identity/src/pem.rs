//! PEM in and out, within limits.
//!
//! Only framing: what the certificates say is judged elsewhere.

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Reads every certificate of a text, in order; other sections are skipped.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, ParsePemError> {
    if text.len() > PEM_LEN_MAX {
        return Err(ParsePemError::TooLong { found: text.len() });
    }
    let mut found = Vec::new();
    for section in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if found.len() == CERTIFICATES_MAX {
            return Err(ParsePemError::TooMany);
        }
        found.push(section.map_err(|error| ParsePemError::Broken {
            detail: error.to_string(),
        })?);
    }
    if found.is_empty() {
        return Err(ParsePemError::Empty);
    }
    Ok(found)
}

/// Writes one section, 64 characters to the line (RFC 7468).
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_LEN));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Writes certificates one after the other.
pub(crate) fn encode_certificates(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// Why a text is not a list of certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePemError {
    /// Longer than any bundle or chain has reason to be.
    #[error("the PEM text has {found} bytes, at most {PEM_LEN_MAX} are read")]
    TooLong {
        /// The length in bytes.
        found: usize,
    },
    /// More certificates than any bundle or chain has reason to hold.
    #[error("the PEM text holds more than {CERTIFICATES_MAX} certificates")]
    TooMany,
    /// A section that does not follow RFC 7468.
    #[error("the PEM text is broken: {detail}")]
    Broken {
        /// What the reader found.
        detail: String,
    },
    /// Not a single certificate.
    #[error("the PEM text holds no section \"-----BEGIN CERTIFICATE-----\"")]
    Empty,
}

const LINE_LEN: usize = 64;
/// A root is 0.5–2 KiB as PEM; the limit leaves room for every root of a long rotation.
pub(crate) const PEM_LEN_MAX: usize = 256 * 1024;
/// Roots of one trust domain, or certificates of one chain.
const CERTIFICATES_MAX: usize = 64;
