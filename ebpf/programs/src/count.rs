//! The one way out of every program: count, then answer the kernel.

use tulle_abi::{Program, Reason, counter_index};

use crate::maps::COUNTERS;

/// Counts the exit and returns the verdict.
#[inline(always)]
pub(crate) fn exit<T>(program: Program, reason: Reason, verdict: T) -> T {
    count(program, reason);
    verdict
}

/// Counts an event that is not yet the exit.
#[inline(always)]
pub(crate) fn count(program: Program, reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter_index(program, reason)) {
        // The slot is this processor's own; a program cannot be interrupted by another one that counts in the same slot
        // often enough to matter: a lost increment is the worst that happens.
        unsafe { *counter += 1 }
    }
}
