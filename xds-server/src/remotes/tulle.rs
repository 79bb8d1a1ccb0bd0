//! The keys of a Tulle cluster.

use std::collections::BTreeMap;

use tulle_model::{Change, ClusterName};

use super::{
    dialect::{RemoteIdentity, Said},
    facts::Facts,
    table::{KEYS_MAX, KeyTable, Put},
};
use crate::{
    chain::Chain,
    layout::{self, Entry},
};

/// What a Tulle cluster has published.
pub(super) struct TulleKeys {
    cluster: ClusterName,
    prefix: String,
    table: KeyTable,
    facts: Facts,
    /// As they were when the cluster was taken in.
    info: Vec<u8>,
    bundle: Option<Vec<u8>>,
    /// The cluster says that it has published everything.
    marked: bool,
    /// And all of it was read.
    complete: bool,
    listing: bool,
}

impl TulleKeys {
    pub(super) fn new(cluster: &ClusterName) -> Self {
        TulleKeys {
            cluster: cluster.clone(),
            prefix: layout::prefix(cluster),
            table: KeyTable::default(),
            facts: Facts::default(),
            info: Vec::new(),
            bundle: None,
            marked: false,
            complete: false,
            listing: false,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn info_key(&self) -> String {
        format!("{}{}", self.prefix, layout::INFO)
    }

    pub(super) fn bundle_key(&self) -> String {
        format!("{}{}", self.prefix, layout::BUNDLE)
    }

    pub(super) fn heartbeat_key(&self) -> String {
        format!("{}{}", self.prefix, layout::HEARTBEAT)
    }

    pub(super) fn identify(
        &mut self,
        info: &[u8],
        bundle: Option<&[u8]>,
    ) -> Result<RemoteIdentity, String> {
        let name = &self.cluster;
        let unreadable = |error: &layout::ReadEntryError| {
            format!(
                "cluster {name} is refused: what it says of itself is not valid: {}",
                Chain(error)
            )
        };
        let found = match layout::read_entry(layout::INFO, info) {
            Ok(Entry::Info(found)) => found,
            Ok(_) => {
                return Err(format!(
                    "cluster {name} is refused: it does not say who it is"
                ));
            }
            Err(error) => return Err(unreadable(&error)),
        };
        if found.name != *name {
            return Err(format!(
                "cluster {name} is refused: its etcd says that it is {}; correct the name in its file",
                found.name
            ));
        }
        if found.version > layout::VERSION {
            return Err(format!(
                "cluster {name} is refused: it writes layout {}, and this server reads up to {}; upgrade this server",
                found.version,
                layout::VERSION
            ));
        }
        let roots = match bundle.map(|b| layout::read_entry(layout::BUNDLE, b)) {
            None => None,
            Some(Ok(Entry::Facts(facts))) => facts.into_iter().find_map(|fact| match fact {
                Change::Bundle(bundle) => Some((*bundle).clone()),
                _ => None,
            }),
            Some(Ok(_)) => None,
            Some(Err(error)) => return Err(unreadable(&error)),
        };
        self.info = info.to_vec();
        self.bundle = bundle.map(<[u8]>::to_vec);
        Ok(RemoteIdentity {
            name: found.name,
            id: found.id,
            trust_domain: found.trust_domain,
            bundle: roots,
        })
    }

    pub(super) fn begin_lists(&mut self) {
        self.table.mark_stale();
        self.marked = false;
        self.complete = false;
        self.listing = true;
    }

    pub(super) fn finish_lists(&mut self, whole: bool, said: &mut Said) -> bool {
        self.listing = false;
        self.complete = whole && self.marked;
        if self.complete {
            for key in self.table.stale("") {
                self.table.remove(&key);
                self.facts.remove(&key, &mut said.changes);
            }
        }
        self.complete
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8], said: &mut Said) {
        let Some(key) = key.strip_prefix(&self.prefix) else {
            return;
        };
        match key {
            layout::INFO => said.restart |= value != self.info,
            layout::SYNCED => {
                // Only a list can tell what is gone.
                said.restart |= !self.listing && !self.marked;
                self.marked = true;
            }
            layout::HEARTBEAT => match layout::read_entry(key, value) {
                Ok(Entry::Heartbeat(beat)) => said.heartbeat = Some(beat),
                Ok(_) => {}
                Err(error) => said.fault(&error),
            },
            // Other roots need another admission.
            layout::BUNDLE if Some(value) != self.bundle.as_deref() => said.restart = true,
            _ => self.put_facts(key, value, said),
        }
    }

    fn put_facts(&mut self, key: &str, value: &[u8], said: &mut Said) {
        if self.table.is_same(key, value) {
            return;
        }
        let facts = match layout::read_entry(key, value) {
            Ok(Entry::Facts(facts)) => facts,
            Ok(_) => return,
            Err(error) => {
                self.table.keep(key);
                return said.fault(&error);
            }
        };
        // What the workloads of a slice share, each of them will have.
        let len = value.len().saturating_mul(facts.len().max(1));
        match self.table.put(key, value, len) {
            Put::Room => {
                if let Err(error) = self.facts.replace(key, facts, &mut said.changes) {
                    said.fault(&error);
                }
            }
            Put::NoRoom => said.fault_text(format!(
                "it publishes more than {KEYS_MAX} keys, or more than can be kept; the rest is not taken in"
            )),
        }
    }

    pub(super) fn keep(&mut self, key: &str) {
        if let Some(key) = key.strip_prefix(&self.prefix) {
            self.table.keep(key);
        }
    }

    pub(super) fn delete(&mut self, key: &str, said: &mut Said) {
        let Some(key) = key.strip_prefix(&self.prefix) else {
            return;
        };
        if key == layout::BUNDLE {
            // Without roots its identities could no longer be verified; a cluster that lives writes them again at once.
            return;
        }
        self.table.remove(key);
        self.facts.remove(key, &mut said.changes);
    }

    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.facts.clear();
    }

    pub(super) fn synced(&self) -> BTreeMap<&'static str, bool> {
        BTreeMap::from([
            ("services", self.complete),
            ("endpoints", self.complete),
            ("bundle", self.bundle.is_some()),
        ])
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        BTreeMap::from([
            ("keys", self.table.len()),
            ("nodes", self.facts.nodes_len()),
        ])
    }
}
