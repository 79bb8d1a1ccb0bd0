//! The mesh view, from the xds-server: a delta ADS client.
//!
//! Decides how to keep a stream, what to subscribe to and what to acknowledge. What bytes mean is `tulle-wire`'s decision, what
//! the view means for a connection is everybody else's. While there is no stream, the last known view stays in force.

mod backoff;
mod connect;
mod saved;
mod status;
mod stream;
#[cfg(test)]
mod testing;
mod view;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tulle_model::{ClusterName, Directory, TrustDomain};

use crate::{
    kernel_sync::{TouchLog, Touched},
    metrics::XdsMetrics,
    published::{Published, Publisher},
};

use backoff::Backoff;
pub use connect::{MtlsChannel, OpenChannel, OpenChannelError, Opened};
pub use saved::{LoadViewError, SaveViewError};
pub use status::{TypeStatus, ViewOrigin, XdsStatus};
pub use view::{ResourceKind, View};

/// Who this node is, and where its last view is kept.
#[derive(Debug, Clone)]
pub struct XdsSettings {
    /// The cluster of this node.
    pub cluster: ClusterName,
    /// The name of this node.
    pub node: String,
    /// The trust domain of this cluster.
    pub trust_domain: TrustDomain,
    /// Where the last known view is kept.
    pub state: Option<PathBuf>,
}

/// Keeps the view up to date.
pub struct XdsClient {
    settings: XdsSettings,
    channel: Arc<dyn OpenChannel>,
    view: View,
    directory: Publisher<Directory>,
    views: Publisher<View>,
    status: Publisher<XdsStatus>,
    touched: Arc<TouchLog>,
    metrics: Arc<XdsMetrics>,
    /// Whether the view has been published at all.
    visible: bool,
    /// Of these types the server has sent a part, and not yet the last one.
    unfinished: BTreeSet<ResourceKind>,
}

impl XdsClient {
    /// A client that gets its connections from `channel`.
    pub fn new(
        settings: XdsSettings,
        channel: Arc<dyn OpenChannel>,
        touched: Arc<TouchLog>,
        metrics: Arc<XdsMetrics>,
    ) -> Self {
        XdsClient {
            settings,
            channel,
            view: View::default(),
            directory: Publisher::new(Directory::default()),
            views: Publisher::new(View::default()),
            status: Publisher::new(XdsStatus::default()),
            touched,
            metrics,
            visible: false,
            unfinished: BTreeSet::new(),
        }
    }

    /// The mesh as this node knows it; empty until the first whole view.
    pub fn directory(&self) -> Published<Directory> {
        self.directory.subscribe()
    }

    /// How the stream is.
    pub fn status(&self) -> Published<XdsStatus> {
        self.status.subscribe()
    }

    /// Starts from the last view on disk, if there is one that fits this node.
    pub fn load_saved(&mut self) {
        let Some(path) = self.settings.state.clone() else {
            return;
        };
        match saved::load(&path, &self.settings) {
            Ok(Some(view)) => {
                tracing::info!(resources = view.len(), path = %path.display(), "starting from the saved view");
                self.view = view;
                self.publish_first(ViewOrigin::Saved);
            }
            Ok(None) => tracing::info!(path = %path.display(), "there is no saved view yet"),
            Err(error) => {
                let error = crate::run::chain(&error);
                tracing::warn!(error, "the saved view cannot be used");
            }
        }
    }

    /// Keeps the view up to date until it is cancelled; then the view is saved.
    pub async fn run(mut self, cancel: CancellationToken) {
        let state = self.settings.state.clone();
        let saver = state.map(|path| {
            let saver = saved::Saver {
                path,
                settings: self.settings.clone(),
                views: self.views.subscribe(),
                metrics: Arc::clone(&self.metrics),
            };
            tokio::spawn(saver.run(cancel.clone()))
        });
        // Cancelling loses nothing: the server knows what was acknowledged, and the view is published whole.
        let _cancelled: Option<()> = cancel.run_until_cancelled(self.keep_stream()).await;
        self.metrics.connected.set(0);
        if let Some(saver) = saver
            && let Err(error) = saver.await
        {
            tracing::error!(%error, "the view could not be saved");
        }
    }

    async fn keep_stream(&mut self) {
        let mut backoff = Backoff::default();
        loop {
            let ended = self.one_stream().await;
            XdsMetrics::because(&self.metrics.terminations, ended.reason());
            if ended.is_renewal() {
                // Nothing is wrong, and nobody is told so: if there is no next stream, that is told at once.
                tracing::info!(
                    "the stream from the xds-server moves to this node's new certificate"
                );
                backoff.reset();
                continue;
            }
            self.metrics.connected.set(0);
            let error = crate::run::chain(&ended.error);
            self.note_status(|status| {
                status.connected = false;
                status.last_error = Some(error.clone());
            });
            if ended.was_healthy {
                backoff.reset();
            }
            let pause = backoff.next_pause(rand::random_range(0.0..1.0));
            tracing::warn!(error, ?pause, "no stream from the xds-server");
            sleep(pause).await;
        }
    }

    /// Makes a change visible, unless the first whole view is still awaited.
    fn publish(&self, touched: Touched) {
        if !self.visible {
            return;
        }
        self.directory.publish(self.view.directory().clone());
        self.views.publish(self.view.clone());
        self.touched.add(touched);
    }

    /// Makes the first view visible.
    fn publish_first(&mut self, origin: ViewOrigin) {
        self.visible = true;
        self.note_status(|status| status.origin = origin);
        self.publish(Touched {
            everything: true,
            ..Touched::default()
        });
    }

    fn note_status(&self, change: impl FnOnce(&mut XdsStatus)) {
        let mut status = (*self.status.snapshot()).clone();
        change(&mut status);
        self.status.publish(status);
    }
}

/// What the server must answer within; it also bounds a server that takes no acknowledgement.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A large view comes in parts. Where the server does not mark the last of them, it is there when no more come for so long.
const FIRST_VIEW_QUIET: Duration = Duration::from_millis(100);
/// A mesh that never rests must not keep the first view waiting for ever; what is marked as unfinished does not count as one.
const FIRST_VIEW_WAIT_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
