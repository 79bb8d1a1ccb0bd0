//! Programs and helpers with which the end-to-end tests drive the lab.
//!
//! The tests themselves are in `tests/`; each stands for a promise that a user can see.

pub mod bench;
pub mod command;
pub mod curls;
pub mod delay;
mod evidence;
pub mod fast_paths;
pub mod load;
pub mod peer;
pub mod promises;
pub mod rig;
