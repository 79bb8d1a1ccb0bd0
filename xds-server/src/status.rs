//! What the server knows about its own condition, for `/status`, `/readyz` and the gauges.
//!
//! A board that each part writes its own lines on; nothing here decides anything.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;
use tokio::time::Instant;
use tulle_model::{ClusterName, TrustDomain};

pub use self::remote::{RemoteBytes, RemoteState, RemoteStatus};
use crate::{catalog::Warning, source::Problem};

mod remote;

/// The board.
#[derive(Debug)]
pub struct StatusBoard {
    started: Instant,
    lines: Mutex<Status>,
}

/// The answer of `/status`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The own cluster's name.
    pub cluster: ClusterName,
    /// Its id.
    pub cluster_id: u16,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The program's version.
    pub version: &'static str,
    /// Clients are answered.
    pub ready: bool,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// The cluster's own objects.
    pub source: SourceStatus,
    /// The node tokens' fault, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_tokens: Option<String>,
    /// The own etcd.
    pub store: StoreStatus,
    /// The other clusters by name.
    pub remotes: BTreeMap<String, RemoteStatus>,
    /// Faults of the directory of remote clusters.
    pub remotes_problems: Vec<Problem>,
    /// What the nodes are given.
    pub view: ViewStatus,
}

/// The cluster's own objects.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Everything that existed at the start was read.
    pub synced: bool,
    /// Files (or objects) that could not be read.
    pub problems: Vec<Problem>,
    /// Objects that were read but not as their author may think.
    pub warnings: Vec<Warning>,
    /// The source stopped for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// The own etcd.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// `memory` or `etcd`.
    pub kind: &'static str,
    /// Reads and writes work.
    pub connected: bool,
    /// Other clusters can read the whole present state.
    pub published: bool,
    /// Keys of the state.
    pub keys: usize,
    /// The id of the etcd.
    #[serde(skip)]
    pub etcd_id: Option<u64>,
    /// Bytes that the last change cost.
    pub last_change_bytes: u64,
    /// Whether the state is published in Cilium's layout as well, if that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cilium: Option<bool>,
    /// What went wrong last; cleared when it works again.
    pub last_error: Option<String>,
}

/// What the nodes are given.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ViewStatus {
    /// Counts the snapshots.
    pub revision: u64,
    /// Workloads and services.
    pub addresses: usize,
    /// Policies.
    pub policies: usize,
    /// Trust domains.
    pub bundles: usize,
}

impl StatusBoard {
    /// A board of a server that just started.
    pub fn new(cluster: ClusterName, cluster_id: u16, trust_domain: TrustDomain) -> Self {
        let lines = Status {
            cluster,
            cluster_id,
            trust_domain,
            version: env!("CARGO_PKG_VERSION"),
            ready: false,
            uptime_seconds: 0,
            source: SourceStatus::default(),
            node_tokens: None,
            store: StoreStatus {
                kind: "memory",
                ..StoreStatus::default()
            },
            remotes: BTreeMap::new(),
            remotes_problems: Vec::new(),
            view: ViewStatus::default(),
        };
        StatusBoard {
            started: Instant::now(),
            lines: Mutex::new(lines),
        }
    }

    /// Changes some lines.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Changes the lines of another cluster, if it is still on the board.
    pub fn update_remote(&self, cluster: &ClusterName, change: impl FnOnce(&mut RemoteStatus)) {
        self.update(|status| {
            if let Some(remote) = status.remotes.get_mut(cluster.as_str()) {
                change(remote);
            }
        });
    }

    /// Another cluster's etcd answers.
    pub fn connect_remote(&self, cluster: &ClusterName, address: SocketAddr) {
        self.update_remote(cluster, |r| {
            r.reconnections += u64::from(r.was_connected);
            r.was_connected = true;
            r.connected = true;
            r.address = Some(address.to_string());
        });
    }

    /// Another cluster's etcd no longer answers, or the cluster is refused.
    pub fn disconnect_remote(&self, cluster: &ClusterName, error: &str, refused: bool) {
        self.update_remote(cluster, |r| {
            r.connected = false;
            r.failures += 1;
            r.note_error(error);
            // What is wrong now is not what was wrong before.
            r.refused = refused.then(|| error.to_owned());
        });
    }

    /// The id of the own etcd, if it was reached.
    pub fn own_etcd(&self) -> Option<u64> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.store.etcd_id
    }

    /// All lines as they are now.
    pub fn read(&self) -> Status {
        let mut status = self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        status.uptime_seconds = self.started.elapsed().as_secs();
        for remote in status.remotes.values_mut() {
            remote.state = remote.state_now();
        }
        status
    }
}

impl Status {
    /// The gauges that `/metrics` adds to the counters.
    pub fn gauges(&self) -> Vec<(String, f64)> {
        let flag = |on: bool| if on { 1.0 } else { 0.0 };
        let mut gauges = vec![
            ("tulle_ready".to_owned(), flag(self.ready)),
            ("tulle_source_synced".to_owned(), flag(self.source.synced)),
            (
                "tulle_source_problems".to_owned(),
                number(self.source.problems.len()),
            ),
            (
                "tulle_source_warnings".to_owned(),
                number(self.source.warnings.len()),
            ),
            (
                "tulle_store_connected".to_owned(),
                flag(self.store.connected),
            ),
            (
                "tulle_store_published".to_owned(),
                flag(self.store.published),
            ),
            ("tulle_store_keys".to_owned(), number(self.store.keys)),
            (
                "tulle_view_addresses".to_owned(),
                number(self.view.addresses),
            ),
            ("tulle_view_policies".to_owned(), number(self.view.policies)),
            ("tulle_view_bundles".to_owned(), number(self.view.bundles)),
        ];
        gauges.push((
            "tulle_clustermesh_remote_clusters".to_owned(),
            number(self.remotes.len()),
        ));
        for (name, remote) in &self.remotes {
            remote.gauges(name, &mut gauges);
        }
        gauges
    }
}

/// Exact up to four thousand million, and no count here comes near.
fn number(len: usize) -> f64 {
    u32::try_from(len).map_or(f64::INFINITY, f64::from)
}
