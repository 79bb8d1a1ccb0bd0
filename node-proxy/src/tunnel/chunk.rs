//! Bytes on their way into a tunnel.

use std::sync::Arc;

use bytes::Buf;

use super::load::StreamLoad;
use crate::pump::PooledBuffer;

/// One piece of a stream. Its buffer returns to the pool when the tunnel has written it.
#[derive(Debug)]
pub struct Chunk {
    body: Body,
    start: usize,
    end: usize,
    /// Who is told when the piece has left.
    sender: Option<(Arc<StreamLoad>, usize)>,
}

impl Chunk {
    /// The first `len` bytes of `buffer`.
    ///
    /// A short piece is copied out, so that a trickle of small messages never holds a large buffer each.
    pub fn new(buffer: PooledBuffer, len: usize) -> Self {
        let end = len.min(buffer.len());
        let body = if end <= COPIED_LEN_MAX {
            Body::Owned(buffer.get(..end).unwrap_or_default().into())
        } else {
            Body::Pooled(buffer)
        };
        Chunk {
            body,
            start: 0,
            end,
            sender: None,
        }
    }

    /// Accounts the piece to its stream until it is dropped.
    pub(super) fn account_to(&mut self, load: &Arc<StreamLoad>) {
        let len = self.remaining();
        if len > 0 {
            load.add_unsent(len);
            self.sender = Some((Arc::clone(load), len));
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.end - self.start
    }

    fn chunk(&self) -> &[u8] {
        let bytes: &[u8] = match &self.body {
            Body::Pooled(buffer) => buffer,
            Body::Owned(bytes) => bytes,
        };
        bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        assert!(
            count <= self.remaining(),
            "advanced past the end of a chunk"
        );
        self.start += count;
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some((load, len)) = self.sender.take() {
            load.sub_unsent(len);
        }
    }
}

#[derive(Debug)]
enum Body {
    Pooled(PooledBuffer),
    Owned(Box<[u8]>),
}

const COPIED_LEN_MAX: usize = 4096;
