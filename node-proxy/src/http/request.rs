//! From a head as it came to the request that is judged and written: the same value for both.
//!
//! **Invariant:** what [`RequestHead::ask`] shows to policy is what [`RequestHead::write`] writes, field by field; the tests compare
//! both with what a server received.

use tulle_policy::{compiled::HttpFacts, l7::HeaderEdit};

use super::{
    error::BadRequest,
    framing::{Framing, told},
    head::{Field, Lines, token},
};

/// A request that can be read in one way only.
#[derive(Debug)]
pub(super) struct RequestHead<'a> {
    method: &'a str,
    path: &'a str,
    authority: &'a str,
    version: Version,
    /// What is forwarded, in the order of the client; without the fields of the connection.
    fields: Vec<Field<'a>>,
    pub(super) framing: Framing,
    /// The client asks for a WebSocket.
    pub(super) upgrade: bool,
    /// The client sends no request after this one, or must not.
    pub(super) is_last: bool,
    trailers_welcome: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

impl<'a> RequestHead<'a> {
    pub(super) fn read(lines: Lines<'a>) -> Result<Self, BadRequest> {
        let (method, target, version) = request_line(lines.first)?;
        if method == "CONNECT" {
            return Err(BadRequest::Connect);
        }
        check_aliases(&lines.fields)?;
        let framing = framing(&lines.fields, version)?;
        let connection = Connection::read(&lines.fields)?;
        let (path, host_of_target) = origin_form(method, target)?;
        let authority = host(&lines.fields, version, host_of_target)?;
        check_expectation(&lines.fields)?;
        let upgrade = connection.upgrade && is_websocket(&lines.fields);
        if upgrade && (method != "GET" || framing != Framing::None || version == Version::Http10) {
            return Err(BadRequest::Upgrade);
        }
        // Servers that do not expect a body here take it for the next request: they get no room for a next one.
        let unexpected_body = framing != Framing::None && HAVE_NO_BODY.contains(&method);
        let mut fields = lines.fields;
        fields.retain(|field| !connection.takes_away(field));
        Ok(RequestHead {
            method,
            path,
            authority,
            version,
            fields,
            framing,
            upgrade,
            is_last: connection.close || version == Version::Http10 || unexpected_body,
            trailers_welcome: connection.trailers,
        })
    }

    /// Shows the request to policy.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&HttpFacts<'_>) -> T) -> T {
        let names: String = self.fields.iter().map(|field| field.name).collect();
        let names = names.to_ascii_lowercase();
        let mut rest = names.as_str();
        let mut headers = Vec::with_capacity(self.fields.len() + 1);
        headers.push(("host", self.authority.as_bytes()));
        for field in &self.fields {
            let (name, others) = rest.split_at_checked(field.name.len()).unwrap_or_default();
            rest = others;
            headers.push((name, field.value));
        }
        ask(&HttpFacts {
            method: self.method,
            path: self.path,
            authority: self.authority,
            headers: &headers,
        })
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    pub(super) fn is_http10(&self) -> bool {
        self.version == Version::Http10
    }

