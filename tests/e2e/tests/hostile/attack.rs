//! Bad connections, as fast as a few threads can make them.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Builder,
    time::timeout,
};
use tulle_identity::{Svid, testing::CarelessPeer};

/// What a bad connection does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bad {
    /// Sends bytes without sense.
    Random,
    /// Begins a TLS handshake and leaves in the middle of the first message.
    HalfHello,
    /// Says nothing and leaves.
    Nothing,
    /// Speaks plain HTTP.
    Http,
    /// Makes a TLS connection without a certificate and asks for something.
    NoCertificate,
    /// Proves a good identity and then sends bytes without sense.
    ProvenNoise,
    /// Proves a good identity and asks for a connection to nowhere.
    ProvenBadAuthority,
    /// Asks for the mesh's state over TLS, without a certificate.
    UnprovenStream,
    /// Announces a DNS message and sends less of it.
    LyingLength,
    /// Announces a DNS message that is too long.
    TooLongFrame,
    /// Sends a datagram without sense.
    Datagram,
}

/// What the attackers have.
pub(crate) struct Weapons {
    /// A certificate of the mesh, good in every way.
    pub(crate) svid: Arc<Svid>,
}

/// Makes `count` bad connections from the calling thread's network namespace.
pub(crate) fn flood(target: SocketAddr, bad: Bad, count: usize, weapons: &Weapons) -> Result<()> {
    thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|first| {
                scope.spawn(move || -> Result<()> {
                    for turn in (first..count).step_by(ATTACKERS) {
                        let mut noise = Noise::new(turn);
                        match bad.alpn() {
                            None => attack_plainly(target, bad, &mut noise)?,
                            Some(_) => attack_in_tls(target, bad, &mut noise, weapons)?,
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for attacker in attackers {
            attacker.join().ok().context("an attacker broke off")??;
        }
        Ok(())
    })
}

/// Begins handshakes that never go on, for as long as the answer is kept.
pub(crate) fn half_open(target: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let begin = |_| {
        let mut stream = TcpStream::connect_timeout(&target, DEADLINE)?;
        // A pod that has enough of them resets some at once.
        stream.write_all(HALF_HELLO).ok();
        Ok(stream)
    };
    (0..count).map(begin).collect()
}

impl Bad {
    /// The protocol that it offers inside TLS.
    fn alpn(self) -> Option<&'static [u8]> {
        match self {
            Bad::NoCertificate
            | Bad::ProvenNoise
            | Bad::ProvenBadAuthority
            | Bad::UnprovenStream => Some(b"h2"),
            Bad::Random
            | Bad::HalfHello
            | Bad::Nothing
            | Bad::Http
            | Bad::LyingLength
            | Bad::TooLongFrame
            | Bad::Datagram => None,
        }
    }

    fn bytes(self, noise: &mut Noise) -> Vec<u8> {
        match self {
            Bad::HalfHello => HALF_HELLO.to_vec(),
            Bad::Nothing => Vec::new(),
            Bad::Http => b"GET / HTTP/1.1\r\nhost: rebel-base\r\n\r\n".to_vec(),
            Bad::LyingLength => [&[0x01, 0x00], noise.bytes(40).as_slice()].concat(),
            Bad::TooLongFrame => [&[0xff, 0xff], noise.bytes(40).as_slice()].concat(),
            Bad::NoCertificate => PREFACE.to_vec(),
            // One header block: CONNECT (`:method`), and what is no address (`:authority`).
            Bad::ProvenBadAuthority => request(b"\x02\x07CONNECT\x01\x07nowhere"),
            Bad::UnprovenStream => request(&delta_stream()),
            Bad::Random | Bad::ProvenNoise | Bad::Datagram => {
                let len = 1 + noise.below(4000);
                noise.bytes(len)
            }
        }
    }
}

/// Errors of the attackers' own are no matter; that the door can be reached is.
fn attack_plainly(target: SocketAddr, bad: Bad, noise: &mut Noise) -> Result<()> {
    let bytes = bad.bytes(noise);
    if matches!(bad, Bad::Datagram) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(&bytes, target)?;
        // Waiting for an answer, if there is one, keeps the server's queue from overflowing.
        socket.recv(&mut [0; 512]).ok();
        return Ok(());
    }
    let mut stream = match TcpStream::connect_timeout(&target, DEADLINE) {
        Ok(stream) => stream,
        // It was made, and refused before this side looked.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {target}")),
    };
    if matches!(bad, Bad::Nothing) {
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    if stream.write_all(&bytes).is_ok() {
        stream.shutdown(Shutdown::Write).ok();
        // Whatever comes, or nothing: only that the other end had the time to answer counts.
        let _len = stream.read(&mut [0; 512]).unwrap_or(0);
    }
    Ok(())
}

fn attack_in_tls(target: SocketAddr, bad: Bad, noise: &mut Noise, weapons: &Weapons) -> Result<()> {
    let svid = match bad {
        Bad::ProvenNoise | Bad::ProvenBadAuthority => Some(&*weapons.svid),
        _ => None,
    };
    let bytes = bad.bytes(noise);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(target).await?;
        let Ok(mut tls) = CarelessPeer::default().connect(svid, stream).await else {
            ensure!(svid.is_none(), "a good certificate is refused");
            return Ok(());
        };
        if tls.write_all(&bytes).await.is_ok() && tls.flush().await.is_ok() {
            let mut answer = Vec::new();
            let listening =
                async { while tls.read_buf(&mut answer).await.is_ok_and(|len| len > 0) {} };
            // The other side closes, or says why not and waits; both are well. Whoever leaves too early has asked nothing.
            timeout(TLS_PATIENCE, listening).await.ok();
        }
        Ok(())
    })
}

/// Preface, empty settings, and one HEADERS frame that opens stream 1.
fn request(block: &[u8]) -> Vec<u8> {
    let len = u8::try_from(block.len()).unwrap_or(u8::MAX);
    let head = [0, 0, len, 0x01, 0x04, 0, 0, 0, 1];
    [PREFACE, &head, block].concat()
}

/// The header block of a stream of changes, without Huffman codes and without the table.
fn delta_stream() -> Vec<u8> {
    let literal = |text: &[u8]| -> Vec<u8> {
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[len], text].concat()
    };
    // `:method: POST` and `:scheme: https` are numbers 3 and 7 of the fixed table; `:path` has the name of number 4.
    let mut block = vec![0x83, 0x87, 0x04];
    block.extend(literal(DELTA_PATH));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0);
        block.extend(literal(name.as_bytes()));
        block.extend(literal(value.as_bytes()));
    }
    block
}

/// The same bytes without sense in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn new(seed: usize) -> Noise {
        Noise(0x9e37_79b9_7f4a_7c15 ^ (u64::try_from(seed).unwrap_or(0) << 8))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_be_bytes()[3]).collect()
    }
}

const ATTACKERS: usize = 8;
/// How long an attacker listens for an answer.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same where a handshake was made, and an answer takes more than a refusal.
const TLS_PATIENCE: Duration = Duration::from_millis(500);
/// How long a connection may take to be accepted by the kernel.
const DEADLINE: Duration = Duration::from_secs(10);
/// A TLS record that announces 512 bytes of a first message, and a few of them.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijklmnopqrstuvwxyz";
/// What an HTTP/2 client says first: the preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// What a node proxy asks for.
const DELTA_PATH: &[u8] =
    b"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
