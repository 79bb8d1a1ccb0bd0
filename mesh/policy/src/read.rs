//! What the readers of all languages share: the walk through an object, and the error that says where it went wrong.
//!
//! A reader of this crate never passes over a field that it does not know: what is left out of a rule changes whom it lets in.

mod error;
mod file;
mod labels;
mod manifest;
mod node;
mod values;

use tulle_model::{ClusterName, NetworkRules};

pub use error::ReadPolicyError;
pub use file::{ReadPolicy, read_policy, read_policy_file};
pub use manifest::PolicyKind;

pub(crate) use labels::{LABEL_KEY, Labels, is_label_key, read_labels};
pub(crate) use manifest::Manifest;
pub(crate) use node::Node;
pub(crate) use values::{read_address_or_block, read_block};

/// What the meaning of an object depends on and the object does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSettings {
    /// The cluster that the objects are of.
    pub cluster: ClusterName,
    /// Whose workloads a selector means that names no cluster.
    pub default_cluster: DefaultCluster,
}

/// Whose workloads a selector of far ends means that names no cluster (Cilium's `policyDefaultCluster`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultCluster {
    /// Those of every cluster of the mesh.
    #[default]
    Any,
    /// Those of the object's own cluster.
    Local,
}

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRules {
    /// In the form of the mesh.
    pub rules: NetworkRules,
    /// What its author should know: what its language makes of it although it is hardly meant.
    pub warnings: Vec<String>,
}
