//! How a kind of cluster publishes: which keys there are and what they say. Pure; the session does the reading.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tulle_model::{Change, ClusterId, ClusterName, TrustBundle, TrustDomain};

use super::tulle::TulleKeys;
use crate::{chain::Chain, cilium::CiliumKeys, store::WatchRange};

/// What publishes at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteKind {
    /// A Tulle xds-server.
    #[default]
    Tulle,
    /// A Cilium clustermesh-apiserver.
    Cilium,
}

impl RemoteKind {
    /// As it is written in files.
    pub fn as_str(self) -> &'static str {
        match self {
            RemoteKind::Tulle => "tulle",
            RemoteKind::Cilium => "cilium",
        }
    }
}

/// Who a cluster is, before it is taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// Its name.
    pub name: ClusterName,
    /// Its id.
    pub id: ClusterId,
    /// Its trust domain; for a cluster without identities one that nobody can prove.
    pub trust_domain: TrustDomain,
    /// The roots of the trust domain, where there are any.
    pub bundle: Option<TrustBundle>,
}

/// The keys of one remote cluster.
pub(super) enum Dialect {
    Tulle(Box<TulleKeys>),
    Cilium(Box<CiliumKeys>),
}

/// What some keys said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Facts that changed.
    pub(crate) changes: Vec<Change>,
    /// A sign of life.
    pub(crate) heartbeat: Option<u64>,
    /// What cannot be read or taken, one sentence each.
    pub(crate) faults: Vec<String>,
    /// How many faults there were.
    pub(crate) faults_count: u64,
    /// What was said before no longer holds as a whole: begin again.
    pub(crate) restart: bool,
}

impl Said {
    pub(crate) fn fault(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.fault_text(Chain(error).to_string());
    }

    pub(crate) fn fault_text(&mut self, text: String) {
        self.faults_count += 1;
        if self.faults.len() < FAULTS_MAX && !self.faults.contains(&text) {
            self.faults.push(text);
        }
    }
}

impl Dialect {
    pub(super) fn new(kind: RemoteKind, cluster: &ClusterName) -> Self {
        match kind {
            RemoteKind::Tulle => Dialect::Tulle(Box::new(TulleKeys::new(cluster))),
            RemoteKind::Cilium => Dialect::Cilium(Box::new(CiliumKeys::new(cluster))),
        }
    }

    /// The key that says who the cluster is.
    pub(super) fn info_key(&self) -> String {
        match self {
            Dialect::Tulle(keys) => keys.info_key(),
            Dialect::Cilium(keys) => keys.info_key(),
        }
    }

    /// The key with the roots, if the kind has one.
    pub(super) fn bundle_key(&self) -> Option<String> {
        match self {
            Dialect::Tulle(keys) => Some(keys.bundle_key()),
            Dialect::Cilium(_) => None,
        }
    }

    /// Who the cluster says that it is; a refusal is one sentence.
    pub(super) fn identify(
        &mut self,
        info: &[u8],
        bundle: Option<&[u8]>,
    ) -> Result<RemoteIdentity, String> {
        match self {
            Dialect::Tulle(keys) => keys.identify(info, bundle),
            Dialect::Cilium(keys) => keys.identify(info),
        }
    }

    /// What is listed, in this order.
    pub(super) fn prefixes(&self) -> Vec<String> {
        match self {
            Dialect::Tulle(keys) => vec![keys.prefix().to_owned()],
            Dialect::Cilium(keys) => keys.prefixes(),
        }
    }

    /// What is watched.
    pub(super) fn watches(&self) -> Vec<WatchRange> {
        let mut ranges: Vec<WatchRange> = self
            .prefixes()
            .into_iter()
            .map(WatchRange::Prefix)
            .collect();
        if let Dialect::Cilium(keys) = self {
            ranges.extend(keys.single_keys().into_iter().map(WatchRange::Key));
        }
        ranges
    }

    /// The key that shows that the cluster lives.
    pub(super) fn heartbeat_key(&self) -> String {
        match self {
            Dialect::Tulle(keys) => keys.heartbeat_key(),
            Dialect::Cilium(keys) => keys.heartbeat_key(),
        }
    }

    /// Lists begin.
    pub(super) fn begin_lists(&mut self) {
        match self {
            Dialect::Tulle(keys) => keys.begin_lists(),
            Dialect::Cilium(keys) => keys.begin_lists(),
        }
    }

    /// Lists have ended; `whole` when nothing of them was left out. Answers whether the state is complete.
    pub(super) fn finish_lists(&mut self, whole: bool, said: &mut Said) -> bool {
        match self {
            Dialect::Tulle(keys) => keys.finish_lists(whole, said),
            Dialect::Cilium(keys) => keys.finish_lists(whole, said),
        }
    }

    /// A key has a value.
    pub(super) fn put(&mut self, key: &str, value: &[u8], said: &mut Said) {
        match self {
            Dialect::Tulle(keys) => keys.put(key, value, said),
            Dialect::Cilium(keys) => keys.put(key, value, said),
        }
    }

    /// A key has a value that is too large to be looked at.
    pub(super) fn keep(&mut self, key: &str, said: &mut Said) {
        let key_told: String = key.chars().take(KEY_LEN_TOLD).collect();
        said.fault_text(format!(
            "the value of {key_told} is larger than anything that is read; what it said before counts on"
        ));
        match self {
            Dialect::Tulle(keys) => keys.keep(key),
            Dialect::Cilium(keys) => keys.keep(key),
        }
    }

    /// A key is gone.
    pub(super) fn delete(&mut self, key: &str, said: &mut Said) {
        match self {
            Dialect::Tulle(keys) => keys.delete(key, said),
            Dialect::Cilium(keys) => keys.delete(key, said),
        }
    }

    /// All keys of the moment are looked at: what follows from them together goes to `said`.
    pub(super) fn settle(&mut self, said: &mut Said) {
        match self {
            Dialect::Tulle(_) => {}
            Dialect::Cilium(keys) => keys.settle(said),
        }
    }

    /// Nobody remembers anything of this cluster.
    pub(super) fn clear(&mut self) {
        match self {
            Dialect::Tulle(keys) => keys.clear(),
            Dialect::Cilium(keys) => keys.clear(),
        }
    }

    /// Which kinds of facts are complete.
    pub(super) fn synced(&self) -> BTreeMap<&'static str, bool> {
        match self {
            Dialect::Tulle(keys) => keys.synced(),
            Dialect::Cilium(keys) => keys.synced(),
        }
    }

    /// How many there are of what only the keys show.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        match self {
            Dialect::Tulle(keys) => keys.counts(),
            Dialect::Cilium(keys) => keys.counts(),
        }
    }
}

const FAULTS_MAX: usize = 16;
const KEY_LEN_TOLD: usize = 256;
