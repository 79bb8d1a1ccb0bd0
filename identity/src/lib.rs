//! SPIFFE identities: who signs them, who holds them, and how two ends prove them to each other.
//!
//! The only crate that knows `rustls` and `rcgen`; none of their types appears in its API. It decides whether a peer is
//! who it claims to be, and says precisely why not. It does not decide what a proven peer may do: that is policy.

mod authority;
mod bundles;
mod ca_client;
mod causes;
mod client_authority;
mod grpc_tls;
mod handshake;
mod leaf;
mod manager;
mod mesh_tls;
mod pem;
mod provider;
mod request;
mod sealed;
mod source;
mod stream;
mod svid;
mod term;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verify;

pub use authority::{
    CertificateAuthority, IssuedCertificate, OpenAuthorityError, SVID_TTL_DEFAULT, SVID_TTL_MAX,
    SignCsrError,
};
pub use bundles::{ParseBundleError, TrustBundles};
pub use ca_client::{CaClient, CaClientConfig, OpenCaClientError};
pub use client_authority::{ClientAuthority, ClientCredentials};
pub use grpc_tls::{
    ClientTls, DialError, GrpcConnector, GrpcStream, OpenClientTlsError, ParseEndpointError,
    ServerTls,
};
pub use handshake::{HandshakeError, PeerRefusal, REASONS};
pub use manager::{GetSvidError, SvidManager, SvidManagerSettings, SvidStatus, WallClock};
pub use mesh_tls::{MeshTls, Offer};
pub use pem::ParsePemError;
pub use request::{KeyRequest, NewKeyError};
pub use sealed::{Opener, SEAL_LEN, SealError, Sealer};
pub use source::{FetchSvidError, SvidSource};
pub use stream::{InnerProtocol, TlsStream};
pub use svid::{AcceptSvidError, Svid};
pub use term::Term;
pub use verify::Peer;
