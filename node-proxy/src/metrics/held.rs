//! What the program itself holds: live memory of its heap, and tasks.
//!
//! Resident memory says what the kernel lent, and the allocator gives little of that back: what a connection, a tunnel or a pod needs shows
//! only in what is allocated and not freed. Peers leave that to a profiler.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};
use tokio::runtime::Handle;

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
        let mut gauge = |name: &str, help: &str, value: i64| {
            let metric = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(encoder)
        };
        if let Some(live) = live_heap() {
            gauge(
                "process_heap_live_bytes",
                "Memory of the heap that is allocated and not freed",
                i64::try_from(live).unwrap_or(i64::MAX),
            )?;
        }
        let tasks = self.runtime.metrics().num_alive_tasks();
        gauge(
            "process_tasks",
            "Tasks of the data plane that have not ended",
            i64::try_from(tasks).unwrap_or(i64::MAX),
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

    #[test]
    fn what_is_freed_counts_no_more() {
        // Small pieces from the heap, and a large one with a mapping of its own. Tests beside this one need some 40 MB.
        let before = live_heap().unwrap();
        let pieces: Vec<Box<[u8; 1024]>> = (0..120_000).map(|_| Box::new([1; 1024])).collect();
        let large = vec![0u8; 256_000_000];
        let with = live_heap().unwrap();
        assert!(
            with > before + 320_000_000,
            "{before} before, {with} with them"
        );
        drop((pieces, large));
        let after = live_heap().unwrap();
        assert!(
            after < before + 70_000_000,
            "{before} before, {after} after"
        );
    }
}
