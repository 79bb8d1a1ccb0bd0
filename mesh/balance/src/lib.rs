//! Which endpoints of a service may serve a client.
//!
//! Decides from where the client is, how the service is shared, and what the mesh knows of each endpoint's health. Picking
//! one of the endpoints for a connection is not decided here, and nothing here opens a connection or knows the time.

mod select;

pub use select::{Viewpoint, select_endpoints};
