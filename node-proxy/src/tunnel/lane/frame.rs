//! What `tulle/1` says: the kinds of frames, and the preface that opens a connection on a lane.
//!
//! Pure: bytes in, meaning or a named refusal out. What is not exactly right is refused; a later version gets a name of its own in
//! ALPN, so nothing here has to be guessed or skipped.

use std::net::{IpAddr, SocketAddr};

/// What a frame is; the first byte of its sealed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Server to client, once: the client's certificate is accepted, TLS is over.
    Ready = 1,
    /// Client to server: a [`Preface`].
    Open = 2,
    /// Server to client: the application is connected.
    Accept = 3,
    /// Server to client: no connection, one byte says why; the lane is free again.
    Refuse = 4,
    /// Bytes of the application.
    Data = 5,
    /// The last bytes of the application, or none.
    DataEnd = 6,
    /// The application reset the session whose number follows.
    Reset = 7,
}

impl Kind {
    pub(super) fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Kind::Ready,
            2 => Kind::Open,
            3 => Kind::Accept,
            4 => Kind::Refuse,
            5 => Kind::Data,
            6 => Kind::DataEnd,
            7 => Kind::Reset,
            _ => return None,
        })
    }
}

/// Which connection a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preface {
    /// The number of the session on its lane: one more than the last.
    pub(crate) session: u32,
    /// The application, as the client's node knows it.
    pub(crate) destination: SocketAddr,
    /// The client's own end.
    pub(crate) client: SocketAddr,
}

/// Why bytes are no preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParsePrefaceError {
    #[error("the preface has {0} bytes, expected 18 to 42")]
    Length(usize),
    #[error("the address family is {0}, expected 4 or 6")]
    Family(u8),
    #[error("the preface ends within an address or goes on after it")]
    Extent,
    #[error("an address has the port 0")]
    Port,
}

impl Preface {
    /// Writes the preface; says how many bytes of `out` it takes.
    pub(crate) fn encode(&self, out: &mut [u8; PREFACE_LEN_MAX]) -> usize {
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(slot) = out.get_mut(len..len + bytes.len()) {
                slot.copy_from_slice(bytes);
                len += bytes.len();
            }
        };
        put(&self.session.to_be_bytes());
        for address in [self.destination, self.client] {
            match address.ip() {
                IpAddr::V4(ip) => {
                    put(&[4]);
                    put(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    put(&[6]);
                    put(&ip.octets());
                }
            }
            put(&address.port().to_be_bytes());
        }
        len
    }

    /// Reads a preface: exactly one, and nothing after it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ParsePrefaceError> {
        if !(PREFACE_LEN_MIN..=PREFACE_LEN_MAX).contains(&bytes.len()) {
            return Err(ParsePrefaceError::Length(bytes.len()));
        }
        let (session, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or(ParsePrefaceError::Extent)?;
        let (destination, rest) = address(rest)?;
        let (client, rest) = address(rest)?;
        if !rest.is_empty() {
            return Err(ParsePrefaceError::Extent);
        }
        Ok(Preface {
            session: u32::from_be_bytes(*session),
            destination,
            client,
        })
    }
}

fn address(bytes: &[u8]) -> Result<(SocketAddr, &[u8]), ParsePrefaceError> {
    let (family, rest) = bytes.split_first().ok_or(ParsePrefaceError::Extent)?;
    let (ip, rest): (IpAddr, &[u8]) = match family {
        4 => {
            let (octets, rest) = rest
                .split_first_chunk::<4>()
                .ok_or(ParsePrefaceError::Extent)?;
            ((*octets).into(), rest)
        }
        6 => {
            let (octets, rest) = rest
                .split_first_chunk::<16>()
                .ok_or(ParsePrefaceError::Extent)?;
            ((*octets).into(), rest)
        }
        other => return Err(ParsePrefaceError::Family(*other)),
    };
    let (port, rest) = rest
        .split_first_chunk::<2>()
        .ok_or(ParsePrefaceError::Extent)?;
    match u16::from_be_bytes(*port) {
        0 => Err(ParsePrefaceError::Port),
        port => Ok((SocketAddr::new(ip, port), rest)),
    }
}

/// Two addresses of IPv4.
const PREFACE_LEN_MIN: usize = 4 + 2 * 7;
/// Two addresses of IPv6.
pub(crate) const PREFACE_LEN_MAX: usize = 4 + 2 * 19;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(preface: &Preface) -> Vec<u8> {
        let mut out = [0; PREFACE_LEN_MAX];
        let len = preface.encode(&mut out);
        out[..len].to_vec()
    }

    fn preface() -> Preface {
        Preface {
            session: 7,
            destination: "10.1.1.5:80".parse().unwrap(),
            client: "[fd00::1]:40000".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_not_exactly_a_preface_is_refused_by_name() {
        let good = encoded(&preface());
        assert_eq!(Preface::parse(&good), Ok(preface()));
        for len in 0..good.len() {
            let error = Preface::parse(&good[..len]).unwrap_err();
            let expected = match len {
                0..PREFACE_LEN_MIN => ParsePrefaceError::Length(len),
                _ => ParsePrefaceError::Extent,
            };
            assert_eq!(error, expected, "{len} bytes");
        }
        let long = [good.as_slice(), &[0]].concat();
        assert_eq!(Preface::parse(&long), Err(ParsePrefaceError::Extent));
        let huge = vec![4; PREFACE_LEN_MAX + 1];
        assert_eq!(
            Preface::parse(&huge),
            Err(ParsePrefaceError::Length(huge.len()))
        );
        let mut family = good.clone();
        family[4] = 5;
        assert_eq!(Preface::parse(&family), Err(ParsePrefaceError::Family(5)));
        let mut port = good;
        port[9..11].fill(0);
        assert_eq!(Preface::parse(&port), Err(ParsePrefaceError::Port));
    }

    #[test]
    fn every_kind_has_its_byte() {
        let known: Vec<u8> = (0..=u8::MAX)
            .filter(|byte| Kind::of(*byte).is_some_and(|kind| kind as u8 == *byte))
            .collect();
        assert_eq!(known, [1, 2, 3, 4, 5, 6, 7]);
    }

    proptest! {
        #[test]
        fn any_preface_survives(
            session: u32,
            destination: IpAddr,
            client: IpAddr,
            ports in (1..=u16::MAX, 1..=u16::MAX),
        ) {
            let preface = Preface {
                session,
                destination: SocketAddr::new(destination, ports.0),
                client: SocketAddr::new(client, ports.1),
            };
            prop_assert_eq!(Preface::parse(&encoded(&preface)), Ok(preface));
        }

        /// Whatever is read as a preface is written the same way: there is one spelling of each.
        #[test]
        fn any_bytes_are_refused_or_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(preface) = Preface::parse(&bytes) {
                prop_assert_eq!(encoded(&preface), bytes);
            }
        }
    }
}
