//! The kernel side as the build script made it.

/// What a node has once, aligned as the parser wants it.
pub(crate) static NODE: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tulle-programs"));

/// What each pod has for itself.
pub(crate) static STEERING: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tulle-steering"));
