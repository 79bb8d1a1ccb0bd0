//! How a frame lies in a buffer: two bytes of length, then what is sealed: its kind, its content, the seal.
//!
//! A frame that is full fills a small buffer, eight of them a large one, so that contents are read from a socket to where they are
//! sealed.

use tulle_identity::{SEAL_LEN, Sealer};

use super::{Kind, LaneError};
use crate::pump::BufferClass;

/// The places in a buffer where the contents of frames belong, in order.
pub(crate) fn slots(buffer: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    buffer
        .chunks_exact_mut(FRAME_LEN_MAX)
        .filter_map(|frame| frame.get_mut(CONTENT_START..CONTENT_START + CONTENT_LEN_MAX))
}

/// Seals the content that lies in its place in `frame`; says how long the frame is.
pub(super) fn seal(
    sealer: &mut Sealer,
    frame: &mut [u8],
    kind: Kind,
    content_len: usize,
) -> Result<usize, LaneError> {
    let sealed_len = 1 + content_len + SEAL_LEN;
    let too_long = || LaneError::Length(sealed_len);
    let header = u16::try_from(sealed_len)
        .map_err(|_| too_long())?
        .to_be_bytes();
    let (head, rest) = frame
        .split_first_chunk_mut::<HEADER_LEN>()
        .ok_or_else(too_long)?;
    *head = header;
    let (content, tag) = rest
        .split_at_mut_checked(1 + content_len)
        .ok_or_else(too_long)?;
    if let Some(first) = content.first_mut() {
        *first = kind as u8;
    }
    let seal = sealer.seal(&header, content)?;
    *tag.first_chunk_mut().ok_or_else(too_long)? = seal;
    Ok(HEADER_LEN + sealed_len)
}

/// The length of what is sealed, in two bytes.
pub(super) const HEADER_LEN: usize = 2;
/// A frame with its header and seal: a small buffer holds one, a large buffer eight, without a gap.
pub(super) const FRAME_LEN_MAX: usize = BufferClass::Small.size();
pub(super) const CONTENT_START: usize = HEADER_LEN + 1;
/// What one frame carries.
pub(crate) const CONTENT_LEN_MAX: usize = FRAME_LEN_MAX - CONTENT_START - SEAL_LEN;
