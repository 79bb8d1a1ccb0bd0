//! The selector of Istio's objects, which has labels only.

use std::collections::BTreeMap;

use crate::read::{Node, ReadPolicyError};

/// `selector.matchLabels`; no selector = `None`.
pub(super) fn read_selector(
    spec: &Node<'_>,
) -> Result<Option<BTreeMap<String, String>>, ReadPolicyError> {
    let Some(selector) = spec.get("selector")? else {
        return Ok(None);
    };
    selector.only(&["matchLabels"])?;
    selector
        .get("matchLabels")?
        .map_or(Ok(BTreeMap::new()), |labels| labels.text_map())
        .map(Some)
}
