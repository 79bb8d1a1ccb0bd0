//! Messages of the certificate service: package `istio.v1.auth`.

use prost_types::{Struct, Value, value::Kind};

/// Asks for a certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateRequest {
    /// The certificate signing request, PEM. Its own names are ignored by the authority.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// The wanted lifetime in seconds; the authority may shorten it.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// See `IMPERSONATED_IDENTITY` and `CERT_SIGNER`.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

impl IstioCertificateRequest {
    /// The SPIFFE id that the caller asks for in another's name, if it does.
    ///
    /// `Some("")` when the key is there with something else than a text: such a request must be refused, not taken for
    /// a request in the caller's own name.
    pub fn impersonated_identity(&self) -> Option<&str> {
        let value = self.metadata.as_ref()?.fields.get(IMPERSONATED_IDENTITY)?;
        match &value.kind {
            Some(Kind::StringValue(id)) => Some(id),
            Some(_) | None => Some(""),
        }
    }

    /// Asks in the name of `id`, a whole `spiffe://…` text.
    pub fn impersonate(&mut self, id: &str) {
        let value = Value {
            kind: Some(Kind::StringValue(id.to_owned())),
        };
        let metadata = self.metadata.get_or_insert_default();
        metadata
            .fields
            .insert(IMPERSONATED_IDENTITY.to_owned(), value);
    }
}

/// The certificate that was issued.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateResponse {
    /// PEM: the leaf first, each intermediate by itself, the roots last (one element, perhaps of several certificates).
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// Key of `IstioCertificateRequest::metadata`: the identity that a node proxy asks for on behalf of a workload.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// Key of `IstioCertificateRequest::metadata`: the Kubernetes signer that shall sign.
pub const CERT_SIGNER: &str = "CertSigner";
