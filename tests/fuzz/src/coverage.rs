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
        for counters in regions() {
            counters.fill(0);
        }
    }

    /// Takes what was counted since `reset`; says whether an edge, or a class of counts, is new.
    pub(crate) fn take(&mut self) -> bool {
        let mut is_new = false;
        let seen = &mut self.seen;
        for_each(|place, counter| {
            // Read once: threads that a crate keeps in the background count as well.
            let Some(highest) = counter.checked_ilog2() else {
                return;
            };
            if seen.len() <= place {
                seen.resize(place + 1, 0);
            }
            let class = 1 << highest;
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

/// All counters.
fn regions() -> Vec<&'static mut [u8]> {
    let regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let counters = regions.iter().map(|(start, stop)| {
        let len = stop.saturating_sub(*start);
        let counters = std::ptr::with_exposed_provenance_mut::<u8>(*start);
        // SAFETY: LLVM told that `len` bytes of counters lie there for as long as the program runs, and nobody else here holds them:
        // callers let go of them before the next call. Instrumented code writes them while it runs, which the driver lets it do between
        // two calls; a thread of its own that counts meanwhile can only make a count wrong.
        unsafe { std::slice::from_raw_parts_mut(counters, len) }
    });
    counters.collect()
}

/// Visits the counters that are not zero.
fn for_each(mut visit: impl FnMut(usize, u8)) {
    let mut base = 0;
    for counters in regions() {
        let (words, rest) = counters.as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            // Nearly all are zero, so that most of the time goes into passing over them.
            if u64::from_ne_bytes(*word) != 0 {
                for (j, counter) in word.iter().enumerate() {
                    visit(base + 8 * i + j, *counter);
                }
            }
        }
        let start = base + 8 * words.len();
        for (j, counter) in rest.iter().enumerate() {
            visit(start + j, *counter);
        }
        base += counters.len();
    }
}
