//! What a lane's socket gave: records to open, and opened bytes that the application has not taken.
//!
//! One buffer holds both: a record is opened where it lies, so its bytes are not moved until they are given away. The buffer is held only
//! while something is in it, as an idle connection shall cost nothing.

use std::{ops::Range, sync::Arc};

use crate::pump::{BufferClass, BufferPool, PooledBuffer};

/// What was read and not given away yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) buffer: Option<PooledBuffer>,
    pub(super) class: BufferClass,
    /// The records that were not opened yet.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Opened bytes of the application, in order.
    pub(super) plain: [Range<usize>; PLAIN_MAX],
    pub(super) plain_first: usize,
    pub(super) plain_len: usize,
}

impl Inbox {
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        let buffer = self.buffer.as_ref();
        buffer.and_then(|b| b.get(range)).unwrap_or_default()
    }

    pub(super) fn push(&mut self, content: Range<usize>) {
        if let Some(slot) = self.plain.get_mut(self.plain_first + self.plain_len)
            && !content.is_empty()
        {
            *slot = content;
            self.plain_len += 1;
        }
    }

    /// Gives the buffer back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.start == self.end && self.plain_len == 0 {
            self.buffer = None;
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves the beginning of a record to the front, into a buffer of the present class.
    pub(super) fn make_room(&mut self, buffers: &Arc<BufferPool>) {
        let rest = self.start..self.end;
        let len = rest.len();
        match &mut self.buffer {
            Some(buffer) if buffer.len() >= self.class.size() => buffer.copy_within(rest, 0),
            held => {
                let mut buffer = buffers.take(self.class);
                let old = held.as_ref().and_then(|b| b.get(rest));
                if let (Some(to), Some(from)) = (buffer.get_mut(..len), old) {
                    to.copy_from_slice(from);
                }
                *held = Some(buffer);
            }
        }
        (self.start, self.end) = (0, len);
    }

    /// A full read announces a stream; a short one its end.
    pub(super) fn adapt(&mut self, len: usize, wanted: usize) {
        if len == wanted {
            self.class = BufferClass::Large;
        } else if self.end < BufferClass::Small.size() / 2 {
            self.class = BufferClass::Small;
        }
    }
}

/// Pieces that are opened before the application takes them; a large buffer of full frames has eight or nine.
pub(crate) const PLAIN_MAX: usize = 16;
