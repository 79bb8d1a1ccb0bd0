//! Whether other clusters can read this one: the operator's wish, kept over restarts, and the task that follows it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::files;
use crate::{
    chain::Chain,
    metrics::Metrics,
    status::StatusBoard,
    store::{self, EtcdSettings, PublishPlan},
    world::OwnState,
};

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Other clusters shall be able to read this one.
    pub enabled: bool,
    /// Where they reach the etcd, if not where the server was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
}

/// Holds the operator's wish.
#[derive(Debug)]
pub struct PublishingControl {
    wish: watch::Sender<Wish>,
    file: Option<PathBuf>,
    endpoints: Vec<String>,
}

impl PublishingControl {
    /// The wish in `file`, or `default` if nothing was wished yet. Without a file a wish lasts until the server ends.
    ///
    /// `endpoints` are where others reach the etcd unless the wish says otherwise.
    pub async fn open(file: Option<PathBuf>, default: Wish, endpoints: Vec<String>) -> Self {
        let kept = match &file {
            Some(path) => read(path).await,
            None => None,
        };
        PublishingControl {
            wish: watch::Sender::new(kept.unwrap_or(default)),
            file,
            endpoints,
        }
    }

    /// Where others reach the etcd.
    pub fn endpoints(&self) -> Vec<String> {
        let wished = self.wish.borrow().endpoints.clone();
        wished.unwrap_or_else(|| self.endpoints.clone())
    }

    /// The wish as it is now.
    pub fn wish(&self) -> Wish {
        self.wish.borrow().clone()
    }

    /// To follow the wish.
    pub fn subscribe(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    /// Notes another wish, first in the file; says whether it is another one.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; then nothing changes.
    pub async fn set(&self, wish: Wish) -> io::Result<bool> {
        if *self.wish.borrow() == wish {
            return Ok(false);
        }
        if let Some(path) = self.file.clone() {
            let text = serde_json::to_vec(&wish).map_err(io::Error::other)?;
            files::replace(path, text).await?;
        }
        self.wish.send_replace(wish);
        Ok(true)
    }
}

async fn read(path: &Path) -> Option<Wish> {
    let text = match tokio::fs::read(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("cannot read {}: {error}", path.display());
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(wish) => Some(wish),
        Err(error) => {
            tracing::warn!("{} is not readable: {error}", path.display());
            None
        }
    }
}

/// What publishing needs.
#[derive(Debug)]
pub struct PublishingTask {
    /// Where what is published.
    pub plan: PublishPlan,
    /// The own etcd.
    pub settings: EtcdSettings,
    /// What is published.
    pub state: watch::Receiver<OwnState>,
    /// To the operator.
    pub status: Arc<StatusBoard>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl PublishingTask {
    /// Publishes while it is wished, and withdraws everything when it no longer is.
    pub async fn run(self, mut wishes: watch::Receiver<Wish>, stop: CancellationToken) {
        self.status.update(|s| s.store.kind = "etcd");
        loop {
            // A wish cannot be missed: each of the two waits for a value, not for an edge.
            let goes_on = if wishes.borrow_and_update().enabled {
                self.publish(&mut wishes, &stop).await
            } else {
                self.withdraw(&mut wishes, &stop).await
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn publish(&self, wishes: &mut watch::Receiver<Wish>, stop: &CancellationToken) -> bool {
        let publishing = store::publish(
            self.plan.clone(),
            self.settings.clone(),
            self.state.clone(),
            Arc::clone(&self.status),
            Arc::clone(&self.metrics),
            stop.clone(),
        );
        let wished_away = async {
            // The control is gone only when the server is.
            drop(wishes.wait_for(|wish| !wish.enabled).await);
        };
        tokio::select! { // Cancel-safe: what is half published is deleted or completed by the next turn.
            () = publishing => false,
            () = wished_away => true,
        }
    }

    async fn withdraw(&self, wishes: &mut watch::Receiver<Wish>, stop: &CancellationToken) -> bool {
        let withdrawing = async {
            while let Err(error) = store::withdraw(&self.plan, &self.settings).await {
                self.metrics.store_errors.inc();
                let text = Chain(&error).to_string();
                tracing::warn!("cannot withdraw what was published: {text}");
                self.status.update(|s| {
                    s.store.connected = false;
                    s.store.last_error = Some(text);
                });
                sleep(RETRY_PAUSE).await;
            }
            self.status.update(|s| {
                if !self.plan.is_own() {
                    s.store.cilium = Some(false);
                    return;
                }
                s.store.connected = true;
                s.store.published = false;
                s.store.keys = 0;
                s.store.last_error = None;
            });
            std::future::pending::<()>().await;
        };
        tokio::select! { // Cancel-safe: deleting is done again, or everything is published again.
            () = stop.cancelled() => false,
            () = withdrawing => false,
            wished = wishes.wait_for(|wish| wish.enabled) => wished.is_ok(),
        }
    }
}

/// The file of the wish, among those of the remote clusters; they are told apart by their ending.
pub const WISH_FILE: &str = ".publishing.json";
const RETRY_PAUSE: Duration = Duration::from_secs(1);