    /// Writes the request for the server.
    pub(super) fn write(&self, edits: &[HeaderEdit], out: &mut Vec<u8>) {
        let version = match self.version {
            Version::Http10 => " HTTP/1.0\r\n",
            Version::Http11 => " HTTP/1.1\r\n",
        };
        for part in [self.method, " ", self.path, version] {
            out.extend_from_slice(part.as_bytes());
        }
        if !self.authority.is_empty() {
            write_field(out, "Host", self.authority.as_bytes());
        }
        for field in self.fields.iter().filter(|field| is_kept(field, edits)) {
            write_field(out, field.name, field.value);
        }
        for (name, value) in edits.iter().filter_map(addition) {
            write_field(out, name, value.as_bytes());
        }
        match self.framing {
            Framing::Length(length) => {
                write_field(out, "Content-Length", length.to_string().as_bytes());
            }
            Framing::Chunked => write_field(out, "Transfer-Encoding", b"chunked"),
            Framing::None | Framing::UntilClose => {}
        }
        if self.trailers_welcome {
            write_field(out, "TE", b"trailers");
        }
        if self.upgrade {
            write_field(out, "Upgrade", b"websocket");
            write_field(out, "Connection", b"Upgrade");
        } else if self.is_last {
            write_field(out, "Connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a field stays as it is.
fn is_kept(field: &Field<'_>, edits: &[HeaderEdit]) -> bool {
    edits.iter().all(|edit| match edit {
        HeaderEdit::Note { .. } | HeaderEdit::Add { .. } => true,
        HeaderEdit::Remove { name } | HeaderEdit::Set { name, .. } => !field.is(name),
    })
}

/// The field that an edit adds. What frames the message is nobody's to add.
pub(super) fn addition(edit: &HeaderEdit) -> Option<(&str, &str)> {
    match edit {
        HeaderEdit::Add { name, value } | HeaderEdit::Set { name, value } => {
            let clean = token(name.as_bytes()).is_some() && super::is_field_text(value);
            let is_framing = REWRITTEN.iter().any(|own| name.eq_ignore_ascii_case(own));
            (clean && !is_framing).then_some((name, value))
        }
        HeaderEdit::Note { .. } | HeaderEdit::Remove { .. } => None,
    }
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What a message says about its connection.
#[derive(Debug, Default)]
pub(super) struct Connection<'a> {
    pub(super) close: bool,
    pub(super) upgrade: bool,
    trailers: bool,
    /// Fields that end here.
    named: Vec<&'a str>,
}

impl<'a> Connection<'a> {
    pub(super) fn read(fields: &[Field<'a>]) -> Result<Self, BadRequest> {
        let mut connection = Connection::default();
        let mut te_named = false;
        for field in fields.iter().filter(|field| field.is("connection")) {
            for option in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                let option = token(option).ok_or(BadRequest::ConnectionOption)?;
                match option.to_ascii_lowercase().as_str() {
                    "close" => connection.close = true,
                    "upgrade" => connection.upgrade = true,
                    "te" => te_named = true,
                    "keep-alive" => {}
                    name if BELONG_TO_MESSAGE.contains(&name) => {
                        return Err(BadRequest::ConnectionOption);
                    }
                    _ => connection.named.push(option),
                }
            }
        }
        let welcomes = |field: &Field<'_>| field.value.eq_ignore_ascii_case(b"trailers");
        let te = fields.iter().any(|field| field.is("te") && welcomes(field));
        connection.trailers = te && te_named;
        Ok(connection)
    }

    /// Whether a field belongs to the connection, and not to the message that is forwarded. What frames the message and whom it
    /// is for is written anew.
    pub(super) fn takes_away(&self, field: &Field<'_>) -> bool {
        REWRITTEN.iter().any(|name| field.is(name)) || self.named.iter().any(|name| field.is(name))
    }
}

fn request_line(line: &[u8]) -> Result<(&str, &str, Version), BadRequest> {
    let mut words = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BadRequest::RequestLine);
    };
    let method = token(method)
        .filter(|method| method.len() <= METHOD_LEN_MAX && *method != "PRI")
        .ok_or(BadRequest::Method)?;
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(BadRequest::Version),
    };
    let target = std::str::from_utf8(target).map_err(|_| BadRequest::PathEncoding)?;
    Ok((method, target, version))
}

/// The target as a server gets it, and the host that it named.
fn origin_form<'a>(
    method: &str,
    target: &'a str,
) -> Result<(&'a str, Option<&'a str>), BadRequest> {
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, None));
    }
    let (scheme, rest) = target
        .split_at_checked(HTTP_SCHEME.len())
        .ok_or(BadRequest::Target)?;
    if !scheme.eq_ignore_ascii_case(HTTP_SCHEME) {
        return Err(BadRequest::Target);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    match path {
        "" => Ok(("/", Some(host))),
        path if path.starts_with('/') => Ok((path, Some(host))),
        // A query without a path: some servers put the slash in, some do not.
        _ => Err(BadRequest::Target),
    }
}

