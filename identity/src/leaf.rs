//! What a leaf certificate says about itself, read once.
//!
//! **Invariant:** nothing here is proof. A leaf's word counts only after its chain is verified.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tulle_model::SpiffeId;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::handshake::PeerRefusal;

/// The parts of a leaf that the mesh cares for.
pub(crate) struct Leaf<'a> {
    certificate: X509Certificate<'a>,
}

impl<'a> Leaf<'a> {
    /// Reads the DER form.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, PeerRefusal> {
        let broken = |detail: String| PeerRefusal::Malformed { detail };
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| broken(error.to_string()))?;
        if !rest.is_empty() {
            return Err(broken("bytes after the certificate".to_owned()));
        }
        Ok(Leaf { certificate })
    }

    /// The identity: there must be exactly one URI name, of the form that workloads have (X509-SVID §2).
    pub(crate) fn workload_id(&self) -> Result<SpiffeId, PeerRefusal> {
        let uri = self.only_uri()?;
        SpiffeId::from_str(uri).map_err(|error| PeerRefusal::NotAWorkloadId {
            detail: error.to_string(),
        })
    }

    fn only_uri(&self) -> Result<&str, PeerRefusal> {
        let names = self
            .certificate
            .subject_alternative_name()
            .map_err(|error| PeerRefusal::Malformed {
                detail: error.to_string(),
            })?
            .ok_or(PeerRefusal::NoSan)?;
        let mut uris = Vec::new();
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                // An unreadable name might be a second URI: it may not slip through uncounted.
                GeneralName::Invalid(tag, _) => {
                    let detail = format!("an alternative name with tag {} is unreadable", tag.0);
                    return Err(PeerRefusal::Malformed { detail });
                }
                _ => {}
            }
        }
        match uris.as_slice() {
            [] => Err(PeerRefusal::NoSan),
            [uri] => Ok(uri),
            several => Err(PeerRefusal::SeveralSans {
                count: several.len(),
            }),
        }
    }

    /// What X509-SVID §4 demands of a leaf beyond path validation.
    pub(crate) fn check_usage(&self) -> Result<(), PeerRefusal> {
        let refuse = |detail: &str| {
            Err(PeerRefusal::WrongUsage {
                detail: detail.to_owned(),
            })
        };
        if self.certificate.is_ca() {
            return refuse("it is an authority's certificate");
        }
        let usage = self
            .certificate
            .key_usage()
            .map_err(|error| PeerRefusal::Malformed {
                detail: error.to_string(),
            })?;
        match usage {
            None => refuse("it has no key usage"),
            Some(usage) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
                refuse("its key may sign certificates or revocation lists")
            }
            Some(usage) if !usage.value.digital_signature() => {
                refuse("its key may not make digital signatures")
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether subject and issuer are the same: a root, or somebody who vouches for himself.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.certificate.subject().as_raw() == self.certificate.issuer().as_raw()
    }

    /// Whether the certificate may sign others.
    pub(crate) fn is_authority(&self) -> bool {
        self.certificate.is_ca()
    }

    /// The serial number in lower-case hexadecimal, without leading zero bytes.
    pub(crate) fn serial(&self) -> String {
        let raw = self.certificate.raw_serial();
        let start = raw.iter().position(|byte| *byte != 0).unwrap_or(raw.len());
        let mut text = String::with_capacity(2 * raw.len());
        for byte in raw.iter().skip(start) {
            for nibble in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
        text
    }

    /// The first second of validity.
    pub(crate) fn not_before(&self) -> SystemTime {
        from_seconds(self.certificate.validity().not_before.timestamp())
    }

    /// The last second of validity.
    pub(crate) fn not_after(&self) -> SystemTime {
        from_seconds(self.certificate.validity().not_after.timestamp())
    }

    /// The public key, as it stands in the certificate.
    pub(crate) fn public_key_info(&self) -> &[u8] {
        self.certificate.public_key().raw
    }

    /// The trust domain that an authority's certificate names, when it names one (X509-SVID §3.1: a SPIFFE id without path).
    pub(crate) fn authority_domain(&self) -> Option<String> {
        self.certificate.extensions().iter().find_map(|extension| {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension()
            else {
                return None;
            };
            names.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
                _ => None,
            })
        })
    }
}

fn from_seconds(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    // X.509 ends with the year 9999 and begins with 1950 (RFC 5280 §4.1.2.5); both are within the type's range.
    moment.unwrap_or(UNIX_EPOCH)
}
