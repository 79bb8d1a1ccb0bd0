//! Which endpoints of a service may serve a client.
//!
//! Decides from where the client is, how the service is shared, and what is known of each endpoint's health; when a failed endpoint is
//! ejected and for how long; and how Maglev spreads a service over its endpoints. Picking one of the endpoints for a connection is not
//! decided here, and nothing here opens a connection or knows the time: it is told.

pub mod health;
pub mod maglev;
mod select;

pub use health::{Ejected, EjectionSettings, Ejections};
pub use select::{
    Endpoint, Reason, Selection, Serving, SpillState, Verdict, Viewpoint, explain, select,
    select_endpoints,
};
