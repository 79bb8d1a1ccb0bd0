//! Where something runs.

use serde::{Deserialize, Serialize};

use crate::Text;

/// Region, zone and subzone; an empty part is unknown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Locality {
    /// `topology.kubernetes.io/region` of the node.
    pub region: Text,
    /// `topology.kubernetes.io/zone` of the node.
    pub zone: Text,
    /// `topology.istio.io/subzone` of the node.
    pub subzone: Text,
}
