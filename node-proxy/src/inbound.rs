//! Connections to the pod's applications: who may in, and what the application sees.
//!
//! Two doors: tunnels of the mesh, whose peers proved who they are, and plaintext, whose peers proved nothing. Policy decides about
//! both; the application is reached over loopback and shown its true client.

mod application;
mod hbone;
mod lane;
mod plaintext;

pub(crate) use hbone::serve as serve_hbone;
pub(crate) use plaintext::serve as serve_plaintext;

/// The name in metrics of a connection that a new policy ended.
pub(crate) const POLICY_CHANGED: &str = "policy_changed";
/// The name in metrics of a connection that policy refuses.
pub(crate) const DENIED: &str = "denied";
