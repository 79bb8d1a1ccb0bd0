//! The node's proxy: captured connections, mTLS tunnels, DNS and admin for every pod of one node.
//!
//! Two halves that meet in three places only ([`published`], [`plane`], [`pod`]): the data plane moves bytes and decides from
//! snapshots; the control side makes those snapshots (xDS, pods of the node, kernel tables) and never touches a byte of traffic.

pub mod admin;
pub mod config;
pub mod dns;
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
pub mod run;
#[cfg(test)]
mod testing;
pub mod tunnel;
pub mod xds;
