//! What the program itself holds: live memory of its heap, and tasks.
//!
//! Resident memory says what the kernel lent, and the allocator gives little of that back: what a connection, a tunnel or a pod needs shows
//! only in what is allocated and not freed. Peers leave that to a profiler.

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tokio::runtime::Handle;

use super::encode_gauge;

/// Asks the allocator and a runtime whenever metrics are asked for.
#[derive(Debug)]
pub struct HeldCollector {
    runtime: Handle,
}

impl HeldCollector {
    /// A collector that counts the tasks of `runtime`.
    pub fn new(runtime: Handle) -> Self {
        HeldCollector { runtime }
    }
}

impl Collector for HeldCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let number = |value: usize| i64::try_from(value).ok();
        encode_gauge(
            &mut encoder,
            "process_heap_live_bytes",
            "Memory of the heap that is allocated and not freed",
            live_heap().and_then(number),
        )?;
        encode_gauge(
            &mut encoder,
            "process_tasks",
            "Tasks of the data plane that have not ended",
            number(self.runtime.metrics().num_alive_tasks()),
        )
    }
}

/// Bytes that are allocated and not freed, those of large pieces with mappings of their own included; nothing where the C library does not tell.
fn live_heap() -> Option<usize> {
    #[cfg(target_env = "gnu")]
    return Some(allocated());
    #[cfg(not(target_env = "gnu"))]
    None
}

#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the allocator of the C library has no other interface"
)]
fn allocated() -> usize {
    // SAFETY: `mallinfo2` takes the allocator's own locks, one arena after the other, and only reads.
    let seen = unsafe { libc::mallinfo2() };
    seen.uordblks.saturating_add(seen.hblkhd)
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::live_heap;

    /// The whole process is looked at, and the tests beside this one allocate and free as well: once in a few rounds they leave it alone.
    #[test]
    fn what_is_freed_counts_no_more() {
        let rounds: Vec<String> = (0..ROUNDS).map_while(|_| round().err()).collect();
        assert!(rounds.len() < ROUNDS, "{rounds:?}");
    }

    fn round() -> Result<(), String> {
        let heap = || live_heap().ok_or_else(|| "the heap is not told".to_owned());
        let before = heap()?;
        // Small pieces from the heap, and a large one with a mapping of its own.
        let pieces: Vec<Box<[u8; 1024]>> = (0..120_000).map(|_| Box::new([1; 1024])).collect();
        let large = vec![0u8; 256_000_000];
        let with = heap()?;
        drop((pieces, large));
        let after = heap()?;
        if with > before + 320_000_000 && after < before + 70_000_000 {
            Ok(())
        } else {
            Err(format!("{before} before, {with} with them, {after} after"))
        }
    }

    const ROUNDS: usize = 20;
}
