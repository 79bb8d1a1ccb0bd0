//! Buffers that connections take when there is something to carry and give back at once.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How much a reader expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BufferClass {
    /// Messages.
    #[default]
    Small,
    /// A stream in full flow.
    Large,
}

impl BufferClass {
    /// The size of a buffer of the class.
    pub const fn size(self) -> usize {
        match self {
            BufferClass::Small => 16 * 1024,
            BufferClass::Large => 128 * 1024,
        }
    }

    /// How many unused buffers are kept: enough that a busy node does not allocate, little beside the memory of the process.
    const fn kept_max(self) -> usize {
        match self {
            BufferClass::Small => 64,
            BufferClass::Large => 24,
        }
    }
}

/// The buffers that nobody uses now.
#[derive(Debug, Default)]
pub struct BufferPool {
    small: Mutex<Shelf>,
    large: Mutex<Shelf>,
}

impl BufferPool {
    /// A buffer of the class; its content is whatever it last held.
    pub fn take(self: &Arc<Self>, class: BufferClass) -> PooledBuffer {
        let kept = self.shelf(class).pop();
        let bytes = kept.unwrap_or_else(|| vec![0; class.size()].into_boxed_slice());
        PooledBuffer {
            bytes,
            class,
            pool: Arc::clone(self),
        }
    }

    /// Frees the buffers that were not needed since the last call. Called now and then.
    pub fn trim(&self) {
        for class in [BufferClass::Small, BufferClass::Large] {
            let unneeded = self.shelf(class).split_unneeded();
            drop(unneeded);
        }
    }

    /// How many unused buffers are kept.
    pub fn kept(&self) -> usize {
        self.shelf(BufferClass::Small).buffers.len() + self.shelf(BufferClass::Large).buffers.len()
    }

    fn shelf(&self, class: BufferClass) -> MutexGuard<'_, Shelf> {
        let shelf = match class {
            BufferClass::Small => &self.small,
            BufferClass::Large => &self.large,
        };
        shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer in use; it returns to its pool on drop.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Box<[u8]>,
    class: BufferClass,
    pool: Arc<BufferPool>,
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let refused = self
            .pool
            .shelf(self.class)
            .push(bytes, self.class.kept_max());
        // Freed outside the lock.
        drop(refused);
    }
}

#[derive(Debug, Default)]
struct Shelf {
    buffers: Vec<Box<[u8]>>,
    /// The fewest buffers that lay here since the last trim: these were not needed.
    fewest: usize,
}

impl Shelf {
    fn pop(&mut self) -> Option<Box<[u8]>> {
        let buffer = self.buffers.pop();
        self.fewest = self.fewest.min(self.buffers.len());
        buffer
    }

    fn push(&mut self, buffer: Box<[u8]>, kept_max: usize) -> Option<Box<[u8]>> {
        if self.buffers.len() >= kept_max {
            return Some(buffer);
        }
        self.buffers.push(buffer);
        None
    }

    fn split_unneeded(&mut self) -> Vec<Box<[u8]>> {
        let keep = self.buffers.len().saturating_sub(self.fewest);
        let unneeded = self.buffers.split_off(keep);
        self.fewest = self.buffers.len();
        unneeded
    }
}
