//! Trust bundles: which authorities may speak for which trust domain.
//!
//! **Invariant:** a leaf is verified against the roots of the trust domain that it names and against no others, so the
//! authority of one cluster can never sign for another (test `root_of_one_domain_cannot_sign_for_another`).

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::{ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tulle_model::TrustDomain;

use crate::{
    leaf::Leaf,
    pem::{self, ParsePemError},
    provider::provider,
};

/// The roots of every trust domain that the mesh knows; an immutable snapshot.
#[derive(Clone, Default)]
pub struct TrustBundles {
    by_domain: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl TrustBundles {
    /// The same bundles, with the one of `domain` added or replaced whole.
    ///
    /// # Errors
    /// The text is not one or more authorities' certificates, or there are too many domains.
    pub fn with_pem(&self, domain: &TrustDomain, roots: &str) -> Result<Self, ParseBundleError> {
        if self.by_domain.len() >= DOMAINS_MAX && !self.by_domain.contains_key(domain) {
            return Err(ParseBundleError::TooManyDomains {
                domain: domain.clone(),
            });
        }
        let bundle = Bundle::from_pem(domain, roots)?;
        let mut by_domain = self.by_domain.clone();
        by_domain.insert(domain.clone(), Arc::new(bundle));
        Ok(TrustBundles { by_domain })
    }

    /// The same bundles without the one of `domain`.
    #[must_use]
    pub fn without(&self, domain: &TrustDomain) -> Self {
        let mut by_domain = self.by_domain.clone();
        by_domain.remove(domain);
        TrustBundles { by_domain }
    }

    /// The roots of `domain` as PEM, as they were given.
    pub fn roots_pem(&self, domain: &TrustDomain) -> Option<&str> {
        self.by_domain.get(domain).map(|bundle| bundle.pem.as_str())
    }

    /// Every trust domain that has a bundle, in order of name.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.by_domain.keys()
    }

    pub(crate) fn bundle(&self, domain: &TrustDomain) -> Option<&Bundle> {
        self.by_domain.get(domain).map(Arc::as_ref)
    }

    /// Whether the chain leads to a root of any domain but `claimed`: only to name the fault of a chain already refused.
    pub(crate) fn another_domain_signed(
        &self,
        claimed: &TrustDomain,
        chain: &PresentedChain<'_>,
    ) -> bool {
        self.by_domain
            .iter()
            .any(|(domain, bundle)| domain != claimed && bundle.verify(chain).is_ok())
    }
}

impl fmt::Debug for TrustBundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_domain.keys()).finish()
    }
}

/// The chain that a peer sent, and as what it wants to be accepted.
pub(crate) struct PresentedChain<'a> {
    pub(crate) leaf: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) role: PeerRole,
    pub(crate) now: UnixTime,
}

/// Which end of the connection the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerRole {
    Client,
    Server,
}

/// The roots of one trust domain, ready for use.
pub(crate) struct Bundle {
    pem: String,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Bundle {
    pub(crate) fn from_pem(domain: &TrustDomain, text: &str) -> Result<Self, ParseBundleError> {
        let certificates = pem::certificates(text).map_err(|source| ParseBundleError::Pem {
            domain: domain.clone(),
            source,
        })?;
        let refuse = |position: usize, detail: String| ParseBundleError::NotARoot {
            domain: domain.clone(),
            position: position + 1,
            detail,
        };
        let mut roots = RootCertStore::empty();
        for (position, der) in certificates.iter().enumerate() {
            let parsed =
                Leaf::parse(der).map_err(|refusal| refuse(position, refusal.to_string()))?;
            if !parsed.is_authority() {
                return Err(refuse(
                    position,
                    "it is not an authority's certificate".to_owned(),
                ));
            }
            roots
                .add(der.clone())
                .map_err(|error| refuse(position, error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider().clone())
                .build()
                .map_err(|error| refuse(0, error.to_string()))?;
        Ok(Bundle {
            pem: text.to_owned(),
            roots,
            clients,
        })
    }

    /// Path validation (RFC 5280) with time and purpose; names are judged by the caller.
    pub(crate) fn verify(&self, chain: &PresentedChain<'_>) -> Result<(), rustls::Error> {
        match chain.role {
            PeerRole::Client => self
                .clients
                .verify_client_cert(chain.leaf, chain.intermediates, chain.now)
                .map(|_verified| ()),
            PeerRole::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(chain.leaf)?,
                &self.roots,
                chain.intermediates,
                chain.now,
                provider().signature_verification_algorithms.all,
            ),
        }
    }
}

/// Why a text is not a trust domain's bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseBundleError {
    /// Not PEM.
    #[error("the bundle of {domain} cannot be read")]
    Pem {
        /// Whose bundle.
        domain: TrustDomain,
        /// What is wrong with the text.
        #[source]
        source: ParsePemError,
    },
    /// A certificate that cannot be a root.
    #[error("certificate {position} in the bundle of {domain} cannot be a root: {detail}")]
    NotARoot {
        /// Whose bundle.
        domain: TrustDomain,
        /// Which certificate, counted from one.
        position: usize,
        /// Why not.
        detail: String,
    },
    /// More trust domains than a mesh can have clusters.
    #[error("no room for the bundle of {domain}: {DOMAINS_MAX} trust domains are known already")]
    TooManyDomains {
        /// Whose bundle.
        domain: TrustDomain,
    },
}

/// Twice the number of clusters that a mesh can have: each may be moving from one trust domain to another.
const DOMAINS_MAX: usize = 1024;

#[cfg(test)]
mod tests;
