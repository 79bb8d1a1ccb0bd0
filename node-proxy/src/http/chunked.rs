//! Chunked bodies: where each piece begins and ends.
//!
//! Sizes and trailers are written anew for the other side; extensions, which no server uses and parsers read differently, are
//! checked and left out.

use super::{
    error::BadRequest,
    head::{Field, field},
};

/// Follows a chunked body.
#[derive(Debug, Default)]
pub(super) struct ChunkDecoder {
    state: State,
    trailers_len: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// More bytes are needed.
    Incomplete,
    /// A chunk of this size begins; not zero.
    Size(u64),
    /// Bytes of a chunk.
    Data(&'a [u8]),
    /// The end of a chunk.
    DataEnd,
    /// The last chunk; trailers follow.
    Last,
    /// A trailer.
    Trailer(Field<'a>),
    /// The body is complete.
    End,
}

impl ChunkDecoder {
    /// Reads one piece, and says how many bytes it took.
    pub(super) fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        trailers_len_max: usize,
    ) -> Result<(usize, Piece<'a>), BadRequest> {
        match self.state {
            State::Size => {
                let Some((len, line)) = line(bytes, SIZE_LINE_LEN_MAX, BadRequest::Chunk)? else {
                    return Ok((0, Piece::Incomplete));
                };
                let size = size(line)?;
                let (state, piece) = match size {
                    0 => (State::Trailers, Piece::Last),
                    size => (State::Data(size), Piece::Size(size)),
                };
                self.state = state;
                Ok((len, piece))
            }
            State::Data(rest) => {
                let len = bytes.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
                if len == 0 {
                    return Ok((0, Piece::Incomplete));
                }
                self.state = match rest - len as u64 {
                    0 => State::DataEnd,
                    rest => State::Data(rest),
                };
                Ok((len, Piece::Data(bytes.get(..len).unwrap_or_default())))
            }
            State::DataEnd => match bytes {
                [] | [b'\r'] => Ok((0, Piece::Incomplete)),
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok((2, Piece::DataEnd))
                }
                _ => Err(BadRequest::Chunk),
            },
            State::Trailers => self.trailer(bytes, trailers_len_max),
            State::Done => Ok((0, Piece::End)),
        }
    }

    fn trailer<'a>(
        &mut self,
        bytes: &'a [u8],
        len_max: usize,
    ) -> Result<(usize, Piece<'a>), BadRequest> {
        let len_max = len_max.saturating_sub(self.trailers_len);
        let Some((len, line)) = line(bytes, len_max, BadRequest::Trailer)? else {
            return Ok((0, Piece::Incomplete));
        };
        self.trailers_len += len;
        if line.is_empty() {
            self.state = State::Done;
            return Ok((len, Piece::End));
        }
        let field = field(line).map_err(|_| BadRequest::Trailer)?;
        if BELONG_TO_HEAD.iter().any(|name| field.is(name)) {
            return Err(BadRequest::Trailer);
        }
        Ok((len, Piece::Trailer(field)))
    }
}

/// A line with its end, and without it.
fn line(
    bytes: &[u8],
    len_max: usize,
    error: BadRequest,
) -> Result<Option<(usize, &[u8])>, BadRequest> {
    let window = bytes.get(..len_max).unwrap_or(bytes);
    match window.iter().position(|b| *b == b'\n') {
        Some(feed) => {
            let line = window.get(..feed).unwrap_or_default();
            let line = line.strip_suffix(b"\r").ok_or(error)?;
            Ok(Some((feed + 1, line)))
        }
        None if bytes.len() >= len_max => Err(error),
        None => Ok(None),
    }
}

/// The size in a line of the form `size *( ; extension )`.
fn size(line: &[u8]) -> Result<u64, BadRequest> {
    let end = line.iter().position(|b| *b == b';').unwrap_or(line.len());
    let (digits, extension) = line.split_at(end);
    let clean = |b: &u8| *b == b'\t' || (b' '..0x7f).contains(b);
    let fits = (1..=SIZE_DIGITS_MAX).contains(&digits.len());
    if !fits || !digits.iter().all(u8::is_ascii_hexdigit) || !extension.iter().all(clean) {
        return Err(BadRequest::Chunk);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| BadRequest::Chunk)?;
    u64::from_str_radix(digits, 16).map_err(|_| BadRequest::Chunk)
}

/// Fields that decide where a message ends, whom it is for and who sends it: a server that adds trailers to the head must not
/// find them there.
const BELONG_TO_HEAD: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
];
/// 60 bits: no parser's number overflows.
const SIZE_DIGITS_MAX: usize = 15;
/// A size and a short extension.
const SIZE_LINE_LEN_MAX: usize = 256;
