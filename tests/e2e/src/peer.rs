//! Two ends of a TCP conversation that check every byte and every close.
//!
//! The client opens a connection and says in a header what both ends are going to do ([`Plan`]); both make the same
//! pseudo-random bytes from the plan's seed, so each end can verify what it receives without being told it. The server keeps
//! what it saw of each conversation, and the client asks for it on a connection of its own ([`Mode::Report`]); so a close or
//! a reset is checked at both ends. Sockets are either blocking (as Python's or a C program's) or polled (as an event
//! loop's), because the mesh treats the two differently.

mod client;
mod plan;
mod server;
mod socket;

pub use client::{Campaign, Failure, Summary, reset_early, run_campaign};
pub use plan::{Mode, Plan};
pub use server::serve;
pub use socket::{Discipline, Socket};
