//! Labels as objects write them, as the model holds them.

use std::collections::BTreeMap;

use tulle_model::{SmallMap, Text};

/// Absent labels are no labels.
pub(super) fn shared(labels: Option<&BTreeMap<String, String>>) -> SmallMap<Text, Text> {
    let labels = labels.into_iter().flatten();
    labels.map(|(k, v)| (k.into(), v.into())).collect()
}
