//! The mesh at full size: many clusters, services, endpoints and nodes.
//!
//! What is measured is real: one `xds-server`, one etcd and one `node-proxy` as a lab runs them. What surrounds them is simulated
//! as thinly as possible: other clusters are publishers of their own state (the same code that an xds-server publishes with),
//! other nodes are clients that speak delta ADS over mTLS, acknowledge everything and keep nothing.

pub mod nodes;
pub mod plan;
pub mod process;
pub mod publishers;
pub mod report;
pub mod rig;
pub mod scale;
