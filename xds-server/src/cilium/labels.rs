//! Sets of labels and their numbers.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use tulle_model::{SmallMap, Text};

/// The text of a set of labels: `source:key=value;`, sorted.
pub(super) fn labels_text(
    cluster: &str,
    namespace: &str,
    service_account: &str,
    labels: &SmallMap<Text, Text>,
) -> String {
    let own = [
        (POLICY_CLUSTER, cluster),
        (POLICY_ACCOUNT, service_account),
        (NAMESPACE_NAME, namespace),
        (POD_NAMESPACE, namespace),
    ];
    let labels = labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let mut parts: Vec<String> = labels
        .chain(own)
        .map(|(key, value)| format!("k8s:{key}={value};"))
        .collect();
    parts.sort();
    parts.concat()
}

/// The pod's own labels in such a text.
pub(super) fn pod_labels(text: &str) -> SmallMap<Text, Text> {
    let parts = text.split(';').filter_map(|part| part.strip_prefix("k8s:"));
    let pairs = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
    let own = |key: &str| key.starts_with(CILIUM) || key == POD_NAMESPACE;
    pairs
        .filter(|(key, _)| !key.is_empty() && !own(key))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// Numbers of sets of labels in one cluster.
///
/// A number follows from the labels' hash; of two that would have the same one the later takes the next free number and keeps it
/// while anybody has these labels.
#[derive(Debug)]
pub(super) struct Numbers {
    cluster_id: u32,
    split: u32,
    by_text: HashMap<String, (u32, usize)>,
    taken: HashMap<u32, String>,
}

impl Numbers {
    pub(super) fn new(cluster_id: u16, max_connected_clusters: u32) -> Self {
        Numbers {
            cluster_id: cluster_id.into(),
            split: split(max_connected_clusters),
            by_text: HashMap::new(),
            taken: HashMap::new(),
        }
    }

    /// One more has these labels; `None` when there is no number left.
    pub(super) fn take(&mut self, text: &str) -> Option<u32> {
        if let Some((number, users)) = self.by_text.get_mut(text) {
            *users += 1;
            return Some(*number);
        }
        let room = (1 << self.split) - LOCAL_MIN;
        let digest = Sha256::digest(text.as_bytes());
        let (head, _) = digest.split_at(size_of::<u32>());
        let start = head.iter().fold(0_u32, |n, byte| n << 8 | u32::from(*byte)) % room;
        let number = (0..room)
            .map(|step| LOCAL_MIN + (start + step) % room)
            .map(|local| self.cluster_id << self.split | local)
            .find(|number| !self.taken.contains_key(number))?;
        self.taken.insert(number, text.to_owned());
        self.by_text.insert(text.to_owned(), (number, 1));
        Some(number)
    }

    /// One less has these labels; answers with the number that nobody has any more.
    pub(super) fn give_back(&mut self, text: &str) -> Option<u32> {
        let (number, users) = self.by_text.get_mut(text)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        let number = *number;
        self.by_text.remove(text);
        self.taken.remove(&number);
        Some(number)
    }
}

/// Bits of a number that count within a cluster.
pub(super) fn split(max_connected_clusters: u32) -> u32 {
    if max_connected_clusters > CLUSTERS_OF_EIGHT_BITS {
        15
    } else {
        16
    }
}

const CLUSTERS_OF_EIGHT_BITS: u32 = 255;
/// Below are the reserved ones.
pub(super) const LOCAL_MIN: u32 = 256;
const CILIUM: &str = "io.cilium.k8s.";
const POLICY_CLUSTER: &str = "io.cilium.k8s.policy.cluster";
const POLICY_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
const NAMESPACE_NAME: &str = "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";

#[cfg(test)]
mod tests;
