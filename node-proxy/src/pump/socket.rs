//! An application's socket, with the endings that applications must be shown.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::Shutdown,
    os::fd::AsFd,
    task::{Context, Poll},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::RecvFlags,
};
use socket2::SockRef;
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, sleep},
};

use super::JoinEnds;
use crate::{
    netns::sys::{self, Received, receive},
    tunnel::slots,
};

/// The proxy's socket to an application.
///
/// **Invariant:** closing it resets the connection, unless [`AppSocket::finish`] was called: the socket has a linger time of zero
/// from its first moment (test `a_dropped_connection_is_reset`).
#[derive(Debug)]
pub struct AppSocket {
    stream: TcpStream,
}

/// Why filling a buffer stopped.
#[derive(Debug)]
pub(super) enum FillEnd {
    /// There is no more at the moment.
    Empty,
    /// The buffer is full.
    Full,
    /// The application finished.
    Finished,
    /// The application reset, or its side broke.
    Broken,
}

impl AppSocket {
    /// Takes over a socket made for [`SocketPurpose::Application`](crate::netns::SocketPurpose), or accepted from such a listener.
    pub fn new(stream: TcpStream) -> Self {
        AppSocket { stream }
    }

    /// Resolves when the connection is broken (a reset, a timeout), never for a clean end.
    pub async fn broken(&self) {
        // An error of the readiness itself means that the runtime shuts down; the connection ends with it.
        let _ready = self.stream.ready(Interest::ERROR).await;
    }

    /// Resolves when the application has closed its end, or the connection is broken; what it sent stays unread and throttles it.
    pub(crate) async fn given_up(&self) {
        while let Ok(ready) = self
            .stream
            .ready(Interest::READABLE | Interest::ERROR)
            .await
        {
            if ready.is_read_closed() || ready.is_error() {
                return;
            }
            // Waits for the next event, without a look at what is there.
            let _forgotten: io::Result<()> = self
                .stream
                .try_io(Interest::READABLE, || Err(ErrorKind::WouldBlock.into()));
        }
    }

    /// Whether the application sent bytes that were not read yet. On a broken connection the answer may take the error away, so only
    /// a "yes" leaves the socket fit for use.
    pub(crate) fn has_unread(&self) -> bool {
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(
            rustix::net::recv(&self.stream, &mut byte, flags),
            Ok((1.., _))
        )
    }

    /// Both ends of the connection, unless it is broken.
    pub(super) fn ends(&self) -> Option<JoinEnds> {
        Some(JoinEnds {
            proxy: self.stream.local_addr().ok()?,
            application: self.stream.peer_addr().ok()?,
        })
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    /// Reads what the kernel gives at once. Less than the buffer holds does not mean that nothing is left.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = self.read(&mut [IoSliceMut::new(buffer)])?;
        Ok(received.len)
    }

    /// Reads until the buffer is full or the socket is empty.
    pub(super) fn fill(&self, buffer: &mut [u8]) -> (usize, FillEnd) {
        let mut filled = 0;
        loop {
            let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) else {
                return (filled, FillEnd::Full);
            };
            if let Some(end) = settle(&mut filled, self.read(&mut [IoSliceMut::new(rest)])) {
                return (filled, end);
            }
        }
    }

    /// The same, into the places where a lane's records keep their contents.
    pub(super) fn fill_slots(&self, buffer: &mut [u8]) -> (usize, FillEnd) {
        let mut filled = 0;
        loop {
            let mut slices: [IoSliceMut<'_>; SLOTS_MAX] =
                std::array::from_fn(|_| IoSliceMut::new(&mut []));
            let mut count = 0;
            let mut skip = filled;
            for (slot, slice) in slots(buffer).zip(&mut slices) {
                let len = slot.len();
                match slot.get_mut(skip..) {
                    Some(rest) if !rest.is_empty() => {
                        *slice = IoSliceMut::new(rest);
                        skip = 0;
                    }
                    _ => skip -= len,
                }
                count += 1;
            }
            let first = slices.iter().take(count).position(|s| !s.is_empty());
            let Some(rest) = first.and_then(|first| slices.get_mut(first..count)) else {
                return (filled, FillEnd::Full);
            };
            if let Some(end) = settle(&mut filled, self.read(rest)) {
                return (filled, end);
            }
        }
    }

    /// Reads once.
    ///
    /// A short read says nothing: a socket that the kernel joined to another holds two queues, and urgent data cut a read in two. So
    /// the kernel is asked to say what is left; when that is nothing, the runtime is told so within the look at its readiness, and
    /// whatever comes meanwhile is an event that it does not forget.
    fn read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<Received> {
        let mut received = None;
        let outcome = self.stream.try_io(Interest::READABLE, || {
            let got = receive(&self.stream, slices)?;
            received = Some(got);
            match got.is_last() {
                true => Err(ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        });
        match (received, outcome) {
            (Some(received), _) => Ok(received),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes what fits.
    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.stream.try_write_vectored(slices) {
            // While the kernel takes the socket out of a join (the application's half-close), one write may fail although the
            // connection is open for sending; the next goes by TCP.
            Err(e) if e.kind() == ErrorKind::BrokenPipe && self.is_open_for_sending() => {
                self.stream.try_write_vectored(slices)
            }
            result => result,
        }
    }

    /// Tells the application that no more bytes will come.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match SockRef::from(&self.stream).shutdown(Shutdown::Write) {
            // The application is gone already; reading will say how.
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Closes a connection that ended well.
    pub fn finish(self) {
        // If this fails the application sees a reset after its last byte: strange, but nothing is lost.
        if let Err(error) = SockRef::from(&self.stream).set_linger(None) {
            tracing::debug!(%error, "a socket's linger time cannot be taken away");
        }
    }

    /// Resets the connection once the application's kernel has everything that was written, or when `patience` ends.
    pub async fn reset(self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut pause = FLUSH_LOOK_FIRST;
        // The kernel has no event for "all acknowledged"; the first look almost always finds it so.
        while sys::unacknowledged_len(&self.stream).is_ok_and(|len| len > 0) {
            if Instant::now() >= end {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(FLUSH_LOOK_MAX);
        }
    }

    /// Neither broken nor shut: the kernel says "hang-up" once a connection is closed both ways or aborted.
    fn is_open_for_sending(&self) -> bool {
        let descriptor = self.stream.as_fd();
        let mut fds = [PollFd::new(&descriptor, PollFlags::OUT)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(_) => fds
                .iter()
                .all(|f| !f.revents().intersects(PollFlags::HUP | PollFlags::ERR)),
            Err(_) => false,
        }
    }
}

/// Adds what a read gave; says why it is the last one for now, if it is.
fn settle(filled: &mut usize, read: io::Result<Received>) -> Option<FillEnd> {
    match read {
        Ok(received) => {
            *filled += received.len;
            match received.len {
                0 => Some(FillEnd::Finished),
                _ => received.is_last().then_some(FillEnd::Empty),
            }
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => Some(FillEnd::Empty),
        Err(e) if e.kind() == ErrorKind::Interrupted => None,
        Err(_) => Some(FillEnd::Broken),
    }
}

/// Records in a large buffer.
const SLOTS_MAX: usize = 8;
const FLUSH_LOOK_FIRST: Duration = Duration::from_millis(1);
const FLUSH_LOOK_MAX: Duration = Duration::from_millis(50);
