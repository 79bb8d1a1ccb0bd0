//! Where a body ends. One answer, or none.

use super::{error::BadRequest, head::Field};

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// By its length.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection; responses only.
    UntilClose,
}

/// What the fields of a message say about its body; `None` if nothing.
pub(super) fn told(fields: &[Field<'_>]) -> Result<Option<Framing>, BadRequest> {
    let mut length = None;
    let mut chunked = false;
    for field in fields {
        if field.is("content-length") {
            let value = decimal(field.value).ok_or(BadRequest::ContentLength)?;
            // The same length twice is how a list of two lengths begins.
            if length.replace(value).is_some() {
                return Err(BadRequest::ContentLength);
            }
        } else if field.is("transfer-encoding") {
            if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadRequest::TransferEncoding);
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(BadRequest::FramingConflict),
        (None, true) => Ok(Some(Framing::Chunked)),
        (Some(length), false) => Ok(Some(Framing::Length(length))),
        (None, false) => Ok(None),
    }
}

/// A number without sign, blanks or anything else.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = (1..=LENGTH_DIGITS_MAX).contains(&text.len());
    let number = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| digits && number)?
        .parse()
        .ok()
}

/// What every parser's 64 bits hold.
const LENGTH_DIGITS_MAX: usize = 18;
