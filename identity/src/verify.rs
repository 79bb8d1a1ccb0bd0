//! The verdict on a peer's certificate, inside the handshake.
//!
//! rustls builds its configs once and calls their verifier for every connection, with nothing that tells connections
//! apart. What a handshake expects, and the exact reason when it is refused, therefore travel in a task-local
//! [`Handshake`]: the verifier runs inside the poll of the future that [`run`] drives. So a config is built once per
//! certificate, an unexpected server is refused before our own certificate is sent, and no reason is lost on the way.
//!
//! **Invariant:** outside of such a scope the verifier refuses everybody.

use std::{cell::RefCell, future::Future, io, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tulle_model::SpiffeId;

use crate::{
    bundles::{Bundle, PeerRole, PresentedChain, TrustBundles},
    handshake::{HandshakeError, PeerRefusal},
    leaf::Leaf,
    provider::provider,
    stream::TlsStream,
};

/// Who is at the other end, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The identity that its certificate carries.
    pub id: SpiffeId,
    /// The certificate's serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The last second of the certificate's validity.
    pub not_after: SystemTime,
}

/// What a handshake demands of its peer.
pub(crate) enum Demand {
    /// An identity of the mesh; with `Some`, one of these (and nobody, if there are none).
    Workload {
        bundles: Arc<TrustBundles>,
        expected: Option<Vec<SpiffeId>>,
    },
    /// A server with this name, or with this identity, under these roots.
    Server {
        roots: Arc<Bundle>,
        name: ExpectedServer,
    },
}

/// How a server of the control plane is recognised.
#[derive(Debug, Clone)]
pub(crate) enum ExpectedServer {
    Name(ServerName<'static>),
    Id(SpiffeId),
}

/// Drives a handshake to a stream that speaks a known protocol, and the proven peer if it showed a workload's certificate.
///
/// The handshake lives on the heap, so that whoever awaits it does not grow by two kilobytes.
pub(crate) fn run<S, IO>(
    demand: Demand,
    handshake: impl Future<Output = io::Result<S>>,
) -> impl Future<Output = Result<(TlsStream<IO>, Option<Peer>), HandshakeError>>
where
    S: Into<tokio_rustls::TlsStream<IO>>,
{
    let handshake = Box::pin(handshake);
    let scope = Handshake {
        demand,
        verdict: RefCell::new(None),
    };
    CURRENT.scope(scope, async {
        let result = handshake.await.map(TlsStream::new);
        let verdict = CURRENT.with(|current| current.verdict.take());
        let (stream, peer) = match (result, verdict) {
            (_, Some(Err(refusal))) => return Err(HandshakeError::Refused(refusal)),
            (Err(error), _) => return Err(HandshakeError::from_io(error)),
            (Ok(stream), Some(Ok(peer))) => (stream, peer),
            (Ok(stream), None) => (stream, None),
        };
        // Without any offer of the peer the TLS library finds nothing to object to.
        if stream.protocol().is_none() {
            return Err(HandshakeError::Alpn);
        }
        Ok((stream, peer))
    })
}

struct Handshake {
    demand: Demand,
    /// `None` until the peer showed a certificate.
    verdict: RefCell<Option<Result<Option<Peer>, PeerRefusal>>>,
}

tokio::task_local! {
    static CURRENT: Handshake;
}

/// The one verifier of both ends.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// Whether a server insists on a client certificate.
    pub(crate) client_certificate_required: bool,
}

impl Verifier {
    fn judge(&self, chain: &PresentedChain<'_>) -> Result<(), rustls::Error> {
        CURRENT
            .try_with(|current| {
                let verdict = current.demand.judge(chain);
                let answer = verdict.as_ref().map(|_peer| ()).map_err(alert_for);
                current.verdict.replace(Some(verdict));
                answer
            })
            .unwrap_or_else(|_outside_a_handshake| {
                Err(rustls::Error::General(
                    "verification outside of a handshake".to_owned(),
                ))
            })
    }
}

impl Demand {
    fn judge(&self, chain: &PresentedChain<'_>) -> Result<Option<Peer>, PeerRefusal> {
        if chain.intermediates.len() > INTERMEDIATES_MAX {
            let detail = format!(
                "{} intermediates, at most {INTERMEDIATES_MAX}",
                chain.intermediates.len()
            );
            return Err(PeerRefusal::Malformed { detail });
        }
        let leaf = Leaf::parse(chain.leaf)?;
        match self {
            Demand::Workload { bundles, expected } => {
                let peer = judge_workload(bundles, &leaf, chain)?;
                match expected {
                    Some(expected) if !expected.contains(&peer.id) => Err(unexpected(
                        &peer.id,
                        &expected
                            .iter()
                            .map(ToString::to_string)
                            .collect::<Vec<_>>()
                            .join(" or "),
                    )),
                    _ => Ok(Some(peer)),
                }
            }
            Demand::Server { roots, name } => judge_server(roots, name, &leaf, chain),
        }
    }
}

