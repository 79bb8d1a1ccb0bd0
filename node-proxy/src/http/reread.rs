//! For those who try to break the readers: what was written for a server is read again.

use super::{
    chunked::{ChunkDecoder, Piece},
    head::{HeadSearch, lines},
    hello,
    request::RequestHead,
    settings::HttpSettings,
};

/// The head that `bytes` begin with as policy is shown it, and the same of what the server gets; `None` = it is refused, or not whole.
/// The second is `None` if what is written would itself be refused.
pub(crate) fn request_twice(bytes: &[u8]) -> Option<(String, Option<String>)> {
    let settings = HttpSettings::default();
    let read = |bytes: &[u8]| {
        let len = HeadSearch::default()
            .find(bytes, settings.head_len_max)
            .ok()??;
        let head = lines(bytes.get(..len)?, settings.fields_max).ok()?;
        let request = RequestHead::read(head).ok()?;
        let shown =
            request.ask(|facts| format!("{facts:?} {:?} {}", request.framing, request.upgrade));
        let mut written = Vec::new();
        request.write(&[], &mut written);
        Some((shown, written))
    };
    let (shown, written) = read(bytes)?;
    Some((shown, read(&written).map(|(again, _)| again)))
}

/// Follows a chunked body to its end, or as far as it goes; how many bytes that took.
pub(crate) fn chunks(mut bytes: &[u8]) -> usize {
    let mut decoder = ChunkDecoder::default();
    let mut taken = 0;
    loop {
        match decoder.next(bytes, HttpSettings::default().head_len_max) {
            Ok((_, Piece::Incomplete | Piece::End)) | Err(_) => return taken,
            Ok((len, _)) => {
                taken += len;
                bytes = bytes.get(len..).unwrap_or_default();
            }
        }
    }
}

/// The name in a first message of TLS, if it can be read.
pub(crate) fn server_name(bytes: &[u8]) -> Option<String> {
    hello::server_name(bytes).ok()??
}
