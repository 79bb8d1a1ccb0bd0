//! From a response's head as it came to the one that is passed on.
//!
//! The server is the pod's own application or one that proved who it is, but what it sends must not be read in two ways either:
//! the client might take a part of one answer for the whole of the next.

use super::{
    error::{BadRequest, BadResponse},
    framing::{Framing, told},
    head::{Field, Lines},
    request::{Connection, is_websocket, write_field},
};

/// A response that can be read in one way only.
#[derive(Debug)]
pub(super) struct ResponseHead<'a> {
    first: &'a [u8],
    pub(super) status: u16,
    fields: Vec<Field<'a>>,
    pub(super) framing: Framing,
    /// It has a length that is told though there is no body (an answer to `HEAD`).
    told_length: Option<u64>,
    told_chunked: bool,
    /// The server takes no request after this one.
    pub(super) is_last: bool,
    /// It agrees to a WebSocket.
    pub(super) upgrades: bool,
}

impl<'a> ResponseHead<'a> {
    /// Reads the answer to a request; `to_head`: to `HEAD`.
    pub(super) fn read(lines: Lines<'a>, to_head: bool) -> Result<Self, BadResponse> {
        let (status, is_http10) = status_line(lines.first).ok_or(BadResponse::Head)?;
        let told = told(&lines.fields).map_err(|_: BadRequest| BadResponse::Framing)?;
        if is_http10 && told == Some(Framing::Chunked) {
            return Err(BadResponse::Framing);
        }
        let has_no_body = to_head || status < 200 || matches!(status, 204 | 304);
        let framing = match (has_no_body, told) {
            (true, _) => Framing::None,
            (false, Some(framing)) => framing,
            (false, None) => Framing::UntilClose,
        };
        let connection = Connection::read(&lines.fields).map_err(|_| BadResponse::Head)?;
        let upgrades = status == 101 && connection.upgrade && is_websocket(&lines.fields);
        let mut fields = lines.fields;
        fields.retain(|field| !connection.takes_away(field));
        Ok(ResponseHead {
            first: lines.first,
            status,
            fields,
            framing,
            told_length: match told {
                Some(Framing::Length(length)) => Some(length),
                _ => None,
            },
            told_chunked: told == Some(Framing::Chunked),
            is_last: connection.close || is_http10 || framing == Framing::UntilClose,
            upgrades,
        })
    }

    /// An answer before the answer.
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Writes the response for the client; `close`: no request is taken after it.
    pub(super) fn write(&self, close: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.first);
        out.extend_from_slice(b"\r\n");
        for field in &self.fields {
            write_field(out, field.name, field.value);
        }
        if let Some(length) = self.told_length {
            write_field(out, "Content-Length", length.to_string().as_bytes());
        } else if self.told_chunked {
            write_field(out, "Transfer-Encoding", b"chunked");
        }
        if self.upgrades {
            write_field(out, "Upgrade", b"websocket");
            write_field(out, "Connection", b"Upgrade");
        } else if close && !self.is_interim() {
            write_field(out, "Connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// `HTTP/1.1 200 OK`: the status, and whether it is HTTP/1.0.
fn status_line(line: &[u8]) -> Option<(u16, bool)> {
    let (version, rest) = line.split_at_checked(VERSION_LEN)?;
    let is_http10 = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return None,
    };
    let (digits, reason) = rest.split_at_checked(3)?;
    let clean = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    let separated = reason.is_empty() || reason.starts_with(b" ");
    if !digits.iter().all(u8::is_ascii_digit) || !separated || !reason.iter().all(clean) {
        return None;
    }
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (100..600).contains(&status).then_some((status, is_http10))
}

const VERSION_LEN: usize = "HTTP/1.1 ".len();
