//! Rule languages, one compiled form, a verdict with its reason.
//!
//! The compiled form is `tulle_model::Authorization`. `authorize` decides about one connection; `from_istio_yaml` and
//! `istio` read Istio's objects into it. L4 only: what speaks of HTTP is for another layer, and is never read as if it
//! were not there in a way that lets more in. Pure: no files, no clock.

mod cilium;
pub mod compiled;
mod evaluate;
pub mod istio;
mod kubernetes;
pub mod l7;
pub mod names;
mod read;
#[cfg(test)]
mod testing;

pub use cilium::{read_cilium_policy, read_name_pattern};
pub use evaluate::{Connection, DenyReason, Verdict, authorize, policy_matches};
pub use istio::from_istio_yaml;
pub use kubernetes::read_network_policy;
pub use read::{
    DefaultCluster, PolicyKind, ReadPolicy, ReadPolicyError, ReadRules, ReadSettings, read_policy,
    read_policy_file,
};