/// The one host of the request; empty where HTTP/1.0 has none.
fn host<'a>(
    fields: &[Field<'a>],
    version: Version,
    of_target: Option<&'a str>,
) -> Result<&'a str, BadRequest> {
    let mut hosts = fields.iter().filter(|field| field.is("host"));
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => std::str::from_utf8(host.value).map_err(|_| BadRequest::Host)?,
        (None, None) if version == Version::Http10 && of_target.is_none() => return Ok(""),
        _ => return Err(BadRequest::Host),
    };
    let agrees = of_target.is_none_or(|target| target.eq_ignore_ascii_case(host));
    match agrees && is_authority(host) {
        true => Ok(host),
        false => Err(BadRequest::Host),
    }
}

/// `name`, `address` or `[address]`, with or without a port; no user.
pub(super) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port),
            None => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_v6 = text.starts_with('[');
    let fits = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') || (is_v6 && b == b':')
    };
    let port_fits = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 5,
        None => port.is_empty(),
    };
    !host.is_empty() && host.len() <= HOST_LEN_MAX && host.bytes().all(fits) && port_fits
}

fn framing(fields: &[Field<'_>], version: Version) -> Result<Framing, BadRequest> {
    match told(fields)? {
        Some(Framing::Chunked) if version == Version::Http10 => Err(BadRequest::TransferEncoding),
        Some(Framing::Length(0)) | None => Ok(zero_or_none(fields)),
        Some(framing) => Ok(framing),
    }
}

/// A length of zero is told on: a server may insist on one.
fn zero_or_none(fields: &[Field<'_>]) -> Framing {
    match fields.iter().any(|field| field.is("content-length")) {
        true => Framing::Length(0),
        false => Framing::None,
    }
}

fn check_expectation(fields: &[Field<'_>]) -> Result<(), BadRequest> {
    let mut expectations = fields.iter().filter(|field| field.is("expect"));
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(()),
        (Some(field), None) if field.value.eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(BadRequest::Expect),
    }
}

/// Only WebSockets: an upgrade to HTTP/2 (`h2c`) would carry requests that nobody judges.
pub(super) fn is_websocket(fields: &[Field<'_>]) -> bool {
    let mut upgrades = fields.iter().filter(|field| field.is("upgrade"));
    match (upgrades.next(), upgrades.next()) {
        (Some(field), None) => field.value.eq_ignore_ascii_case(b"websocket"),
        _ => false,
    }
}

/// Servers that hand fields to programs as variables take `_` for `-`.
fn check_aliases(fields: &[Field<'_>]) -> Result<(), BadRequest> {
    for field in fields.iter().filter(|field| field.name.contains('_')) {
        let same = |name: &str| {
            name.len() == field.name.len()
                && name.bytes().zip(field.name.bytes()).all(|(a, b)| {
                    a.eq_ignore_ascii_case(&b) || (matches!(a, b'-' | b'_') && b == b'_')
                })
        };
        let is_other = |other: &&Field<'_>| !std::ptr::eq(*other, field) && !other.is(field.name);
        let stands_for_another = fields.iter().filter(is_other).any(|other| same(other.name));
        if stands_for_another
            || BELONG_TO_MESSAGE
                .iter()
                .chain(&REWRITTEN)
                .any(|name| same(name))
        {
            return Err(BadRequest::FieldAlias);
        }
    }
    Ok(())
}

/// Fields of one connection, and those that are written anew.
const REWRITTEN: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];
/// Fields that no connection option may take away: the server would see another request than the client sent.
const BELONG_TO_MESSAGE: [&str; 14] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "trailer",
    "transfer-encoding",
    "x-forwarded-for",
    "x-forwarded-host",
];
/// Methods whose requests rarely have a body, so that some servers never look for one.
const HAVE_NO_BODY: [&str; 5] = ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"];
const HTTP_SCHEME: &str = "http://";
const METHOD_LEN_MAX: usize = 32;
/// RFC 1035.
const HOST_LEN_MAX: usize = 253;
