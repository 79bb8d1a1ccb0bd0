//! The TCP connection under a tunnel's TLS: few large reads, few large writes.
//!
//! TLS and HTTP/2 read and write in small pieces. Here one read fills a large buffer from which TLS is served, and everything that
//! one turn of the tunnel writes leaves in one system call. Buffers are held only while there is something in them.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::pump::{BufferClass, BufferPool, PooledBuffer};

/// A TCP connection that reads and writes much at once.
#[derive(Debug)]
pub(crate) struct TunnelIo {
    reader: OwnedReadHalf,
    buffers: Arc<BufferPool>,
    class: BufferClass,
    held: Option<Held>,
    writer: TunnelWriter,
}

/// The writing side of a [`TunnelIo`], for whoever drives the tunnel.
#[derive(Debug, Clone)]
pub(crate) struct TunnelWriter {
    shared: Arc<Writer>,
}

#[derive(Debug)]
struct Writer {
    socket: OwnedWriteHalf,
    buffers: Arc<BufferPool>,
    /// `flush` leaves the bytes to the driver.
    is_driven: AtomicBool,
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    buffer: PooledBuffer,
    start: usize,
    end: usize,
}

impl TunnelIo {
    pub(crate) fn new(stream: TcpStream, buffers: Arc<BufferPool>) -> Self {
        let (reader, socket) = stream.into_split();
        let shared = Writer {
            socket,
            buffers: Arc::clone(&buffers),
            is_driven: AtomicBool::new(false),
            held: Mutex::new(None),
        };
        let writer = TunnelWriter {
            shared: Arc::new(shared),
        };
        TunnelIo {
            reader,
            buffers,
            class: BufferClass::Small,
            held: None,
            writer,
        }
    }

    /// The connection, to look at and to set up.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.reader.as_ref()
    }

    /// The connection itself, when nothing is held on its way in or out.
    ///
    /// # Errors
    /// Something is held, or somebody else has the writing side.
    pub(crate) fn into_socket(self) -> io::Result<TcpStream> {
        let writer = Arc::into_inner(self.writer.shared);
        let (None, Some(writer)) = (self.held, writer) else {
            return Err(ErrorKind::InvalidData.into());
        };
        let is_empty = writer
            .held
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none();
        let socket = self.reader.reunite(writer.socket);
        socket
            .ok()
            .filter(|_| is_empty)
            .ok_or_else(|| ErrorKind::InvalidData.into())
    }

    /// The writing side.
    pub(crate) fn writer(&self) -> TunnelWriter {
        self.writer.clone()
    }

    /// Moves held bytes to the caller; gives the buffer back once it is empty.
    fn serve(&mut self, target: &mut ReadBuf<'_>) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        let bytes = held.bytes();
        let len = bytes.len().min(target.remaining());
        target.put_slice(bytes.get(..len).unwrap_or_default());
        held.start += len;
        if held.start >= held.end {
            self.held = None;
        }
        true
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.serve(target) {
            return Poll::Ready(Ok(()));
        }
        // Readiness first: no buffer is taken for a socket that has nothing.
        ready!(this.reader.as_ref().poll_read_ready(cx))?;
        let mut buffer = this.buffers.take(this.class);
        let mut window = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut this.reader).poll_read(cx, &mut window))?;
        let end = window.filled().len();
        this.class = if end >= BufferClass::Small.size() {
            BufferClass::Large
        } else {
            BufferClass::Small
        };
        if end > 0 {
            this.held = Some(Held {
                buffer,
                start: 0,
                end,
            });
            this.serve(target);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writer.poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writer.poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writer.shared.is_driven.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        self.writer.poll_write_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.writer.poll_write_out(cx))?;
        let socket: &TcpStream = self.writer.shared.socket.as_ref();
        Poll::Ready(socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write))
    }
}

impl TunnelWriter {
    /// From now on `flush` leaves the writing to the caller, who must call [`TunnelWriter::poll_write_out`] after each turn of the tunnel.
    pub(crate) fn take_over(&self) {
        self.shared.is_driven.store(true, Relaxed);
    }

    /// Writes what is held; ready when nothing is.
    pub(crate) fn poll_write_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_out(cx, &mut self.lock())
    }

    fn write_out(&self, cx: &mut Context<'_>, held: &mut Option<Held>) -> Poll<io::Result<()>> {
        while let Some(pending) = held {
            let len = ready!(self.poll_socket(cx, &[IoSlice::new(pending.bytes())]))?;
            pending.start += len;
            if pending.start >= pending.end {
                *held = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes: holds them if they are few, else writes them.
    fn poll_take(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut held = self.lock();
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = BufferClass::Small.size() - held.as_ref().map_or(0, |held| held.end);
        if total > room {
            ready!(self.write_out(cx, &mut held))?;
        }
        if total > BufferClass::Small.size() {
            return self.poll_socket(cx, slices);
        }
        let held = held.get_or_insert_with(|| Held {
            buffer: self.shared.buffers.take(BufferClass::Small),
            start: 0,
            end: 0,
        });
        for slice in slices {
            let end = held.end + slice.len();
            if let Some(target) = held.buffer.get_mut(held.end..end) {
                target.copy_from_slice(slice);
                held.end = end;
            }
        }
        Poll::Ready(Ok(total))
    }

    fn poll_socket(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let socket = &self.shared.socket;
        loop {
            ready!(socket.as_ref().poll_write_ready(cx))?;
            match socket.try_write_vectored(slices) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.shared
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
