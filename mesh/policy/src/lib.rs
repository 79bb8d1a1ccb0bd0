//! Rule languages, one compiled form, a verdict with its reason.
//!
//! `read_policy_file` and the readers of single languages turn objects into `tulle_model::NetworkRules` and
//! `tulle_model::Authorization`; what they cannot express they refuse by name. `compiled` folds the rules of all languages into tables for
//! the kernel and the proxy; `judge` decides what Istio's policies say. Pure: no files, no clock.

mod cilium;
pub mod compiled;
mod evaluate;
#[cfg(any(test, feature = "interpreter"))]
pub mod interpret;
pub mod istio;
mod kubernetes;
pub mod l7;
pub mod names;
mod read;
#[cfg(test)]
mod testing;

pub use cilium::{read_cilium_policy, read_name_pattern};
pub use evaluate::{
    Asked, Connection, DenyReason, Judgement, Verdict, authorize, judge, noted, policy_matches,
};
pub use istio::from_istio_yaml;
pub use kubernetes::read_network_policy;
pub use read::{
    DefaultCluster, PolicyKind, ReadPolicy, ReadPolicyError, ReadRules, ReadSettings, read_policy,
    read_policy_file,
};
