//! The whole program on a real kernel: started, fed, signalled, killed and restarted. Needs root, BTF and cgroup v2.

// Every module is marked as test code, so that the lints for tests hold for its helpers too.
#[cfg(test)]
#[path = "control/life.rs"]
mod life;
#[cfg(test)]
#[path = "control/node.rs"]
mod node;
#[cfg(test)]
#[path = "control/server.rs"]
mod server;
