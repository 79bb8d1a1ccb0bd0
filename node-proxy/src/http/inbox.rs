//! What one side has sent and nobody has taken yet. An idle connection holds almost nothing.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// The reading end of one side.
#[derive(Debug)]
pub(super) struct Inbox<R> {
    reader: R,
    bytes: BytesMut,
    /// How much is read at once: little at first, more while the side fills it.
    piece: usize,
    is_finished: bool,
}

impl<R: AsyncRead + Unpin> Inbox<R> {
    pub(super) fn new(reader: R) -> Self {
        Inbox {
            reader,
            bytes: BytesMut::new(),
            piece: PIECE_LEN_MIN,
            is_finished: false,
        }
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn take(&mut self, len: usize) {
        self.bytes.advance(len.min(self.bytes.len()));
    }

    /// Gives the memory back while nothing is expected.
    pub(super) fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.piece = PIECE_LEN_MIN;
        }
    }

    /// Waits for more bytes; how many came, 0 for the end.
    ///
    /// # Cancel safety
    /// Bytes that came stay.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        tokio::task::consume_budget().await;
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_finished {
            return Poll::Ready(Ok(0));
        }
        self.bytes.reserve(self.piece);
        let mut room = (&mut self.bytes).limit(self.piece);
        let read = poll_read_buf(Pin::new(&mut self.reader), cx, &mut room);
        let len = ready!(read)?;
        if len == 0 {
            self.is_finished = true;
        }
        if len == self.piece {
            self.piece = (self.piece * 2).min(PIECE_LEN_MAX);
        }
        Poll::Ready(Ok(len))
    }

    /// What is left, and the rest of the stream.
    pub(super) fn into_parts(self) -> (BytesMut, R) {
        (self.bytes, self.reader)
    }
}

const PIECE_LEN_MIN: usize = 2 * 1024;
const PIECE_LEN_MAX: usize = 64 * 1024;
