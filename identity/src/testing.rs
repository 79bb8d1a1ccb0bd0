//! Bad certificates and careless TLS peers, for tests.
//!
//! Behind the feature `testing`, so that no release can forge anything.

use std::{
    fmt, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, string::Ia5String,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tulle_model::{SpiffeId, TrustDomain};

use crate::{
    authority::{CertificateAuthority, leaf_params},
    bundles::TrustBundles,
    mesh_tls::no_name,
    provider::{VERSIONS, provider},
    request::uri_name,
    stream::TlsStream,
    svid::{self, Svid},
};

/// What is wrong with a forged certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing. (With an identity of another trust domain, that is the flaw.)
    None,
    /// Its time ended a minute ago.
    Expired,
    /// Its time begins in an hour.
    NotYetValid,
    /// A DNS name, but no URI.
    NoSan,
    /// Two URIs: the identity, and another one of the same trust domain.
    TwoSans,
    /// A URI that is a SPIFFE id, but no workload's.
    NotAWorkloadId,
    /// Signed by its own key.
    SelfSigned,
    /// Signed by its own key, and marked as an authority: what `openssl req -x509` makes.
    SelfSignedAuthority,
    /// An authority's certificate.
    Authority,
    /// A key that may sign certificates, though the certificate is no authority's.
    SigningKey,
    /// Made for neither end of a TLS connection.
    WrongPurpose,
}

/// An authority without scruples.
pub struct Forge {
    authority: CertificateAuthority,
}

impl Forge {
    /// With a new root.
    ///
    /// # Errors
    /// The root cannot be made.
    pub fn new(trust_domain: &TrustDomain) -> Result<Self, ForgeError> {
        let authority = CertificateAuthority::ephemeral(trust_domain, SystemTime::now());
        Ok(Forge {
            authority: authority.map_err(ForgeError::new)?,
        })
    }

    /// With the root that an xds-server keeps in `directory`.
    ///
    /// # Errors
    /// The root cannot be used.
    pub fn open(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, ForgeError> {
        let authority = CertificateAuthority::open(directory, trust_domain, SystemTime::now());
        Ok(Forge {
            authority: authority.map_err(ForgeError::new)?,
        })
    }

    /// The root as PEM.
    pub fn root_pem(&self) -> &str {
        self.authority.root_pem()
    }

    /// The honest authority behind it.
    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// A certificate for `id`, of any trust domain, with one flaw.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn svid(&self, id: &SpiffeId, flaw: Flaw) -> Result<Arc<Svid>, ForgeError> {
        let now = SystemTime::now();
        let validity = match flaw {
            Flaw::Expired => (now - 2 * HOUR, now - MINUTE),
            Flaw::NotYetValid => (now + HOUR, now + 2 * HOUR),
            _ => (now - MINUTE, now + HOUR),
        };
        self.sign(id, flaw, validity)
    }

    /// A flawless certificate for `id` with `ttl` to live.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn svid_for(&self, id: &SpiffeId, ttl: Duration) -> Result<Arc<Svid>, ForgeError> {
        let now = SystemTime::now();
        self.sign(id, Flaw::None, (now - MINUTE, now + ttl))
    }

    fn sign(
        &self,
        id: &SpiffeId,
        flaw: Flaw,
        (not_before, not_after): (SystemTime, SystemTime),
    ) -> Result<Arc<Svid>, ForgeError> {
        let names = names(id, flaw).map_err(ForgeError::new)?;
        let mut params = leaf_params(names, not_before, not_after).map_err(ForgeError::new)?;
        spoil(&mut params, flaw);
        let key = KeyPair::generate().map_err(ForgeError::new)?;
        let certificate = match flaw {
            Flaw::SelfSigned | Flaw::SelfSignedAuthority => params.self_signed(&key),
            _ => params.signed_by(&key, self.authority.issuer()),
        }
        .map_err(ForgeError::new)?;
        let svid = Svid::new(
            id.clone(),
            vec![certificate.into()],
            PrivateKeyDer::from(key),
        );
        Ok(Arc::new(svid.map_err(ForgeError::new)?))
    }
}

impl fmt::Debug for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forge").finish_non_exhaustive()
    }
}

/// The bundles of several forges.
///
/// # Errors
/// A root is not usable.
pub fn bundles(forges: &[&Forge]) -> Result<Arc<TrustBundles>, ForgeError> {
    let mut bundles = TrustBundles::default();
    for forge in forges {
        bundles = bundles
            .with_pem(forge.authority.trust_domain(), forge.root_pem())
            .map_err(ForgeError::new)?;
    }
    Ok(Arc::new(bundles))
}

/// A TLS peer that believes everything.
#[derive(Debug, Clone)]
pub struct CarelessPeer {
    /// The protocols that it offers.
    pub alpn: Vec<Vec<u8>>,
}

impl Default for CarelessPeer {
    fn default() -> Self {
        CarelessPeer {
            alpn: vec![b"h2".to_vec()],
        }
    }
}

impl CarelessPeer {
    /// Calls, with a certificate or without.
    ///
    /// # Errors
    /// What the TLS library or the stream reports.
    pub async fn connect<IO>(&self, svid: Option<&Svid>, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config: ClientConfig = svid::client_config(svid).map_err(io::Error::other)?;
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Believer));
        config.alpn_protocols = self.alpn.clone();
        config.enable_sni = false;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(no_name(), io)
            .await?;
        Ok(TlsStream::new(stream))
    }

    /// Answers, and asks for a certificate without insisting on one.
    ///
    /// # Errors
    /// What the TLS library or the stream reports.
    pub async fn accept<IO>(&self, svid: &Svid, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config: ServerConfig = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(VERSIONS)
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Arc::new(Believer))
            .with_cert_resolver(svid.server_key());
        config.alpn_protocols = self.alpn.clone();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(io).await?;
        Ok(TlsStream::new(stream))
    }
}

/// A forgery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the forgery failed: {detail}")]
pub struct ForgeError {
    detail: String,
}

impl ForgeError {
    fn new(error: impl fmt::Display) -> Self {
        ForgeError {
            detail: error.to_string(),
        }
    }
}

fn names(id: &SpiffeId, flaw: Flaw) -> Result<Vec<SanType>, rcgen::Error> {
    let uri = |text: String| Ia5String::try_from(text).map(SanType::URI);
    match flaw {
        Flaw::NoSan => Ok(vec![SanType::DnsName(Ia5String::try_from(
            "workload.example",
        )?)]),
        Flaw::TwoSans => Ok(vec![
            uri_name(id)?,
            uri(format!("spiffe://{}/ns/a/sa/b", id.trust_domain))?,
        ]),
        Flaw::NotAWorkloadId => Ok(vec![uri(format!("spiffe://{}/node/a", id.trust_domain))?]),
        _ => Ok(vec![uri_name(id)?]),
    }
}

fn spoil(params: &mut CertificateParams, flaw: Flaw) {
    match flaw {
        Flaw::Authority | Flaw::SelfSignedAuthority => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        Flaw::SigningKey => params.key_usages.push(KeyUsagePurpose::KeyCertSign),
        Flaw::WrongPurpose => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        }
        _ => {}
    }
}

#[derive(Debug)]
struct Believer;

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Believer {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
