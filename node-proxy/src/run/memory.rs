//! What the process holds and does not need.
//!
//! Decides when memory goes back to the kernel. The start and every pod that is captured need ten times what the proxy needs
//! afterwards: the loader of the kernel side parses megabytes of type information into small objects. They are freed a moment
//! later, but the allocator of the C library would keep their pages for ever, each thread's in a heap of its own.

#[cfg(target_env = "gnu")]
mod code;

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{pods::PodsView, published::Published};

/// Gives memory back as long as the process lives: soon after pods came or went, and now and then after whatever else needed it
/// once (a large update, a burst of connections).
pub(super) async fn keep(pods: Published<PodsView>, stop: CancellationToken) {
    // Cancel-safe: nothing is lost by not giving back any more.
    stop.run_until_cancelled(keep_always(pods)).await;
}

async fn keep_always(mut pods: Published<PodsView>) {
    let mut seen = pods.snapshot();
    let mut has_started = false;
    loop {
        let differs = |next: &PodsView| next.settled() && *next != *seen;
        // Both arms are cancel-safe.
        tokio::select! {
            next = pods.wait_for(differs) => match next {
                Ok(next) => seen = next,
                Err(_) => return,
            },
            () = sleep(LOOKS) => {}
        }
        sleep(SETTLING).await;
        give_back();
        if !has_started && seen.settled() {
            has_started = true;
            forget_code();
        }
    }
}

/// Gives memory that is free back to the kernel.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    trim();
}

/// Lets go of the code that only the start needed.
fn forget_code() {
    #[cfg(target_env = "gnu")]
    code::forget();
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

/// After a change of the pods: others often follow it, and connections begin.
const SETTLING: Duration = Duration::from_secs(2);
/// Rarely: a look takes the allocator's locks for a moment.
const LOOKS: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{forget_code, give_back};

    fn resident_kib(what: &str) -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    #[test]
    fn freed_memory_leaves_the_process() {
        // Small pieces, so that they come from the heap; the last one keeps its top from shrinking by itself.
        let mut pieces: Vec<Box<[u8; 1024]>> = (0..40_000).map(|_| Box::new([1; 1024])).collect();
        let last = pieces.pop();
        drop(pieces);
        let before = resident_kib("RssAnon:");
        give_back();
        let after = resident_kib("RssAnon:");
        assert!(
            after + 20_000 < before,
            "{before} KiB before, {after} KiB after"
        );
        drop(last);
    }

    /// What is called afterwards is read anew, so nothing but the count shows it.
    #[test]
    fn code_that_nobody_calls_leaves_the_process() {
        let text = serde_json::json!({"a": [1, 2, 3]}).to_string();
        let before = resident_kib("RssFile:");
        forget_code();
        let after = resident_kib("RssFile:");
        assert!(after < before, "{before} KiB before, {after} KiB after");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["a"][2], 3);
    }
}
