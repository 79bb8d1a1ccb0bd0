//! Labels, and other maps of a few entries.

use std::collections::BTreeMap;

use tulle_model::{SmallMap, Text};

pub(super) fn write_labels(labels: &SmallMap<Text, Text>) -> BTreeMap<String, String> {
    let write = |(name, value): (&Text, &Text)| (name.into(), value.into());
    labels.iter().map(write).collect()
}

pub(super) fn read_labels(labels: BTreeMap<String, String>) -> SmallMap<Text, Text> {
    let read = |(name, value): (String, String)| (name.into(), value.into());
    small_map(labels.into_iter().map(read))
}

/// A map with no room to spare: it is kept once for each pod of the mesh and never grows.
pub(super) fn small_map<K: Ord, V>(
    entries: impl ExactSizeIterator<Item = (K, V)>,
) -> SmallMap<K, V> {
    let mut map = SmallMap::with_capacity(entries.len());
    for (key, value) in entries {
        map.insert(key, value);
    }
    map
}
