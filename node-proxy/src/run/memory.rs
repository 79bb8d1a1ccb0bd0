//! The heap.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Gives memory back as long as the process lives: what loading the pods' programs, a large update or a burst of connections needed
/// once is not needed again.
pub(super) async fn keep(stop: CancellationToken) {
    let mut pause = FIRST_LOOK;
    // Cancel-safe, both.
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        give_back();
        pause = LATER_LOOKS;
    }
}

/// Gives memory that is free to the kernel back to it.
///
/// Loading the kernel's side parses some ten megabytes of type information into many more of small objects. They are freed a
/// moment later, but the allocator would keep their pages for ever: five times what the proxy itself needs.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    trim();
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

/// When the first pods are captured and the first tables are in the kernel.
const FIRST_LOOK: Duration = Duration::from_secs(8);
/// Rarely: a look takes the allocator's locks for a moment.
const LATER_LOOKS: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::give_back;

    fn anonymous_kib() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("RssAnon:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn freed_memory_leaves_the_process() {
        // Small pieces, so that they come from the heap; the last one keeps its top from shrinking by itself.
        let mut pieces: Vec<Box<[u8; 1024]>> = (0..40_000).map(|_| Box::new([1; 1024])).collect();
        let last = pieces.pop();
        drop(pieces);
        let before = anonymous_kib();
        give_back();
        let after = anonymous_kib();
        assert!(
            after + 20_000 < before,
            "{before} KiB before, {after} KiB after"
        );
        drop(last);
    }
}
