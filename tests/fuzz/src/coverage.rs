//! The counters that LLVM puts into instrumented crates, one for each edge of their control flow.
//!
//! Each object file tells at start where its counters lie. A build without instrumentation tells of none.

#![expect(
    unsafe_code,
    reason = "LLVM's counters are plain memory, told by address"
)]

use std::sync::{Mutex, PoisonError};

static REGIONS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Called by instrumented object files before `main`: their counters lie from `start` to before `stop`.
// SAFETY: no other crate of this workspace defines the symbol, and its signature is the one that LLVM documents.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let region = (start.addr(), stop.addr());
    start.expose_provenance();
    let mut regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
    // All object files of a program share one section, and each tells of the whole of it.
    if !regions.contains(&region) {
        regions.push(region);
    }
}

/// Which edges inputs have taken, and about how many times.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// For each edge, the classes of counts that were seen, as bits.
    seen: Vec<u8>,
}

impl Coverage {
    /// Whether anything is counted.
    pub(crate) fn is_there() -> bool {
        !regions().is_empty()
    }

    /// Sets the counters to zero.
    pub(crate) fn reset() {
        for_each(|_, counter| *counter = 0);
    }

    /// Takes what was counted since `reset`; says whether an edge, or a class of counts, is new.
    pub(crate) fn take(&mut self) -> bool {
        let mut is_new = false;
        let seen = &mut self.seen;
        for_each(|place, counter| {
            if *counter == 0 {
                return;
            }
            if seen.len() <= place {
                seen.resize(place + 1, 0);
            }
            let class = 1 << (u8::BITS - 1 - counter.leading_zeros());
            if let Some(held) = seen.get_mut(place).filter(|held| **held & class == 0) {
                *held |= class;
                is_new = true;
            }
        });
        is_new
    }

    /// How many edges were taken.
    pub(crate) fn edges(&self) -> usize {
        self.seen.iter().filter(|seen| **seen != 0).count()
    }
}

fn regions() -> Vec<(usize, usize)> {
    REGIONS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn for_each(mut visit: impl FnMut(usize, &mut u8)) {
    let mut place = 0;
    for (start, stop) in regions() {
        let len = stop.saturating_sub(start);
        let counters = std::ptr::with_exposed_provenance_mut::<u8>(start);
        // SAFETY: LLVM told that `len` bytes of counters lie there for as long as the program runs. Instrumented code writes them, but
        // only on this thread: the driver runs its target and this one after the other, and a race would only make a count wrong.
        let counters = unsafe { std::slice::from_raw_parts_mut(counters, len) };
        for counter in counters {
            visit(place, counter);
            place += 1;
        }
    }
}
