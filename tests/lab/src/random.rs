//! Names and secrets that nobody can guess or that never come twice.

use std::fmt::Write as _;

use rustix::rand::GetRandomFlags;

/// A random (version 4) UUID.
pub(crate) fn uuid() -> String {
    let mut bytes: [u8; 16] = bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// The random end of a pod's name, in the letters that Kubernetes uses for it.
pub(crate) fn name_suffix(len: usize) -> String {
    let random: [u8; 16] = bytes();
    random
        .iter()
        .take(len)
        .map(|byte| letter(u64::from(*byte)))
        .collect()
}

/// A short stable text for `content`, in the letters of a pod's name.
pub(crate) fn name_hash(content: &str, len: usize) -> String {
    // FNV-1a: stable from build to build, which the standard library's hasher does not promise.
    let mut hash = content
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    (0..len)
        .map(|_| {
            let found = letter(hash);
            hash /= LETTERS.len() as u64;
            found
        })
        .collect()
}

/// A secret of 256 bits, in hexadecimal.
pub(crate) fn token() -> String {
    hex(&bytes::<32>())
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // The kernel's generator is ready long before any program of a lab runs; a call may be cut
        // short by a signal.
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

fn letter(number: u64) -> char {
    let index = usize::try_from(number % LETTERS.len() as u64).unwrap_or_default();
    char::from(LETTERS[index])
}

const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
