//! What the tests of the manifests share.

use tulle_policy::{DefaultCluster, ReadSettings};

/// How policies are read in tests.
pub(super) fn settings() -> ReadSettings {
    ReadSettings {
        cluster: "koornacht".parse().unwrap(),
        default_cluster: DefaultCluster::Any,
    }
}