fn judge_workload(
    bundles: &TrustBundles,
    leaf: &Leaf<'_>,
    chain: &PresentedChain<'_>,
) -> Result<Peer, PeerRefusal> {
    let id = leaf.workload_id()?;
    let Some(bundle) = bundles.bundle(&id.trust_domain) else {
        return Err(PeerRefusal::WrongTrustDomain {
            claimed: id,
            known: false,
        });
    };
    if let Err(error) = bundle.verify(chain) {
        return Err(match refusal_of(error) {
            PeerRefusal::UnknownAuthority { .. }
                if bundles.another_domain_signed(&id.trust_domain, chain) =>
            {
                PeerRefusal::WrongTrustDomain {
                    claimed: id,
                    known: true,
                }
            }
            // Path validation stops at the authority flag before it looks for a signer. A certificate that signed itself
            // (what `openssl req -x509` makes) is still reported as such.
            PeerRefusal::UnknownAuthority { .. }
                if leaf.is_authority() && !leaf.is_self_issued() =>
            {
                PeerRefusal::WrongUsage {
                    detail: "it is an authority's certificate".to_owned(),
                }
            }
            refusal => refusal,
        });
    }
    leaf.check_usage()?;
    Ok(Peer {
        serial: leaf.serial(),
        not_after: leaf.not_after(),
        id,
    })
}

fn judge_server(
    roots: &Bundle,
    expected: &ExpectedServer,
    leaf: &Leaf<'_>,
    chain: &PresentedChain<'_>,
) -> Result<Option<Peer>, PeerRefusal> {
    roots.verify(chain).map_err(refusal_of)?;
    match expected {
        ExpectedServer::Id(expected) => {
            let id = leaf.workload_id()?;
            if id != *expected {
                return Err(unexpected(&id, &expected.to_string()));
            }
            leaf.check_usage()?;
            Ok(Some(Peer {
                serial: leaf.serial(),
                not_after: leaf.not_after(),
                id,
            }))
        }
        ExpectedServer::Name(name) => {
            let parsed =
                rustls::server::ParsedCertificate::try_from(chain.leaf).map_err(refusal_of)?;
            rustls::client::verify_server_name(&parsed, name)
                .map_err(|_error| unexpected(&"a server of another name", &name.to_str()))?;
            Ok(leaf.workload_id().ok().map(|id| Peer {
                serial: leaf.serial(),
                not_after: leaf.not_after(),
                id,
            }))
        }
    }
}

fn unexpected(found: &dyn ToString, expected: &str) -> PeerRefusal {
    PeerRefusal::UnexpectedIdentity {
        found: found.to_string(),
        expected: expected.to_owned(),
    }
}

/// Reads what path validation says.
fn refusal_of(error: rustls::Error) -> PeerRefusal {
    let rustls::Error::InvalidCertificate(fault) = error else {
        return PeerRefusal::Malformed {
            detail: error.to_string(),
        };
    };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => PeerRefusal::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            PeerRefusal::NotYetValid
        }
        CertificateError::BadEncoding => PeerRefusal::Malformed {
            detail: "its encoding is broken".to_owned(),
        },
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            PeerRefusal::WrongUsage {
                detail: "its extended key usage forbids this end".to_owned(),
            }
        }
        other => PeerRefusal::UnknownAuthority {
            detail: other.to_string(),
        },
    }
}

/// What the peer is told: the alert that fits, without saying what was expected.
fn alert_for(refusal: &PeerRefusal) -> rustls::Error {
    rustls::Error::InvalidCertificate(match refusal {
        PeerRefusal::Expired => CertificateError::Expired,
        PeerRefusal::NotYetValid => CertificateError::NotValidYet,
        PeerRefusal::UnknownAuthority { .. } => CertificateError::UnknownIssuer,
        PeerRefusal::Malformed { .. } => CertificateError::BadEncoding,
        PeerRefusal::WrongTrustDomain { .. }
        | PeerRefusal::NoSan
        | PeerRefusal::SeveralSans { .. }
        | PeerRefusal::NotAWorkloadId { .. }
        | PeerRefusal::WrongUsage { .. }
        | PeerRefusal::UnexpectedIdentity { .. } => {
            CertificateError::ApplicationVerificationFailure
        }
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let role = PeerRole::Server;
        self.judge(&PresentedChain {
            leaf: end_entity,
            intermediates,
            role,
            now,
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_certificate_required
    }

    /// No hints: a client of any trust domain sends the certificate that it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let role = PeerRole::Client;
        self.judge(&PresentedChain {
            leaf: end_entity,
            intermediates,
            role,
            now,
        })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is enabled".to_owned())
}

/// Intermediates come from an authority's own hierarchy; more than six are never walked by path validation anyway.
const INTERMEDIATES_MAX: usize = 6;

#[cfg(test)]
mod tests;
