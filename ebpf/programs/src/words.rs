//! Addresses in the contexts of hooks.

use tulle_abi::Address;

/// Reads an address one word at a time: the verifier allows no wider reads of the contexts.
#[inline(always)]
pub(crate) fn words(first: *const u32) -> Address {
    unsafe {
        Address {
            words: [
                core::ptr::read_volatile(first),
                core::ptr::read_volatile(first.add(1)),
                core::ptr::read_volatile(first.add(2)),
                core::ptr::read_volatile(first.add(3)),
            ],
        }
    }
}
