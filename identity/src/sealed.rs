//! Sealed records between two proxies of this mesh: what is left of TLS when the bytes must not be copied.
//!
//! TLS proves both ends and agrees on a secret; then the connection is taken over, and records are sealed and opened *in place*,
//! in the buffer that the socket reads or writes. A TLS library copies each byte two to four times on the way, because it owns its
//! buffers. The keys come from the TLS exporter (RFC 8446 §7.5), one secret for each direction, so nobody but the two ends that
//! finished the handshake has them; they never meet the handshake's own traffic keys.
//!
//! A record is AES-128-GCM. What holds, and by what:
//!
//! - *No nonce twice with one key.* A nonce is the key's IV with a counter of 64 bits mixed in, one step for each record; after
//!   [`RECORDS_PER_KEY`] records both ends derive the next key and IV from the next generation of the secret, and the counter begins
//!   anew (test `keys_change_and_records_go_on`). A clone of a [`Sealer`] cannot be made.
//! - *No record in the wrong direction.* Each direction has a secret of its own, told apart by the exporter's context: what this end
//!   sealed does not open here (test `only_the_two_ends_of_a_handshake_open_each_others_records`).
//! - *Order, gaps and repeats.* Nothing on the wire names the counter, so a record opens in its turn or not at all. After the first that
//!   does not, nothing opens any more, or records around a forged one could be joined (test `nothing_opens_after_a_failure`).
//! - *The clear part.* Who calls gives the length that precedes a record as the header, which is authenticated with it; a reader believes
//!   a length only as far as it waits for so many bytes.
//! - *Truncation.* There is no word for the end here: what is sealed must say where a message ends, as a lane's `DATA_END` does; a
//!   connection that just ends is an error there.
//! - *Limits.* 2^23 records of at most 16 KiB for each key are a third of what RFC 8446 §5.5 allows. A key that was left behind cannot
//!   be computed from the next.
//! - *Who has the keys.* The exporter's secret comes from the key exchange and the handshake up to the server's `Finished`. It does not
//!   cover the client's certificate; so neither end makes a [`Sealer`] before it has verified the other's `Finished`, which does.
//! - *Nothing between TLS and the first record.* The server sends no tickets and speaks first, after the client's `Finished`; the
//!   client waits for that. Bytes that someone else adds to either flight fail the handshake, or are lost with TLS's buffer: they were
//!   nobody's.
//! - *What stays in memory.* Secrets and keys are overwritten when they are replaced or dropped.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk},
};
use zeroize::Zeroizing;

/// By how many bytes a sealed record is longer than what is in it.
pub const SEAL_LEN: usize = 16;

/// Seals records in one direction.
pub struct Sealer(Way);

/// Opens the records that the peer's [`Sealer`] made, in the same order.
pub struct Opener {
    way: Way,
    /// A record did not open: none will.
    is_spoilt: bool,
}

/// A record did not open, or a key could not be made: the connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed record is not what the peer's next record must be")]
pub struct SealError;

impl Sealer {
    pub(crate) fn new(secret: &[u8; SECRET_LEN]) -> Result<Self, SealError> {
        Way::new(secret, RECORDS_PER_KEY).map(Sealer)
    }

    /// Seals `content` in place and returns the tag, which follows it; `header` is what precedes it in the clear.
    ///
    /// # Errors
    /// The next key cannot be derived.
    pub fn seal(&mut self, header: &[u8], content: &mut [u8]) -> Result<[u8; SEAL_LEN], SealError> {
        let nonce = self.0.next_nonce()?;
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), content)
            .map_err(|_| SealError)?;
        tag.as_ref().try_into().map_err(|_| SealError)
    }
}

impl Opener {
    pub(crate) fn new(secret: &[u8; SECRET_LEN]) -> Result<Self, SealError> {
        Way::new(secret, RECORDS_PER_KEY).map(Opener::of)
    }

    fn of(way: Way) -> Self {
        Opener {
            way,
            is_spoilt: false,
        }
    }

