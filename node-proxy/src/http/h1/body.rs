//! Bodies on their way: as they come, never whole.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::http::{
    chunked::{ChunkDecoder, Piece},
    error::BadRequest,
    framing::Framing,
    inbox::Inbox,
    request::write_field,
};

/// Why a body did not arrive whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CarryError {
    /// Whom it comes from is gone.
    Source,
    /// Whom it goes to takes no more.
    Sink,
}

/// Why a body did not arrive whole, or was malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    /// One of both is gone.
    Gone(CarryError),
    /// Malformed.
    Bad(BadRequest),
}

/// Carries one body to its end.
pub(super) async fn carry<R, W>(
    from: &mut Inbox<R>,
    to: &mut W,
    framing: Framing,
    trailers_len_max: usize,
) -> Result<(), BodyError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match framing {
        Framing::None => Ok(()),
        Framing::Length(length) => carry_length(from, to, length)
            .await
            .map_err(BodyError::Gone),
        Framing::Chunked => carry_chunks(from, to, trailers_len_max).await,
        Framing::UntilClose => carry_bytes(from, to).await.map_err(BodyError::Gone),
    }
}

/// Carries everything until the end, and tells of the end.
pub(super) async fn carry_rest<R, W>(from: &mut Inbox<R>, to: &mut W) -> Result<(), CarryError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    carry_bytes(from, to).await?;
    to.shutdown().await.map_err(|_| CarryError::Sink)
}

async fn carry_bytes<R, W>(from: &mut Inbox<R>, to: &mut W) -> Result<(), CarryError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        if !from.bytes().is_empty() {
            write_out(to, from.bytes()).await?;
            from.take(usize::MAX);
        }
        from.rest();
        if from.fill().await.map_err(|_| CarryError::Source)? == 0 {
            return Ok(());
        }
    }
}

async fn carry_length<R, W>(from: &mut Inbox<R>, to: &mut W, length: u64) -> Result<(), CarryError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut rest = length;
    while rest > 0 {
        let wanted = usize::try_from(rest).unwrap_or(usize::MAX);
        let bytes = from.bytes();
        let piece = bytes.get(..wanted).unwrap_or(bytes);
        let len = piece.len();
        if len > 0 {
            write_out(to, piece).await?;
            from.take(len);
            rest -= len as u64;
        } else if from.fill().await.map_err(|_| CarryError::Source)? == 0 {
            return Err(CarryError::Source);
        }
    }
    Ok(())
}

async fn carry_chunks<R, W>(
    from: &mut Inbox<R>,
    to: &mut W,
    trailers_len_max: usize,
) -> Result<(), BodyError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut decoder = ChunkDecoder::default();
    let mut out = Vec::new();
    loop {
        let (len, is_end) = decode_all(&mut decoder, from.bytes(), trailers_len_max, &mut out)?;
        from.take(len);
        if !out.is_empty() {
            write_out(to, &out).await.map_err(BodyError::Gone)?;
            out.clear();
        }
        if is_end {
            return Ok(());
        }
        match from.fill().await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(BodyError::Gone(CarryError::Source)),
        }
    }
}

/// Decodes what is there and encodes it anew; how much was taken, and whether the body is complete.
fn decode_all(
    decoder: &mut ChunkDecoder,
    bytes: &[u8],
    trailers_len_max: usize,
    out: &mut Vec<u8>,
) -> Result<(usize, bool), BodyError> {
    let mut taken = 0;
    loop {
        let rest = bytes.get(taken..).unwrap_or_default();
        let (len, piece) = decoder
            .next(rest, trailers_len_max)
            .map_err(BodyError::Bad)?;
        taken += len;
        match piece {
            Piece::Incomplete => return Ok((taken, false)),
            Piece::Size(size) => out.extend_from_slice(format!("{size:x}\r\n").as_bytes()),
            Piece::Data(data) => out.extend_from_slice(data),
            Piece::DataEnd => out.extend_from_slice(b"\r\n"),
            Piece::Last => out.extend_from_slice(b"0\r\n"),
            Piece::Trailer(field) => write_field(out, field.name, field.value),
            Piece::End => {
                out.extend_from_slice(b"\r\n");
                return Ok((taken, true));
            }
        }
    }
}

async fn write_out<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> Result<(), CarryError> {
    let written = to.write_all(bytes).await;
    let flushed = to.flush().await;
    written.and(flushed).map_err(|_| CarryError::Sink)
}
