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
use zeroize::Zeroizing;

use crate::{
    provider::{ALPN_H2, ALPN_LANE},
    sealed::{EXPORTER, Opener, SECRET_LEN, SealError, Sealer},
};

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

    /// What both ends agreed to speak.
    pub fn protocol(&self) -> Option<InnerProtocol> {
        match self.inner.get_ref().1.alpn_protocol() {
            Some(ALPN_H2) => Some(InnerProtocol::Http2),
            Some(ALPN_LANE) => Some(InnerProtocol::Lane),
            _ => None,
        }
    }

    /// Takes the connection over from TLS: from here on its bytes are sealed records, with keys that only its two ends have.
    ///
    /// The peer must do the same, and neither may have sent anything by TLS; the server sends first, so that nothing lies in the
    /// TLS library's buffers.
    ///
    /// # Errors
    /// The keys cannot be made.
    pub fn into_sealed(self) -> Result<(IO, Sealer, Opener), SealError> {
        let secret = |sender: &[u8]| {
            let mut secret = Zeroizing::new([0_u8; SECRET_LEN]);
            match &*self.inner {
                tokio_rustls::TlsStream::Client(stream) => stream
                    .get_ref()
                    .1
                    .export_keying_material(secret.as_mut_slice(), EXPORTER, Some(sender)),
                tokio_rustls::TlsStream::Server(stream) => stream
                    .get_ref()
                    .1
                    .export_keying_material(secret.as_mut_slice(), EXPORTER, Some(sender)),
            }
            .map_err(|_| SealError)?;
            Ok::<_, SealError>(secret)
        };
        let (client, server) = (secret(b"client")?, secret(b"server")?);
        match *self.inner {
            tokio_rustls::TlsStream::Client(stream) => Ok((
                stream.into_inner().0,
                Sealer::new(&client)?,
                Opener::new(&server)?,
            )),
            tokio_rustls::TlsStream::Server(stream) => Ok((
                stream.into_inner().0,
                Sealer::new(&server)?,
                Opener::new(&client)?,
            )),
        }
    }
}

/// What is spoken inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InnerProtocol {
    /// HTTP/2: HBONE between workloads, gRPC to the control plane.
    Http2,
    /// `tulle/1`: sealed records between two proxies of this mesh.
    Lane,
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