    /// Opens `sealed` (content and tag) in place; the content lies at its beginning, as long as the result says.
    ///
    /// # Errors
    /// It is not the peer's next record. The connection cannot go on, and nothing opens any more.
    pub fn open(&mut self, header: &[u8], sealed: &mut [u8]) -> Result<usize, SealError> {
        if self.is_spoilt {
            return Err(SealError);
        }
        // Until the opposite is shown.
        self.is_spoilt = true;
        let nonce = self.way.next_nonce()?;
        let content = self
            .way
            .key
            .open_in_place(nonce, Aad::from(header), sealed)
            .map_err(|_| SealError)?;
        self.is_spoilt = false;
        Ok(content.len())
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

/// One direction: its present key, and the secret from which the next one comes.
struct Way {
    secret: Prk,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    records: u64,
    records_max: u64,
}

impl Way {
    fn new(secret: &[u8; SECRET_LEN], records_max: u64) -> Result<Self, SealError> {
        let secret = Prk::new_less_safe(HKDF_SHA256, secret);
        let (key, iv) = keys(&secret)?;
        Ok(Way {
            secret,
            key,
            iv,
            records: 0,
            records_max,
        })
    }

    fn next_nonce(&mut self) -> Result<Nonce, SealError> {
        if self.records == self.records_max {
            let next: Zeroizing<[u8; SECRET_LEN]> = expand(&self.secret, b"tulle next")?;
            *self = Way::new(&next, self.records_max)?;
        }
        let mut nonce = self.iv;
        let counter = self.records.to_be_bytes();
        for (byte, count) in nonce.iter_mut().rev().zip(counter.iter().rev()) {
            *byte ^= count;
        }
        self.records += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn keys(secret: &Prk) -> Result<(LessSafeKey, [u8; NONCE_LEN]), SealError> {
    let key: Zeroizing<[u8; KEY_LEN]> = expand(secret, b"tulle key")?;
    let key = UnboundKey::new(&AES_128_GCM, key.as_slice()).map_err(|_| SealError)?;
    Ok((LessSafeKey::new(key), *expand(secret, b"tulle iv")?))
}

fn expand<const LEN: usize>(secret: &Prk, label: &[u8]) -> Result<Zeroizing<[u8; LEN]>, SealError> {
    let mut out = Zeroizing::new([0; LEN]);
    let label = [label];
    let okm = secret
        .expand(&label, Length::<LEN>)
        .map_err(|_| SealError)?;
    okm.fill(out.as_mut_slice()).map_err(|_| SealError)?;
    Ok(out)
}

struct Length<const LEN: usize>;

impl<const LEN: usize> KeyType for Length<LEN> {
    fn len(&self) -> usize {
        LEN
    }
}

/// The label of the exporter. What it says is part of the protocol `tulle/1`.
pub(crate) const EXPORTER: &[u8] = b"EXPORTER-tulle-lane";
pub(crate) const SECRET_LEN: usize = 32;
const KEY_LEN: usize = 16;
/// A third of what RFC 8446 §5.5 allows AES-GCM with full records; 128 GiB of them.
const RECORDS_PER_KEY: u64 = 1 << 23;

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(records_max: u64) -> (Sealer, Opener) {
        let secret = [7; SECRET_LEN];
        let way = || Way::new(&secret, records_max).unwrap();
        (Sealer(way()), Opener::of(way()))
    }

    fn sealed(sealer: &mut Sealer, header: &[u8], content: &[u8]) -> Vec<u8> {
        let mut record = content.to_vec();
        let tag = sealer.seal(header, &mut record).unwrap();
        record.extend_from_slice(&tag);
        record
    }

    #[test]
    fn a_record_opens_once_and_in_its_turn() {
        let (mut sealer, mut opener) = ends(RECORDS_PER_KEY);
        let mut first = sealed(&mut sealer, b"h", b"first");
        let mut second = sealed(&mut sealer, b"h", b"");
        let mut again = first.clone();
        assert_eq!(opener.open(b"h", &mut first), Ok(5));
        assert_eq!(&first[..5], b"first");
        assert_eq!(opener.open(b"h", &mut again), Err(SealError));
        assert_eq!(
            opener.open(b"h", &mut second),
            Err(SealError),
            "its turn was the second"
        );
        let (mut sealer, mut opener) = ends(RECORDS_PER_KEY);
        let _lost = sealed(&mut sealer, b"h", b"first");
        let mut second = sealed(&mut sealer, b"h", b"second");
        assert_eq!(opener.open(b"h", &mut second), Err(SealError));
    }

    #[test]
    fn nothing_opens_after_a_failure() {
        let (mut sealer, mut opener) = ends(RECORDS_PER_KEY);
        let mut forged = sealed(&mut sealer, b"h", b"first");
        forged[0] ^= 1;
        let mut second = sealed(&mut sealer, b"h", b"second");
        assert_eq!(opener.open(b"h", &mut forged), Err(SealError));
        // By its number it would be the next.
        assert_eq!(opener.open(b"h", &mut second), Err(SealError));
        // An attempt that is too short counts as well.
        let (mut sealer, mut opener) = ends(RECORDS_PER_KEY);
        let mut first = sealed(&mut sealer, b"h", b"first");
        assert_eq!(opener.open(b"h", &mut [0; 3]), Err(SealError));
        assert_eq!(opener.open(b"h", &mut first), Err(SealError));
    }

    #[test]
    fn a_record_needs_its_own_secret() {
        let (mut sealer, _) = ends(RECORDS_PER_KEY);
        let mut record = sealed(&mut sealer, b"h", b"content");
        let mut other = [7; SECRET_LEN];
        other[SECRET_LEN - 1] ^= 1;
        let mut opener = Opener::new(&other).unwrap();
        assert_eq!(opener.open(b"h", &mut record), Err(SealError));
    }

    #[test]
    fn no_bit_of_header_content_or_tag_can_be_changed() {
        let header = [1, 2];
        let (mut sealer, _) = ends(RECORDS_PER_KEY);
        let record = sealed(&mut sealer, &header, b"content");
        for bit in 0..(header.len() + record.len()) * 8 {
            let (_, mut opener) = ends(RECORDS_PER_KEY);
            let mut all = [header.as_slice(), record.as_slice()].concat();
            all[bit / 8] ^= 1 << (bit % 8);
            let (header, record) = all.split_at_mut(header.len());
            assert_eq!(opener.open(header, record), Err(SealError), "bit {bit}");
        }
        let (_, mut opener) = ends(RECORDS_PER_KEY);
        assert_eq!(opener.open(&header, &mut []), Err(SealError));
    }

    #[test]
    fn keys_change_and_records_go_on() {
        let (mut sealer, mut opener) = ends(3);
        let mut seen = Vec::new();
        for number in 0..10_u8 {
            let mut record = sealed(&mut sealer, b"", &[0; 32]);
            seen.push(record.clone());
            assert_eq!(opener.open(b"", &mut record), Ok(32), "record {number}");
            assert_eq!(record[..32], [0; 32]);
        }
        seen.sort();
        seen.dedup();
        // Equal contents never look alike: no nonce came twice with one key.
        assert_eq!(seen.len(), 10);
    }
}
