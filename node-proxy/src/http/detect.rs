//! Which protocol a client speaks, from its first bytes and without making anybody wait who would speak first.
//!
//! Nothing is sent meanwhile. A server that speaks first ends the question: policy wants requests here, and this is no protocol
//! that has them, so the connection is closed at once and counted; nobody waits for a client that waits for its server.

use std::io;

use tokio::{io::AsyncRead, time::timeout};

use super::{
    error::Ended,
    head::is_token_byte,
    hello::{Malformed, server_name},
    inbox::Inbox,
    settings::HttpSettings,
};

/// What a client speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    /// TLS, with this server's name.
    Tls(Option<String>),
    /// None that can be judged; the connection ends so where requests must be seen.
    Other(Ended),
}

/// Waits until the client's first bytes tell, or the server speaks first; all bytes stay where they are.
pub(super) async fn detect<D, U>(
    downstream: &mut Inbox<D>,
    upstream: &mut Inbox<U>,
    settings: &HttpSettings,
) -> Result<Protocol, Ended>
where
    D: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    let mut patience = settings.idle_timeout;
    loop {
        match timeout(patience, next(downstream, upstream)).await {
            // An HTTP/2 server may send its settings before it has heard the client; what they are worth the client's bytes say.
            Ok(Err(Ended::ServerFirst)) if may_be_settings(upstream.bytes()) => {}
            Ok(Err(Ended::ServerFirst)) => return Ok(Protocol::Other(Ended::ServerFirst)),
            Ok(first) => first?,
            Err(_) if downstream.bytes().is_empty() => return Err(Ended::Idle),
            // Who begins and does not go on has had the time for a head.
            Err(_) if downstream.bytes().first() == Some(&TLS_HANDSHAKE) => {
                return Ok(Protocol::Other(Ended::Tls));
            }
            Err(_) => return Ok(Protocol::Other(Ended::Unknown)),
        }
        match classify(downstream.bytes()) {
            Some(protocol) => return Ok(protocol),
            None => patience = settings.head_timeout,
        }
    }
}

/// Waits for bytes of the client; the server may only end.
pub(super) async fn next<D, U>(
    downstream: &mut Inbox<D>,
    upstream: &mut Inbox<U>,
) -> Result<(), Ended>
where
    D: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    let ended = |gone: Ended| {
        move |read: io::Result<usize>| match read {
            Ok(0) => Err(Ended::Clean),
            Ok(_) => Ok(()),
            Err(_) => Err(gone),
        }
    };
    tokio::select! {
        // Cancel-safe, both.
        biased;
        read = downstream.fill() => ended(Ended::DownstreamGone)(read),
        read = upstream.fill() => ended(Ended::UpstreamGone)(read).and(Err(Ended::ServerFirst)),
    }
}

/// Whether a server's first bytes can be those of HTTP/2: a `SETTINGS` frame, that is no acknowledgement, of stream 0.
fn may_be_settings(first: &[u8]) -> bool {
    let expected = [
        Some(0),
        None,
        None,
        Some(SETTINGS),
        Some(0),
        Some(0),
        Some(0),
        Some(0),
        Some(0),
    ];
    let fits = |(byte, expected): (&u8, Option<u8>)| expected.is_none_or(|e| e == *byte);
    first.len() <= GREETING_LEN_MAX && first.iter().zip(expected).all(fits)
}

/// What the first bytes are; `None` if more are needed.
fn classify(first: &[u8]) -> Option<Protocol> {
    match first {
        [] => None,
        [TLS_HANDSHAKE, ..] => match server_name(first) {
            Ok(name) => name.map(Protocol::Tls),
            Err(Malformed) => Some(Protocol::Other(Ended::Tls)),
        },
        first if first.starts_with(HTTP2_PREFACE) => Some(Protocol::Http2),
        first if HTTP2_PREFACE.starts_with(first) => None,
        [byte, ..] if is_token_byte(*byte) || matches!(byte, b'\r' | b'\n' | b' ') => {
            Some(Protocol::Http1)
        }
        _ => Some(Protocol::Other(Ended::Unknown)),
    }
}

/// The type of an HTTP/2 frame.
const SETTINGS: u8 = 4;
/// What an HTTP/2 server says before it hears the client: its settings, and how much it takes.
const GREETING_LEN_MAX: usize = 1024;
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The content type of the TLS record that a client begins with.
const TLS_HANDSHAKE: u8 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_send_settings_first() {
        for (first, expected) in [
            (&b"\0\0\0\x04\0\0\0\0\0"[..], true),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80", true),
            (b"\0\0", true),
            (b"220 mail\r\n", false),
            (b"J\0\0\0\n8.0.36", false),
            (b"\0\0\0\x04\x01\0\0\0\0", false),
            (b"\0\0\x08\x06\0\0\0\0\0", false),
        ] {
            assert_eq!(may_be_settings(first), expected, "{first:?}");
        }
    }

    #[test]
    fn first_bytes_tell() {
        for (first, expected) in [
            (&b""[..], None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Some(Protocol::Http2)),
            (b"PR\0", Some(Protocol::Http1)),
            (b"G", Some(Protocol::Http1)),
            (b"\r\nGET", Some(Protocol::Http1)),
            (b"\x16\x03\x01", None),
            (
                b"\x16\x03\x01\x00\x01\x05",
                Some(Protocol::Other(Ended::Tls)),
            ),
            (b"\x00\x00", Some(Protocol::Other(Ended::Unknown))),
        ] {
            assert_eq!(classify(first), expected, "{first:?}");
        }
    }
}
