//! The cluster's server: sources, etcd, merge, delta ADS, certificate authority.
//!
//! A fact goes one way: `source` → `catalog` (what the objects mean) → `merge` (one view of all clusters) → `snapshot`
//! (encoded once) → `ads` (to each node); and from `catalog` → `store` (to other clusters), whose like `remotes` reads back.
//! `cilium` stands in for `store` and `remotes` where the other cluster is Cilium's; `management` is what operators ask and order.
//! `world` owns the state, everything else holds immutable snapshots of it.

pub mod admin;
mod admissions;
pub mod ads;
pub mod ca;
pub mod catalog;
pub mod chain;
pub mod cilium;
pub mod config;
mod directory_watch;
pub mod layout;
pub mod management;
pub mod merge;
pub mod metrics;
pub mod policy_source;
pub mod remotes;
mod rfc3339;
pub mod run;
pub mod server;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod store;
pub mod tokens;
pub mod world;
