//! What the process holds and does not need.
//!
//! Decides when memory goes back to the kernel. The start and every pod that is captured need ten times what the proxy needs
//! afterwards: the loader of the kernel side parses megabytes of type information into small objects. They are freed a moment
//! later, but the allocator of the C library would keep their pages for ever, each thread's in a heap of its own.

mod program;

use std::{fs, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{pods::PodsView, published::Published};

/// Keeps the allocator from getting used to much. To be called before threads are started.
///
/// A large piece that is freed, such as a file with the kernel's types, would raise for ever the size up to which free memory at the
/// end of each thread's heap stays there, and [`give_back`] reaches only the end of the first thread's.
pub(super) fn bound_heaps() {
    #[cfg(target_env = "gnu")]
    bound();
}

/// Gives memory back as long as the process lives: soon after pods came or went, soon after the process has grown (a large update,
/// a burst of connections), and now and then after what has ended.
pub(super) async fn keep(pods: Published<PodsView>, stop: CancellationToken) {
    // Cancel-safe: nothing is lost by not giving back any more.
    stop.run_until_cancelled(keep_always(pods)).await;
}

async fn keep_always(mut pods: Published<PodsView>) {
    let mut seen = pods.snapshot();
    let mut growth = Growth::default();
    loop {
        let differs = |next: &PodsView| next.settled() && *next != *seen;
        // Both arms are cancel-safe.
        let is_due = tokio::select! {
            next = pods.wait_for(differs) => match next {
                Ok(next) => {
                    seen = next;
                    sleep(SETTLING).await;
                    give_back_program();
                    true
                }
                Err(_) => return,
            },
            () = sleep(LOOKS) => growth.is_due(resident_len()),
        };
        if is_due {
            give_back();
            growth.note_given(resident_len());
        }
    }
}

/// When to give back without being told.
#[derive(Debug, Default)]
struct Growth {
    /// How large the process was when it had just given back.
    given: usize,
    /// How large it was at the last look.
    last: usize,
    /// Looks since it gave back.
    looks: u32,
}

impl Growth {
    /// Whether the process, now of that size, has grown and stopped growing, or has not given back for long.
    fn is_due(&mut self, len: usize) -> bool {
        self.looks += 1;
        let grows = len > self.last.saturating_add(GROWTH_LEN / 2);
        self.last = len;
        let has_grown = len >= self.given.saturating_add(GROWTH_LEN);
        (has_grown && !grows) || self.looks >= LOOKS_MAX
    }

    fn note_given(&mut self, len: usize) {
        *self = Growth {
            given: len,
            last: len,
            looks: 0,
        };
    }
}

/// How much of the process is in memory; 0 if the kernel does not say.
fn resident_len() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    // Only compared with itself, so that the true size of a page does not matter.
    pages.unwrap_or(0).saturating_mul(4096)
}

/// Forgets code and constants that the start, or new pods, needed.
fn give_back_program() {
    let looked_at = program::give_back();
    tracing::debug!(looked_at, "pages of the program given back");
}

/// Gives memory that is free back to the kernel.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    trim();
}

#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the allocator of the C library has no other interface"
)]
fn bound() {
    for (option, len) in [
        (libc::M_TRIM_THRESHOLD, TOP_LEN_MAX),
        (libc::M_MMAP_THRESHOLD, HEAP_PIECE_LEN_MAX),
    ] {
        // SAFETY: `mallopt` takes the allocator's own locks; any number is allowed for both options.
        let is_set = unsafe { libc::mallopt(option, len) };
        if is_set == 0 {
            tracing::debug!(option, "the allocator keeps its own bound");
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the allocator of the C library has no other interface"
)]
fn trim() {
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches only memory that nobody holds; any padding is allowed.
    let released = unsafe { libc::malloc_trim(0) };
    tracing::debug!(released, "free memory given back");
}

/// How much may lie free at the end of a heap. More than a connection needs to come up.
#[cfg(target_env = "gnu")]
const TOP_LEN_MAX: libc::c_int = 256 * 1024;
/// What is larger is mapped by itself and unmapped when it is freed. Far above the buffers of connections.
#[cfg(target_env = "gnu")]
const HEAP_PIECE_LEN_MAX: libc::c_int = 1024 * 1024;
/// After a change of the pods: others often follow it, and connections begin.
const SETTLING: Duration = Duration::from_secs(2);
/// A look costs a few microseconds.
const LOOKS: Duration = Duration::from_secs(5);
/// Once a minute at least, and rarely more often: giving back takes the allocator's locks for a moment.
const LOOKS_MAX: u32 = 12;
/// What is worth those locks.
const GROWTH_LEN: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{GROWTH_LEN, Growth, LOOKS_MAX, bound_heaps, give_back};

    #[test]
    fn memory_is_given_back_once_growth_ends_or_time_has_passed() {
        let mut growth = Growth::default();
        growth.note_given(GROWTH_LEN);
        assert!(!growth.is_due(GROWTH_LEN));
        // While it grows, what is freed is soon used again.
        assert!(!growth.is_due(3 * GROWTH_LEN));
        assert!(!growth.is_due(4 * GROWTH_LEN));
        assert!(growth.is_due(4 * GROWTH_LEN));
        growth.note_given(3 * GROWTH_LEN);
        // Whatever it has grown by is in use.
        for look in 1..LOOKS_MAX {
            assert!(!growth.is_due(3 * GROWTH_LEN), "look {look}");
        }
        assert!(growth.is_due(3 * GROWTH_LEN));
    }

    fn resident_kib(what: &str) -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    /// The end of a thread's own heap, which `malloc_trim` leaves alone.
    #[test]
    fn freed_memory_of_another_thread_leaves_the_process() {
        bound_heaps();
        // As the loader does it: this would raise the bound that was not set.
        drop(vec![1_u8; 6 * 1024 * 1024]);
        let shrinks = || {
            let pieces: Vec<Box<[u8; 1024]>> = (0..10_000).map(|_| Box::new([1; 1024])).collect();
            let grown = resident_kib("RssAnon:");
            drop(pieces);
            // A piece that is large enough makes the heap look at its end.
            drop(vec![1_u8; 100 * 1024]);
            give_back();
            resident_kib("RssAnon:") + 8_000 < grown
        };
        assert!(seen_of_five(shrinks));
    }

    /// The tests beside this one take memory as well: once is enough. Each time on a new thread, with a heap of its own.
    fn seen_of_five(shrinks: impl Fn() -> bool + Copy + Send + 'static) -> bool {
        (0..5).any(|_| std::thread::spawn(shrinks).join().unwrap())
    }

    #[test]
    fn freed_memory_leaves_the_process() {
        let shrinks = || {
            // Small pieces, so that they come from the heap; the last one keeps its top from shrinking by itself.
            let mut pieces: Vec<Box<[u8; 1024]>> =
                (0..40_000).map(|_| Box::new([1; 1024])).collect();
            let last = pieces.pop();
            drop(pieces);
            let before = resident_kib("RssAnon:");
            give_back();
            let after = resident_kib("RssAnon:");
            drop(last);
            after + 20_000 < before
        };
        assert!(seen_of_five(shrinks));
    }
}
