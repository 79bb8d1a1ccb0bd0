//! Which connections and requests may be: the rules of all policies, compiled for this node's pods.
//!
//! [`PolicyKeeper`] keeps one compiled form and gives it to both who decide by it, the kernel and the proxies; a `Judge` asks it
//! for one connection. What the rules mean is decided in `tulle-policy`, how the kernel looks them up in `tulle-datapath`.
//!
//! ztunnel evaluates lists of policies for every connection, which costs it 94 % of its rate at 10,000 policies, and it knows no
//! rule of the source's side. Here both sides are compiled once, and a change costs what it touches.

mod judge;
mod keeper;
mod learner;
mod metrics;
mod names;
mod recent;
mod recheck;
mod sessions;
mod tables;
mod told;

pub(crate) use judge::Judge;
pub use judge::PolicyView;
pub use keeper::{PolicyKeeper, PolicyStatus, PolicyTables};
pub use learner::{Learned, NameLearner};
pub use metrics::PolicyMetrics;
pub use names::CompiledNames;
pub(crate) use recent::RecentVerdict;
pub use recent::RecentVerdicts;
pub use recheck::{RecheckConnections, Rechecker};
pub(crate) use sessions::{SessionGuard, Sessions, watch_policy};
pub use told::VerdictListener;
