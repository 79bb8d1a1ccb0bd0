//! A TLS connection as a byte stream.
//!
//! Writes may stay in a buffer until `flush`; `shutdown` sends `close_notify` before it closes the stream beneath, and a
//! stream that ends without the peer's `close_notify` reads as an error (`UnexpectedEof`), never as an end.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An established TLS connection over `IO`.
pub struct TlsStream<IO> {
    /// More than a kilobyte of state, on the heap: streams are moved about and held in other futures.
    inner: Box<tokio_rustls::TlsStream<IO>>,
}

impl<IO> TlsStream<IO> {
    pub(crate) fn new(inner: impl Into<tokio_rustls::TlsStream<IO>>) -> Self {
        TlsStream {
            inner: Box::new(inner.into()),
        }
    }

    /// The stream beneath, to look at (addresses, file descriptor). Bytes taken from it are lost to TLS.
    pub fn io(&self) -> &IO {
        self.inner.get_ref().0
    }

    /// Whether the peer agreed to HTTP/2.
    pub(crate) fn speaks_h2(&self) -> bool {
        self.inner.get_ref().1.alpn_protocol() == Some(crate::provider::ALPN_H2)
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.inner.as_mut()).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.inner.as_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.inner.as_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner.as_mut()).poll_shutdown(cx)
    }
}
