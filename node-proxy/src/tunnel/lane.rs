//! A lane: one proven connection to another proxy of this mesh, which carries one application's connection at a time, then the next.
//!
//! HBONE puts all connections of two pods into one stream of HTTP/2 frames: each byte is copied from frame to record to frame, each
//! connection waits for the others' bytes, and three tasks on two nodes wake each other. A lane has none of that. Its buffers are
//! read and written by the very task that holds the application's socket; records are sealed and opened in place; a reader that
//! stops stops its own lane, by TCP's own window. A lane is not closed with the connection that it carried, so a new connection
//! costs no handshake.
//!
//! Nothing here decides who may connect: [`super::pool`] lends lanes, `inbound` judges what they ask for.

mod error;
mod frame;
mod inbox;
mod record;
mod stream;

use std::{
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
};
use tulle_identity::{Opener, SEAL_LEN, Sealer, Term, TlsStream};

pub(crate) use error::LaneError;
pub(crate) use frame::{Kind, PREFACE_LEN_MAX, ParsePrefaceError, Preface};
pub(crate) use inbox::PLAIN_MAX;
pub(crate) use record::{CONTENT_LEN_MAX, slots};
pub use stream::LaneStream;
pub(crate) use stream::{LaneHome, Opened};

use inbox::Inbox;
use record::{CONTENT_START, FRAME_LEN_MAX, HEADER_LEN, seal};

use super::{io::TunnelIo, pace::Pace};
use crate::{
    plane::{GaugeGuard, Plane, Transport, TunnelSide},
    pump::{BufferClass, BufferPool, PooledBuffer},
};

/// One connection between two proxies, on which sessions follow each other.
#[derive(Debug)]
pub(crate) struct Lane {
    socket: TcpStream,
    sealer: Sealer,
    opener: Opener,
    buffers: Arc<BufferPool>,
    inbox: Inbox,
    outbox: Option<Outbox>,
    /// The number of the present session, or of the last.
    session: u32,
    sent_end: bool,
    received_end: Option<LaneEnd>,
    /// The end of the certificates that its two ends proved.
    term: Term,
    /// Watches whether it has to be paced; `None` once it is, or where nothing is.
    pace: Option<Pace>,
    _counted: GaugeGuard,
}

/// How the peer ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneEnd {
    /// Its application finished.
    Finished,
    /// Its application reset.
    Reset,
}

/// Sealed records that the socket has not taken.
#[derive(Debug)]
struct Outbox {
    buffer: PooledBuffer,
    start: usize,
    end: usize,
}

impl Lane {
    /// Takes over a TLS connection whose ends agreed on `tulle/1`.
    pub(crate) fn new(
        tls: TlsStream<TunnelIo>,
        term: Term,
        plane: &Plane,
        side: TunnelSide,
    ) -> Result<Box<Self>, LaneError> {
        let counted = plane.metrics.tunnel_guard(side, Transport::Lane);
        let (io, sealer, opener) = tls.into_sealed()?;
        let congestion = plane.settings.congestion;
        let pace = congestion
            .and_then(|congestion| Pace::of(io.socket(), congestion, &plane.metrics, side));
        Ok(Box::new(Lane {
            socket: io.into_socket().map_err(LaneError::Io)?,
            sealer,
            opener,
            buffers: Arc::clone(&plane.shared.buffers),
            inbox: Inbox::default(),
            outbox: None,
            session: 0,
            sent_end: true,
            received_end: Some(LaneEnd::Finished),
            term,
            pace,
            _counted: counted,
        }))
    }

    /// Begins a session.
    pub(crate) fn begin(&mut self, session: u32) {
        self.session = session;
        self.sent_end = false;
        self.received_end = None;
    }

    /// Ends the session without a word: the peer knows.
    pub(crate) fn end_refused(&mut self) {
        self.sent_end = true;
        self.received_end = Some(LaneEnd::Finished);
    }

    pub(crate) fn session(&self) -> u32 {
        self.session
    }

    /// Whether the last session is over on both sides, so that another may begin.
    pub(crate) fn is_free(&self) -> bool {
        self.is_over() && self.outbox.is_none() && self.inbox.plain_len == 0
    }

    /// Until when sessions may begin on it.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// For the client, of a free lane: nothing has come, and the peer has not closed.
    pub(crate) fn is_silent(&mut self) -> bool {
        let nothing = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.inbox.start == self.inbox.end
            && self
                .socket
                .try_read(&mut [0; 1])
                .is_err_and(|e| nothing(&e))
    }

    pub(crate) fn received_end(&self) -> Option<LaneEnd> {
        self.received_end
    }

    pub(crate) fn has_sent_end(&self) -> bool {
        self.sent_end
    }

