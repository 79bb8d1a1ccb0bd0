//! The node's proxy: captured connections, mTLS tunnels, DNS and admin for every pod of one node.
//!
//! Two halves: the control side makes snapshots (xDS, pods of the node, compiled rules, kernel tables) and never touches a byte of
//! traffic; the data plane moves bytes and decides from those snapshots ([`published`]), so that a connection waits for nobody but the
//! rules of its own pod. What connections find out goes the other way by narrow doors: the [`health`] of endpoints, names that pods
//! resolved ([`dns`] to [`policy`]).

pub mod admin;
pub mod config;
pub mod dns;
pub mod fair;
pub mod foreign;
pub mod health;
pub mod http;
pub mod inbound;
mod judged;
pub mod kernel_sync;
pub mod metrics;
pub mod netns;
pub mod outbound;
pub mod plane;
pub mod pod;
pub mod pods;
pub mod policy;
pub mod published;
pub mod pump;
mod ring;
pub mod run;
#[cfg(test)]
mod testing;
pub mod tunnel;
pub mod xds;
