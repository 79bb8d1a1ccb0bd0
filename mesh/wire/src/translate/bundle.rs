//! Trust bundles.

use prost::Message;
use tulle_model::TrustBundle;

use super::DecodeResourceError;
use crate::tulle;

/// Writes the roots of a trust domain.
pub fn encode_bundle(bundle: &TrustBundle) -> tulle::TrustBundle {
    tulle::TrustBundle {
        trust_domain: bundle.trust_domain.to_string(),
        roots_pem: bundle.roots_pem.clone(),
    }
}

/// Reads the roots of a trust domain. Whether the PEM holds certificates is for the reader of certificates to say.
///
/// # Errors
///
/// The bytes are not such a message, or the trust domain is not one.
pub fn decode_bundle(bytes: &[u8]) -> Result<TrustBundle, DecodeResourceError> {
    let bundle = tulle::TrustBundle::decode(bytes)?;
    let trust_domain = bundle.trust_domain.parse().map_err(|_| {
        let found = format!("{:?}", bundle.trust_domain);
        DecodeResourceError::field("bundle.trust_domain", found, "a trust domain")
    })?;
    Ok(TrustBundle {
        trust_domain,
        roots_pem: bundle.roots_pem,
    })
}
