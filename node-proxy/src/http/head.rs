//! The lines of an HTTP/1 head, read in the one way that all parsers agree on.
//!
//! Parsers differ in what they forgive: a lone line feed, a folded line, a space before the colon, a control character. Each of
//! these has hidden a request from a proxy and shown it to the server behind. Nothing is forgiven here, so there is nothing to
//! differ about. Reads bytes only; what the fields mean is decided in `request` and `response`.

use super::error::BadRequest;

/// One field as it stands on its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// A token, in the sender's spelling.
    pub(super) name: &'a str,
    /// Without the white space around it.
    pub(super) value: &'a [u8],
}

impl Field<'_> {
    /// Whether this is the field `name`.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// The first line and the fields.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    pub(super) first: &'a [u8],
    pub(super) fields: Vec<Field<'a>>,
}

/// Looks for the end of a head while it arrives; every byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct HeadSearch {
    seen: usize,
    line_start: usize,
}

impl HeadSearch {
    /// The length of the head that `bytes` begin with, once it is complete. `bytes` are those of the last call, and more.
    pub(super) fn find(
        &mut self,
        bytes: &[u8],
        len_max: usize,
    ) -> Result<Option<usize>, BadRequest> {
        while let Some(step) = bytes
            .get(self.seen..)
            .and_then(|rest| rest.iter().position(|b| *b == b'\n'))
        {
            let feed = self.seen + step;
            let line = bytes.get(self.line_start..feed).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r") else {
                return Err(BadRequest::LineEnding);
            };
            self.seen = feed + 1;
            if line.is_empty() && self.line_start > 0 {
                return match self.seen <= len_max {
                    true => Ok(Some(self.seen)),
                    false => Err(BadRequest::HeadLength),
                };
            }
            // An empty line before the request is not skipped: whoever sends one may disagree about where the last request ended.
            if line.is_empty() {
                return Err(BadRequest::RequestLine);
            }
            self.line_start = self.seen;
        }
        self.seen = bytes.len();
        match bytes.len() < len_max {
            true => Ok(None),
            false => Err(BadRequest::HeadLength),
        }
    }
}

/// Splits a complete head into its lines.
pub(super) fn lines(head: &[u8], fields_max: usize) -> Result<Lines<'_>, BadRequest> {
    let mut lines = head
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let mut fields = Vec::with_capacity(FIELDS_EXPECTED);
    for line in lines.take_while(|line| !line.is_empty()) {
        if fields.len() == fields_max {
            return Err(BadRequest::FieldCount);
        }
        fields.push(field(line)?);
    }
    Ok(Lines { first, fields })
}

/// One line of the form `name: value`.
pub(super) fn field(line: &[u8]) -> Result<Field<'_>, BadRequest> {
    if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        return Err(BadRequest::Fold);
    }
    let colon = line.iter().position(|b| *b == b':');
    let (name, value) = colon
        .and_then(|colon| line.split_at_checked(colon))
        .ok_or(BadRequest::FieldName)?;
    let name = token(name).ok_or(BadRequest::FieldName)?;
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    if !value.iter().all(|b| is_value_byte(*b)) {
        return Err(BadRequest::FieldValue);
    }
    Ok(Field { name, value })
}

/// The text, if it is a token.
pub(super) fn token(text: &[u8]) -> Option<&str> {
    let fits = !text.is_empty() && text.iter().all(|b| is_token_byte(*b));
    std::str::from_utf8(text).ok().filter(|_| fits)
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Visible characters, blanks and bytes beyond ASCII.
fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// More than most requests have.
const FIELDS_EXPECTED: usize = 24;
