//! The one cryptography provider of the mesh, passed explicitly to every TLS config.
//!
//! Nothing is installed for the process: another library in the same binary keeps its own choice.

use std::sync::{Arc, OnceLock};

use rustls::{
    SupportedProtocolVersion,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite},
    },
};

/// AES-GCM only: that is what ztunnel and Istio speak, and what processors have instructions for.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_AES_128_GCM_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    })
}

/// TLS 1.3 and nothing older.
pub(crate) static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// HTTP/2, for HBONE as for gRPC.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// Sealed records between two proxies of this mesh; who offers it offers `h2` as well.
pub(crate) const ALPN_LANE: &[u8] = b"tulle/1";
