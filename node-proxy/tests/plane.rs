//! The data plane end to end, on loopback, with real TLS and without the kernel's side: two planes, one pod each.
//!
//! What a kernel would do (say where a captured connection was going, steer plaintext) is faked; everything else is what runs
//! on a node.

// Every module is marked as test code, so that the lints for tests hold for its helpers too.
#[cfg(test)]
#[path = "plane/exact.rs"]
mod exact;
#[cfg(test)]
#[path = "plane/health.rs"]
mod health;
#[cfg(test)]
#[path = "plane/lanes.rs"]
mod lanes;
#[cfg(test)]
#[path = "plane/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "plane/plaintext.rs"]
mod plaintext;
#[cfg(test)]
#[path = "plane/refusals.rs"]
mod refusals;
#[cfg(test)]
#[path = "plane/requests.rs"]
mod requests;
#[cfg(test)]
#[path = "plane/sealed.rs"]
mod sealed;
#[cfg(test)]
#[path = "plane/support.rs"]
mod support;
#[cfg(test)]
#[path = "plane/terms.rs"]
mod terms;
#[cfg(test)]
#[path = "plane/tunnels.rs"]
mod tunnels;