    fn is_over(&self) -> bool {
        self.sent_end && self.received_end.is_some()
    }

    /// Waits until something has come that was not looked at.
    pub(crate) fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        if self.inbox.start < self.inbox.end {
            return Poll::Ready(Ok(()));
        }
        self.poll_fill(cx)
    }

    /// The next frame that is not of a session's bytes, and its content.
    pub(crate) fn poll_control(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Control, LaneError>> {
        loop {
            if let Some((kind, content)) = self.open_next()? {
                let control = self.control(kind, content);
                self.inbox.release();
                match control {
                    Ok(None) => continue,
                    Ok(Some(control)) => return Poll::Ready(Ok(control)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    fn control(&self, kind: Kind, content: Range<usize>) -> Result<Option<Control>, LaneError> {
        let bytes = self.inbox.bytes(content);
        Ok(Some(match kind {
            Kind::Ready => Control::Ready,
            Kind::Open => Control::Open(Preface::parse(bytes)?),
            Kind::Accept => Control::Accept,
            Kind::Refuse => Control::Refuse(bytes.first().copied().unwrap_or_default()),
            // A word about a session that this end knows to be over.
            Kind::Reset if self.is_over() || session_of(bytes) != Some(self.session) => {
                return Ok(None);
            }
            Kind::Data | Kind::DataEnd | Kind::Reset => return Err(LaneError::Unexpected(kind)),
        }))
    }

    /// Waits until there are bytes for the application, or the session's end.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        loop {
            self.open_arrived()?;
            if self.inbox.plain_len > 0 || self.received_end.is_some() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Waits for what may still come after the peer finished: its reset.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        loop {
            while let Some((kind, content)) = self.open_next()? {
                let number = session_of(self.inbox.bytes(content));
                self.inbox.release();
                if kind != Kind::Reset {
                    return Poll::Ready(Err(LaneError::Unexpected(kind)));
                }
                if number == Some(self.session) {
                    self.received_end = Some(LaneEnd::Reset);
                    return Poll::Ready(Ok(()));
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Opens what has come, as far as there is room to remember it.
    fn open_arrived(&mut self) -> Result<(), LaneError> {
        while self.inbox.plain_len < PLAIN_MAX && self.received_end.is_none() {
            let Some((kind, content)) = self.open_next()? else {
                break;
            };
            match kind {
                Kind::Data => self.inbox.push(content),
                Kind::DataEnd => {
                    self.inbox.push(content);
                    self.received_end = Some(LaneEnd::Finished);
                }
                Kind::Reset => {
                    if session_of(self.inbox.bytes(content)) == Some(self.session) {
                        self.received_end = Some(LaneEnd::Reset);
                    }
                }
                Kind::Ready | Kind::Open | Kind::Accept | Kind::Refuse => {
                    return Err(LaneError::Unexpected(kind));
                }
            }
        }
        if self.inbox.plain_len == 0 {
            self.inbox.release();
        }
        Ok(())
    }

    /// Opens one record, if a whole one has come.
    fn open_next(&mut self) -> Result<Option<(Kind, Range<usize>)>, LaneError> {
        let Inbox {
            buffer, start, end, ..
        } = &mut self.inbox;
        let Some(arrived) = buffer.as_mut().and_then(|b| b.get_mut(*start..*end)) else {
            return Ok(None);
        };
        let Some((header, rest)) = arrived.split_first_chunk_mut::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*header));
        if !(1 + SEAL_LEN..=FRAME_LEN_MAX - HEADER_LEN).contains(&len) {
            return Err(LaneError::Length(len));
        }
        let Some(sealed) = rest.get_mut(..len) else {
            return Ok(None);
        };
        let opened = self.opener.open(header, sealed)?;
        let kind = sealed.first().copied().unwrap_or_default();
        let kind = Kind::of(kind).ok_or(LaneError::UnknownKind(kind))?;
        let first = *start + HEADER_LEN;
        *start = first + len;
        Ok(Some((kind, first + 1..first + opened)))
    }

    /// Reads what the socket has.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        // Readiness first: no buffer is taken for a socket that has nothing.
        ready!(self.socket.poll_read_ready(cx)).map_err(LaneError::Io)?;
        self.inbox.make_room(&self.buffers);
        let Inbox { buffer, end, .. } = &mut self.inbox;
        let room = buffer.as_mut().and_then(|b| b.get_mut(*end..));
        let mut window = ReadBuf::new(room.unwrap_or_default());
        let wanted = window.remaining();
        let read = Pin::new(&mut self.socket).poll_read(cx, &mut window);
        let len = window.filled().len();
        match read {
            Poll::Ready(Ok(())) if len == 0 => Poll::Ready(Err(LaneError::Closed)),
            Poll::Ready(Ok(())) => {
                *end += len;
                self.inbox.adapt(len, wanted);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(LaneError::Io(error))),
            Poll::Pending => {
                self.inbox.release();
                Poll::Pending
            }
        }
    }

    /// The bytes that wait for the application.
    pub(crate) fn arrived<'a>(&'a self, slices: &mut [io::IoSlice<'a>; PLAIN_MAX]) -> usize {
        let inbox = &self.inbox;
        let ranges = inbox.plain.iter().skip(inbox.plain_first);
        let mut count = 0;
        for (slot, range) in slices.iter_mut().zip(ranges.take(inbox.plain_len)) {
            *slot = io::IoSlice::new(inbox.bytes(range.clone()));
            count += 1;
        }
        count
    }

    /// The application has taken `len` bytes.
    pub(crate) fn consume(&mut self, mut len: usize) {
        let inbox = &mut self.inbox;
        while inbox.plain_len > 0 {
            let Some(range) = inbox.plain.get_mut(inbox.plain_first) else {
                break;
            };
            if len < range.len() {
                range.start += len;
                return;
            }
            len -= range.len();
            inbox.plain_first += 1;
            inbox.plain_len -= 1;
        }
        inbox.plain_first = 0;
        inbox.release();
    }

    /// Forgets what waits for the application.
    pub(crate) fn discard_arrived(&mut self) {
        self.inbox.plain_len = 0;
        self.inbox.plain_first = 0;
        self.inbox.release();
    }

    /// Ready when the socket has taken everything.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        while let Some(outbox) = &mut self.outbox {
            ready!(self.socket.poll_write_ready(cx)).map_err(LaneError::Io)?;
            match self.socket.try_write(outbox.bytes()) {
                Ok(len) => outbox.start += len,
                Err(e) if retries(&e) => {}
                Err(e) => return Poll::Ready(Err(LaneError::Io(e))),
            }
            if outbox.start >= outbox.end {
                self.outbox = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Seals a word of the protocol; it leaves with the next flush.
    pub(crate) fn say(&mut self, kind: Kind, content: &[u8]) -> Result<(), LaneError> {
        let mut outbox = self.outbox.take().unwrap_or_else(|| Outbox {
            buffer: self.buffers.take(BufferClass::Small),
            start: 0,
            end: 0,
        });
        let room = outbox.buffer.get_mut(outbox.end..).unwrap_or_default();
        let payload = room.get_mut(CONTENT_START..CONTENT_START + content.len());
        // Callers flush before they say more, so there is room for all words of one turn.
        payload
            .ok_or(LaneError::Length(content.len()))?
            .copy_from_slice(content);
        outbox.end += seal(&mut self.sealer, room, kind, content.len())?;
        self.outbox = Some(outbox);
        if kind == Kind::Reset {
            self.sent_end = true;
        }
        Ok(())
    }

    /// Seals the first `len` content bytes of `buffer`, which was filled slot by slot (see [`slots`]), and writes what the socket
    /// takes. Only after a complete flush.
    pub(crate) fn send(
        &mut self,
        mut buffer: PooledBuffer,
        len: usize,
        finished: bool,
    ) -> Result<(), LaneError> {
        let mut rest = len;
        let mut end = 0;
        for frame in buffer.chunks_exact_mut(FRAME_LEN_MAX) {
            let content = rest.min(CONTENT_LEN_MAX);
            rest -= content;
            let kind = match finished && rest == 0 {
                true => Kind::DataEnd,
                false => Kind::Data,
            };
            end += seal(&mut self.sealer, frame, kind, content)?;
            if rest == 0 {
                break;
            }
        }
        self.sent_end |= finished;
        let mut outbox = Outbox {
            buffer,
            start: 0,
            end,
        };
        match self.socket.try_write(outbox.bytes()) {
            Ok(written) => outbox.start = written,
            Err(e) if retries(&e) => {}
            Err(e) => return Err(LaneError::Io(e)),
        }
        if outbox.start < outbox.end {
            self.outbox = Some(outbox);
        }
        if let Some(pace) = &mut self.pace
            && !pace.sent(&self.socket, end)
        {
            self.pace = None;
        }
        Ok(())
    }

    pub(crate) fn buffers(&self) -> &Arc<BufferPool> {
        &self.buffers
    }
}

/// A word of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Ready,
    Open(Preface),
    Accept,
    Refuse(u8),
}

impl Control {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Control::Ready => Kind::Ready,
            Control::Open(_) => Kind::Open,
            Control::Accept => Kind::Accept,
            Control::Refuse(_) => Kind::Refuse,
        }
    }
}

impl Outbox {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

fn session_of(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

fn retries(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
