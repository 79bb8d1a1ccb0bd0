//! Keeps the roots that handshakes trust equal to those in the mesh view.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tulle_identity::{MeshTls, SvidManager, TrustBundles};
use tulle_model::{Directory, SpiffeId, TrustBundle, TrustDomain};

use crate::published::Published;

/// The task that hands bundles from the view to the handshakes.
pub(super) struct BundleKeeper {
    directory: Published<Directory>,
    tls: Arc<MeshTls>,
    svids: Arc<SvidManager>,
    identity: SpiffeId,
    own_domain: TrustDomain,
}

impl BundleKeeper {
    pub(super) fn new(
        directory: Published<Directory>,
        tls: Arc<MeshTls>,
        svids: Arc<SvidManager>,
        identity: SpiffeId,
        own_domain: TrustDomain,
    ) -> Self {
        BundleKeeper {
            directory,
            tls,
            svids,
            identity,
            own_domain,
        }
    }

    /// Works until it is cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        // Cancelling loses nothing: the bundles in force stay.
        let _cancelled: Option<()> = cancel.run_until_cancelled(self.keep_equal()).await;
    }

    async fn keep_equal(&mut self) {
        let mut held: Option<Vec<Arc<TrustBundle>>> = None;
        loop {
            let differs = |directory: &Directory| held.as_ref() != Some(&bundles_of(directory));
            let Ok(directory) = self.directory.wait_for(differs).await else {
                return;
            };
            let wanted = bundles_of(&directory);
            let mut next = merge(&self.tls.bundles(), &wanted);
            if next.roots_pem(&self.own_domain).is_none() {
                next = self.with_issuer_roots(next).await;
            }
            tracing::info!(domains = next.domains().count(), "trust bundles changed");
            self.tls.set_bundles(Arc::new(next));
            held = Some(wanted);
        }
    }

    /// A server that publishes no bundles (istiod) sends the roots along with each certificate.
    async fn with_issuer_roots(&self, bundles: TrustBundles) -> TrustBundles {
        let Ok(svid) = self.svids.get(&self.identity).await else {
            return bundles;
        };
        let Some(roots) = svid.issuer_roots_pem() else {
            return bundles;
        };
        match bundles.with_pem(&self.own_domain, roots) {
            Ok(bundles) => bundles,
            Err(error) => {
                tracing::warn!(
                    error = super::chain(&error),
                    "the issuer's roots cannot be used"
                );
                bundles
            }
        }
    }
}

fn bundles_of(directory: &Directory) -> Vec<Arc<TrustBundle>> {
    directory.bundles().cloned().collect()
}

/// The wanted bundles; where one cannot be used, the one in force stays, so that a bad edit cuts nobody off.
fn merge(in_force: &TrustBundles, wanted: &[Arc<TrustBundle>]) -> TrustBundles {
    let mut merged = TrustBundles::default();
    for bundle in wanted {
        let domain = &bundle.trust_domain;
        let roots = [Some(bundle.roots_pem.as_str()), in_force.roots_pem(domain)];
        for roots in roots.into_iter().flatten() {
            match merged.with_pem(domain, roots) {
                Ok(next) => {
                    merged = next;
                    break;
                }
                Err(error) => {
                    let error = super::chain(&error);
                    tracing::warn!(%domain, error, "a trust bundle cannot be used");
                }
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests;
