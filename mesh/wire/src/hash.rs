//! The version of a resource: a hash of its bytes.
//!
//! Equal content has equal versions in every process and after every restart, so a client that reconnects is sent only
//! what differs from what it holds. Not a defence against forgery.

/// The version of a resource with these bytes: 16 lower-case hex digits.
///
/// FNV-1a with 64 bits: it needs no key, and the encodings here are deterministic (maps are sorted).
pub fn resource_version(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    });
    format!("{hash:016x}")
}

/// draft-eastlake-fnv, §5.
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[cfg(test)]
mod tests;
