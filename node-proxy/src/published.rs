//! The only swap primitive: immutable snapshots, published whole.
//!
//! A writer builds the next value off-lock and swaps one `Arc`; a reader takes a snapshot and decides from it, however long
//! that takes. Nothing here merges, edits or compares values.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// The writing end: one owner, never cloned.
///
/// **Invariant:** a reader sees values in the order in which they were published, and never a mixture of two (test
/// `readers_see_whole_values_in_order`).
#[derive(Debug)]
pub struct Publisher<T> {
    value: Arc<ArcSwap<T>>,
    generation: watch::Sender<u64>,
}

impl<T> Publisher<T> {
    /// Starts with `initial` as the first snapshot.
    pub fn new(initial: T) -> Self {
        Publisher::from_arc(Arc::new(initial))
    }

    /// As [`Publisher::new`], for a value that is shared already.
    pub fn from_arc(initial: Arc<T>) -> Self {
        let (generation, _) = watch::channel(0);
        Publisher {
            value: Arc::new(ArcSwap::new(initial)),
            generation,
        }
    }

    /// Swaps in the next value and wakes whoever waits.
    pub fn publish(&self, next: T) {
        self.publish_arc(Arc::new(next));
    }

    /// As [`Publisher::publish`], for a value that is shared already.
    pub fn publish_arc(&self, next: Arc<T>) {
        self.value.store(next);
        // The value goes first: who sees the new generation sees at least this value.
        self.generation.send_modify(|g| *g = g.wrapping_add(1));
    }

    /// What readers see now.
    pub fn snapshot(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// A reading end.
    pub fn subscribe(&self) -> Published<T> {
        Published {
            value: Arc::clone(&self.value),
            generation: self.generation.subscribe(),
        }
    }
}

/// A reading end; clones are independent readers of the same value.
#[derive(Debug)]
pub struct Published<T> {
    value: Arc<ArcSwap<T>>,
    generation: watch::Receiver<u64>,
}

impl<T> Published<T> {
    /// A value that never changes, for wiring without a publisher.
    pub fn fixed(value: T) -> Self {
        Publisher::new(value).subscribe()
    }

    /// The value as it is now; hold it for one decision, not for ever.
    pub fn snapshot(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// Waits until a value satisfies `wanted` and returns it; the present value counts.
    ///
    /// # Errors
    /// [`PublisherGone`] when no value can follow because the publisher was dropped.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Arc<T>, PublisherGone> {
        loop {
            // Marked as seen before the look, so that a value published in between wakes the wait below.
            self.generation.borrow_and_update();
            let value = self.snapshot();
            if wanted(&value) {
                return Ok(value);
            }
            self.generation.changed().await.map_err(|_| PublisherGone)?;
        }
    }
}

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Published {
            value: Arc::clone(&self.value),
            generation: self.generation.clone(),
        }
    }
}

/// The publisher was dropped: no further value will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the publisher of this value is gone")]
pub struct PublisherGone;

#[cfg(test)]
mod tests;
