//! The name that a TLS client asks for, from its first message.
//!
//! Reads only, changes nothing, and takes no part in the handshake. A message that names two servers, or that is not laid out as RFC
//! 8446 says, has no name that both sides agree on: it is malformed, and the connection ends.

/// Why the first message says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The name in the ClientHello that `bytes` begin with, in lower case, if there is one; `None` while more bytes are needed.
pub(super) fn server_name(bytes: &[u8]) -> Result<Option<Option<String>>, Malformed> {
    let mut message = Vec::new();
    let mut records = Reader(bytes);
    // A message may be spread over several records.
    loop {
        if let Some(body) = whole_message(&message)? {
            return name_in(body).map(Some);
        }
        if message.len() > HELLO_LEN_MAX {
            return Err(Malformed);
        }
        let record = (|| {
            let head = records.take(3)?;
            let fragment = records.prefixed::<2>()?;
            Some((head.first().copied(), fragment))
        })();
        match record {
            None if bytes.len() > HELLO_LEN_MAX => return Err(Malformed),
            None => return Ok(None),
            Some((Some(HANDSHAKE), fragment)) if !fragment.is_empty() => {
                message.extend_from_slice(fragment);
            }
            Some(_) => return Err(Malformed),
        }
    }
}

/// The body of the message, once it is whole.
fn whole_message(message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match message.first() {
        None => Ok(None),
        Some(&CLIENT_HELLO) => Ok(Reader(message.get(1..).unwrap_or_default()).prefixed::<3>()),
        Some(_) => Err(Malformed),
    }
}

fn name_in(hello: &[u8]) -> Result<Option<String>, Malformed> {
    let mut hello = Reader(hello);
    let mut extensions = (|| {
        let _version_and_random = hello.take(2 + 32)?;
        let _session = hello.prefixed::<1>()?;
        let _cipher_suites = hello.prefixed::<2>()?;
        let _compression = hello.prefixed::<1>()?;
        match hello.0 {
            // Before extensions were invented.
            [] => Some(Reader(&[])),
            _ => hello.prefixed::<2>().map(Reader),
        }
    })()
    .ok_or(Malformed)?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.take(2).ok_or(Malformed)?;
        let content = extensions.prefixed::<2>().ok_or(Malformed)?;
        if kind == SERVER_NAME && found.replace(host_name(content)?).is_some() {
            return Err(Malformed);
        }
    }
    Ok(found)
}

/// The one host in a `server_name` extension.
fn host_name(content: &[u8]) -> Result<String, Malformed> {
    let mut content = Reader(content);
    let list = content.prefixed::<2>().ok_or(Malformed)?;
    let mut list = Reader(list);
    let kind = list.take(1).ok_or(Malformed)?;
    let name = list.prefixed::<2>().ok_or(Malformed)?;
    let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_whole = content.0.is_empty() && list.0.is_empty() && kind == [0];
    if !is_whole || name.is_empty() || name.len() > NAME_LEN_MAX || !name.iter().all(fits) {
        return Err(Malformed);
    }
    let name = std::str::from_utf8(name).map_err(|_| Malformed)?;
    Ok(name.to_ascii_lowercase())
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// Bytes that come behind their length of `N` bytes.
    fn prefixed<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let length = self.take(N)?;
        let len = length.iter().fold(0, |len, b| len << 8 | usize::from(*b));
        self.take(len)
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: [u8; 2] = [0, 0];
/// RFC 1035.
const NAME_LEN_MAX: usize = 253;
/// One record; hellos with post-quantum keys are below 2 KiB.
const HELLO_LEN_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixed(len_len: usize, bytes: &[u8]) -> Vec<u8> {
        let len = bytes.len().to_be_bytes();
        [&len[len.len() - len_len..], bytes].concat()
    }

    fn extension(name: &[u8]) -> Vec<u8> {
        let entry = [&[0][..], &prefixed(2, name)].concat();
        [&[0, 0][..], &prefixed(2, &prefixed(2, &entry))].concat()
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3; 34];
        body.extend(prefixed(1, &[7; 32]));
        body.extend(prefixed(2, &[1, 2]));
        body.extend(prefixed(1, &[0]));
        body.extend(prefixed(2, extensions));
        [&[1][..], &prefixed(3, &body)].concat()
    }

    fn record(fragment: &[u8]) -> Vec<u8> {
        [&[22, 3, 1][..], &prefixed(2, fragment)].concat()
    }

    #[test]
    fn the_name_is_found_whole_or_in_pieces() {
        let other = [&[0, 43][..], &prefixed(2, b"xy")].concat();
        let hello = message(&[other.clone(), extension(b"Www.Example.org")].concat());
        let name = Ok(Some(Some("www.example.org".to_owned())));
        let whole = record(&hello);
        assert_eq!(server_name(&whole), name);
        for end in 0..whole.len() {
            assert_eq!(server_name(&whole[..end]), Ok(None), "{end}");
        }
        let pieces: Vec<u8> = hello.chunks(7).flat_map(record).collect();
        assert_eq!(server_name(&pieces), name);
        assert_eq!(server_name(&record(&message(&other))), Ok(Some(None)));
    }

    #[test]
    fn what_is_no_hello_or_names_two_servers_is_malformed() {
        let twice = message(&[extension(b"a"), extension(b"b")].concat());
        let cut = message(&extension(b"a")[..5]);
        for bytes in [
            record(&twice),
            record(&cut),
            record(&message(&extension(b""))),
            record(&message(&extension(b"a\0b"))),
            record(&[2, 0, 0, 0]),
            record(&[]),
            vec![23, 3, 1, 0, 1, 0],
        ] {
            assert_eq!(server_name(&bytes), Err(Malformed), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes: Vec<u8>) {
            let _read = server_name(&record(&bytes));
            let _read = server_name(&bytes);
        }
    }
}
