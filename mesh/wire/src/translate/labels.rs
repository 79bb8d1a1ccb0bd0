//! Labels.

use std::collections::BTreeMap;

use tulle_model::{SmallMap, Text};

pub(super) fn write_labels(labels: &SmallMap<Text, Text>) -> BTreeMap<String, String> {
    let write = |(name, value): (&Text, &Text)| (name.into(), value.into());
    labels.iter().map(write).collect()
}

pub(super) fn read_labels(labels: BTreeMap<String, String>) -> SmallMap<Text, Text> {
    let read = |(name, value): (String, String)| (name.into(), value.into());
    labels.into_iter().map(read).collect()
}
