//! Identities that a peer can prove.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Text;

/// The trust domain of a SPIFFE id: the name of the authority that signs.
///
/// At most 255 bytes of `a-z`, `0-9`, `.`, `-`, `_` (SPIFFE-ID §2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Text);

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = ParseSpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > TRUST_DOMAIN_LEN_MAX || !text.bytes().all(valid) {
            return Err(ParseSpiffeIdError::TrustDomain {
                found: text.chars().take(128).collect(),
            });
        }
        Ok(TrustDomain(text.into()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = ParseSpiffeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> String {
        domain.0.into()
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`: what a workload proves with its certificate.
///
/// The path form is Istio's; a SPIFFE id of another form is a valid id of somebody, but never of a workload of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The authority that vouches for the identity.
    pub trust_domain: TrustDomain,
    /// The Kubernetes namespace.
    pub namespace: Text,
    /// The Kubernetes service account.
    pub service_account: Text,
}

impl SpiffeId {
    /// The id without its scheme, as Istio's policies write principals.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for SpiffeId {
    type Err = ParseSpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseSpiffeIdError::Form {
            found: text.chars().take(256).collect(),
        };
        if text.len() > SPIFFE_ID_LEN_MAX {
            return Err(refused());
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(refused)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(refused());
        };
        let segment = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !segment(namespace) || !segment(account) {
            return Err(refused());
        }
        Ok(SpiffeId {
            trust_domain: domain.parse()?,
            namespace: namespace.into(),
            service_account: account.into(),
        })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = ParseSpiffeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.to_string()
    }
}

/// Why a text is not an identity of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSpiffeIdError {
    /// Not of the form that workloads have.
    #[error(
        "{found:?} is not a workload's identity: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    Form {
        /// What was given (cut after 256 characters).
        found: String,
    },
    /// The trust domain breaks the rule.
    #[error("{found:?} is not a trust domain: expected 1–255 characters a-z, 0-9, '.', '-' or '_'")]
    TrustDomain {
        /// What was given (cut after 128 characters).
        found: String,
    },
}

/// SPIFFE-ID §2.3.
const SPIFFE_ID_LEN_MAX: usize = 2048;
const TRUST_DOMAIN_LEN_MAX: usize = 255;

#[cfg(test)]
mod tests;
