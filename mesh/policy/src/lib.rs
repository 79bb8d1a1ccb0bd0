//! Rule languages, one compiled form, a verdict with its reason.
//!
//! The compiled form is `tulle_model::Authorization`. `authorize` decides about one connection; `from_istio_yaml` and
//! `istio` read Istio's objects into it. L4 only: what speaks of HTTP is for another layer, and is never read as if it
//! were not there in a way that lets more in. Pure: no files, no clock.

pub mod compiled;
mod evaluate;
pub mod istio;
pub mod l7;
pub mod names;

pub use evaluate::{Connection, DenyReason, Verdict, authorize, policy_matches};
pub use istio::{ReadPolicyError, from_istio_yaml};
