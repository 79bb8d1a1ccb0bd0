//! Signs client certificates that are known by their common name, for servers such as etcd that make users of names.
//!
//! It has nothing to do with the mesh's identities: these certificates carry no SPIFFE id, so no workload takes them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, string::Ia5String};
use tulle_model::TrustDomain;

use crate::authority::{self, CLOCK_SKEW, OpenAuthorityError, SignCsrError};

/// The authority that a server verifies its clients with.
pub struct ClientAuthority {
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct ClientCredentials {
    /// The certificate, as PEM.
    pub cert_pem: String,
    /// Its key, as PEM.
    pub key_pem: String,
    /// The last second of validity.
    pub not_after: SystemTime,
}

impl ClientAuthority {
    /// Uses the authority of these two PEM texts.
    ///
    /// # Errors
    /// They do not make an authority that is valid now.
    pub fn from_pem(
        certificate_pem: &str,
        key_pem: &str,
        now: SystemTime,
    ) -> Result<Self, OpenAuthorityError> {
        let key = authority::read_key(key_pem)?;
        let (not_after, der) = authority::check(certificate_pem, &key, None::<&TrustDomain>, now)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| {
            OpenAuthorityError::Certificate {
                detail: error.to_string(),
            }
        })?;
        Ok(ClientAuthority { issuer, not_after })
    }

    /// A new key and a certificate for the client that is called `common_name`.
    ///
    /// # Errors
    /// The name is not ASCII, the authority's time is over, or the random source fails.
    pub fn issue(
        &self,
        common_name: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<ClientCredentials, SignCsrError> {
        let not_after = authority::whole_seconds(now + ttl).min(self.not_after);
        if not_after <= now {
            return Err(SignCsrError::RootExpired);
        }
        let name = Ia5String::try_from(common_name).map_err(SignCsrError::signing)?;
        let names = vec![SanType::DnsName(name)];
        let mut params = authority::leaf_params(names, now - CLOCK_SKEW, not_after)?;
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(SignCsrError::signing)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(SignCsrError::signing)?;
        Ok(ClientCredentials {
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            not_after,
        })
    }
}

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthority").finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
