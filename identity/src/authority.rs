//! The cluster's own certificate authority.
//!
//! Signs for one trust domain, with one root. It decides nothing about who may ask for which identity: the caller of
//! [`CertificateAuthority::sign_csr`] has checked that before.
//!
//! **Invariant:** of a request only the public key enters the certificate (test `names_in_the_request_are_ignored`).

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use time::OffsetDateTime;
use tulle_model::{SpiffeId, TrustDomain};

use crate::{
    bundles::{Bundle, PeerRole, PresentedChain},
    leaf::Leaf,
    pem,
    request::uri_name,
    svid::Svid,
};

mod csr;
mod error;
mod root;
mod store;

pub use error::{OpenAuthorityError, SignCsrError};
pub(crate) use root::{check, read_key};

/// A root certificate and its key, ready to sign for one trust domain.
pub struct CertificateAuthority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    root_not_after: SystemTime,
}

/// A certificate as the authority hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate.
    pub leaf_pem: String,
    /// The root that it leads to.
    pub root_pem: String,
    /// The last second of validity.
    pub not_after: SystemTime,
}

impl CertificateAuthority {
    /// Loads the root from `directory`, or makes one there: `root-cert.pem` (0644) and `root-key.pem` (0600).
    ///
    /// Two processes that start at once end up with the same root.
    ///
    /// # Errors
    /// The directory cannot be used, its files do not fit each other or the trust domain, or others may read the key.
    pub fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, OpenAuthorityError> {
        store::open(directory, trust_domain, now)
    }

    /// A new root that lives in memory only.
    ///
    /// # Errors
    /// The random source fails.
    pub fn ephemeral(
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, OpenAuthorityError> {
        let key = root::new_key()?;
        let certificate = root::certify(trust_domain, &key, now)?;
        Self::from_parts(&certificate, key, trust_domain, now)
    }

    /// Uses a root (or an intermediate to be trusted as one) that the operator gives.
    ///
    /// # Errors
    /// Certificate and key do not make an authority for the trust domain.
    pub fn from_pem(
        certificate_pem: &str,
        key_pem: &str,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, OpenAuthorityError> {
        let key = root::read_key(key_pem)?;
        Self::from_parts(certificate_pem, key, trust_domain, now)
    }

    /// Checks everything that could make later certificates useless, then signs a first one and verifies it.
    fn from_parts(
        certificate_pem: &str,
        key: KeyPair,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, OpenAuthorityError> {
        let (root_not_after, der) = root::check(certificate_pem, &key, Some(trust_domain), now)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| {
            OpenAuthorityError::Certificate {
                detail: error.to_string(),
            }
        })?;
        let authority = CertificateAuthority {
            trust_domain: trust_domain.clone(),
            issuer,
            root_pem: pem::encode("CERTIFICATE", &der),
            root_not_after,
        };
        authority.prove(now)?;
        Ok(authority)
    }

    /// The trust domain that it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root as PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Certifies the key of a request (PKCS#10, PEM) as `id`'s; whatever else the request says is ignored.
    ///
    /// A `ttl` of zero means [`SVID_TTL_DEFAULT`]; longer than [`SVID_TTL_MAX`], or than the root lives, is cut.
    ///
    /// # Errors
    /// The request is unreadable, does not prove that its sender holds the key, or asks for a foreign identity.
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, SignCsrError> {
        let key = csr::read(csr_pem)?;
        let (der, not_after) = self.issue(&key, id, &[], ttl, now)?;
        Ok(IssuedCertificate {
            leaf_pem: pem::encode("CERTIFICATE", &der),
            root_pem: self.root_pem.clone(),
            not_after,
        })
    }

    /// A certificate with a new key for a server of the control plane: `id`, and DNS names besides.
    ///
    /// # Errors
    /// A name is not ASCII, the identity is foreign, or the random source fails.
    pub fn issue_server(
        &self,
        id: &SpiffeId,
        dns_names: &[&str],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Svid, SignCsrError> {
        let key = KeyPair::generate().map_err(SignCsrError::signing)?;
        let (der, _not_after) = self.issue(&key, id, dns_names, ttl, now)?;
        Svid::new(id.clone(), vec![der], PrivateKeyDer::from(key)).map_err(|error| {
            SignCsrError::Signing {
                detail: error.to_string(),
            }
        })
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        dns_names: &[&str],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, SystemTime), SignCsrError> {
        if id.trust_domain != self.trust_domain {
            let own = self.trust_domain.clone();
            return Err(SignCsrError::ForeignTrustDomain {
                id: id.clone(),
                own,
            });
        }
        let ttl = if ttl.is_zero() {
            SVID_TTL_DEFAULT
        } else {
            ttl.min(SVID_TTL_MAX)
        };
        let not_after = whole_seconds(now + ttl).min(self.root_not_after);
        if not_after <= now {
            return Err(SignCsrError::RootExpired);
        }
        let mut names = vec![uri_name(id).map_err(SignCsrError::signing)?];
        for name in dns_names {
            let name = Ia5String::try_from(*name).map_err(SignCsrError::signing)?;
            names.push(SanType::DnsName(name));
        }
        let params = leaf_params(names, now - CLOCK_SKEW, not_after)?;
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(SignCsrError::signing)?;
        Ok((certificate.into(), not_after))
    }

    /// Signs a certificate and verifies it as a peer would, so that a root that no peer can use is found at the start.
    fn prove(&self, now: SystemTime) -> Result<(), OpenAuthorityError> {
        let unusable = |detail: String| OpenAuthorityError::Unusable { detail };
        let id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: "tulle-system".into(),
            service_account: "xds-server".into(),
        };
        let key = root::new_key()?;
        let (leaf, _not_after) = self
            .issue(&key, &id, &[], SVID_TTL_DEFAULT, now)
            .map_err(|error| unusable(error.to_string()))?;
        let bundle = Bundle::from_pem(&self.trust_domain, &self.root_pem)
            .map_err(|error| unusable(error.to_string()))?;
        let since_epoch = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        bundle
            .verify(&PresentedChain {
                leaf: &leaf,
                intermediates: &[],
                role: PeerRole::Server,
                now: UnixTime::since_unix_epoch(since_epoch),
            })
            .map_err(|error| unusable(error.to_string()))?;
        let parsed = Leaf::parse(&leaf).map_err(|refusal| unusable(refusal.to_string()))?;
        parsed
            .check_usage()
            .map_err(|refusal| unusable(refusal.to_string()))
    }

    /// For the forger of bad certificates.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// What every leaf has: an empty subject (so that the names are critical), a random serial number, both TLS purposes.
pub(crate) fn leaf_params(
    names: Vec<SanType>,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, SignCsrError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.serial_number = Some(random_serial());
    params.not_before = calendar(not_before)?;
    params.not_after = calendar(not_after)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 126 random bits in 16 bytes: positive, never shortened by leading zeros, within RFC 5280's 20 bytes.
pub(crate) fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    SerialNumber::from(bytes.to_vec())
}

/// X.509 counts whole seconds; the fraction is dropped, so that what we report is what is signed.
pub(crate) fn whole_seconds(moment: SystemTime) -> SystemTime {
    let since_epoch = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}

fn calendar(moment: SystemTime) -> Result<OffsetDateTime, SignCsrError> {
    let since_epoch = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(SignCsrError::Clock)
}

/// How long a certificate lives when the request does not say.
pub const SVID_TTL_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// How long a certificate may live at most.
pub const SVID_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates begin this much in the past, for peers whose clock is behind (istiod does the same).
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(2 * 60);

#[cfg(test)]
mod tests;
