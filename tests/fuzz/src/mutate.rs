//! Changes bytes: a little most of the time, so that what stays still means something.

use crate::random::Random;

/// `bytes` with a few changes; `other` is another input to take pieces from, `words` are pieces that the format knows.
pub(crate) fn mutate(
    bytes: &[u8],
    other: &[u8],
    words: &[&str],
    len_max: usize,
    random: &mut Random,
) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _change in 0..=random.below(4) {
        change(&mut changed, other, words, random);
    }
    changed.truncate(len_max);
    changed
}

fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    match random.below(9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            let strange = [0, 1, b'0', b'9', b'.', b'/', b'*', b'"', 0x7f, 0x80, 0xff];
            let byte = match random.below(2) {
                0 => random.byte(),
                _ => random.pick(&strange).copied().unwrap_or_default(),
            };
            match bytes.get_mut(at) {
                Some(place) => *place = byte,
                None => bytes.push(byte),
            }
        }
        2 => insert(bytes, at, &[random.byte()]),
        3 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            drop(bytes.drain(at.min(end)..end));
        }
        4 | 5 => {
            if let Some(word) = random.pick(words) {
                insert(bytes, at, word.as_bytes());
            }
        }
        6 => {
            let piece = piece(bytes, random).to_vec();
            insert(bytes, at, &piece);
        }
        7 => {
            let piece = piece(other, random).to_vec();
            insert(bytes, at, &piece);
        }
        _ => change_number(bytes, random),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let tail = bytes.split_off(at.min(bytes.len()));
    bytes.extend_from_slice(piece);
    bytes.extend_from_slice(&tail);
}

fn piece<'a>(bytes: &'a [u8], random: &mut Random) -> &'a [u8] {
    let start = random.below(bytes.len());
    let end = (start + 1 + random.below(64)).min(bytes.len());
    bytes.get(start..end).unwrap_or_default()
}

/// Puts another number in the place of one, as a text.
fn change_number(bytes: &mut Vec<u8>, random: &mut Random) {
    let digits: Vec<usize> = (0..bytes.len())
        .filter(|i| bytes.get(*i).is_some_and(u8::is_ascii_digit))
        .collect();
    let Some(start) = random.pick(&digits).copied() else {
        return;
    };
    let mut end = start;
    while bytes.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    let numbers = [
        "0",
        "1",
        "-1",
        "32",
        "33",
        "128",
        "129",
        "255",
        "256",
        "65535",
        "65536",
        "4294967296",
        "18446744073709551616",
        "1e9",
    ];
    let number = random.pick(&numbers).copied().unwrap_or_default();
    drop(bytes.splice(start..end, number.bytes()));
}
