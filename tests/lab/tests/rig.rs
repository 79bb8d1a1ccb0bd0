//! The lab without a mesh: kubelet, controllers, wires and commands, on the real kernel.
//!
//! Each test has a rig of its own and takes it down even when it fails. Needs root, nginx and curl;
//! without them it fails with the sentence that says what is missing.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod rig {
    mod commands;
    mod lifecycle;
    mod pods;
    mod probes;
    mod services;
    pub(crate) mod support;
    mod volumes;
}
