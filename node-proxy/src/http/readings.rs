//! What a server may take a path for.
//!
//! A path is judged before a server reads it, and servers differ: some decode `%2e`, some remove `..` before and some after
//! decoding, some merge `//`, take `\` for `/`, or cut `;parameters` off. A proxy that normalises the path its own way (Envoy's
//! choice, and off by default) is right for the servers that agree with it, changes what the others are asked for, and has to be
//! told for each application which way is right. A proxy that does not is right for servers that do nothing.
//!
//! Here the path goes to the server as it came, and policy is asked about every reading that a server may have. The request passes
//! if all of them may pass: so a request that is allowed is allowed whatever the server makes of it, and no setting can be wrong.
//! A path without any of these signs, that is nearly every path, has one reading and costs one look.

use std::borrow::Cow;

use super::error::BadRequest;

/// The readings of a path with its query beside the one as it stands; the query stays as it is.
///
/// # Errors
/// Fails for what no two servers agree on: encodings that are none, `NUL` and other control characters, text that is not UTF-8
/// (overlong forms of `.` and `/` among it), and paths with more readings than are judged.
pub(super) fn other_readings(target: &str) -> Result<Vec<String>, BadRequest> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    check_bytes(path, query)?;
    if !is_ambiguous(path) {
        return Ok(Vec::new());
    }
    let mut readings = vec![path.to_owned()];
    extend(&mut readings, cut_parameters)?;
    extend(&mut readings, decode_dots)?;
    extend(&mut readings, decode)?;
    check_decoded(&readings)?;
    // Decoded again by whoever stands behind the server.
    extend(&mut readings, decode)?;
    check_decoded(&readings)?;
    extend(&mut readings, cut_parameters)?;
    extend(&mut readings, turn_slashes)?;
    extend(&mut readings, merge_slashes)?;
    extend(&mut readings, remove_dots)?;
    readings.remove(0);
    for reading in &mut readings {
        reading.push_str(query);
    }
    Ok(readings)
}

fn check_bytes(path: &str, query: &str) -> Result<(), BadRequest> {
    let is_forbidden = |b: u8| b <= b' ' || matches!(b, 0x7f | b'#' | b'\\');
    if path.bytes().any(is_forbidden) {
        return Err(BadRequest::Target);
    }
    // A backslash in a query is data, for all servers.
    match query.bytes().any(|b| b != b'\\' && is_forbidden(b)) {
        true => Err(BadRequest::Target),
        false => Ok(()),
    }
}

fn is_ambiguous(path: &str) -> bool {
    let mut previous = 0;
    path.bytes().any(|b| {
        let sign = matches!(b, b'%' | b';') || (previous == b'/' && matches!(b, b'/' | b'.'));
        previous = b;
        sign
    })
}

/// Adds what becomes of each reading.
fn extend(
    readings: &mut Vec<String>,
    read: impl Fn(&str) -> Result<Cow<'_, str>, BadRequest>,
) -> Result<(), BadRequest> {
    for at in 0..readings.len() {
        let Some(reading) = readings.get(at) else {
            break;
        };
        let Cow::Owned(other) = read(reading)? else {
            continue;
        };
        if readings.contains(&other) {
            continue;
        }
        if readings.len() == READINGS_MAX {
            return Err(BadRequest::AmbiguousPath);
        }
        readings.push(other);
    }
    Ok(())
}

/// `;name=value` at the end of a segment goes.
fn cut_parameters(path: &str) -> Result<Cow<'_, str>, BadRequest> {
    if !path.contains(';') {
        return Ok(Cow::Borrowed(path));
    }
    let segments: Vec<_> = path
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default())
        .collect();
    Ok(Cow::Owned(segments.join("/")))
}

/// Decodes everything.
fn decode(path: &str) -> Result<Cow<'_, str>, BadRequest> {
    decode_those(path, |_| true)
}

/// Decodes what RFC 3986 lets everyone decode, as far as it matters: dots.
fn decode_dots(path: &str) -> Result<Cow<'_, str>, BadRequest> {
    decode_those(path, |byte| byte == b'.')
}

fn decode_those(path: &str, wanted: impl Fn(u8) -> bool) -> Result<Cow<'_, str>, BadRequest> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    let mut changed = false;
    while let [byte, after @ ..] = rest {
        match encoded_byte(rest) {
            Some(byte) if wanted(byte) => {
                decoded.push(byte);
                changed = true;
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    if !changed {
        return Ok(Cow::Borrowed(path));
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| BadRequest::PathEncoding)
}

fn encoded_byte(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else {
        return None;
    };
    let digit = |b: &u8| {
        char::from(*b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    Some(digit(high)? << 4 | digit(low)?)
}

/// No reading may hold control characters, which end paths for some servers.
fn check_decoded(readings: &[String]) -> Result<(), BadRequest> {
    let is_broken = |r: &String| r.bytes().any(|b| b < b' ' || b == 0x7f);
    match readings.iter().any(is_broken) {
        true => Err(BadRequest::PathEncoding),
        false => Ok(()),
    }
}

/// `\` is `/`.
fn turn_slashes(path: &str) -> Result<Cow<'_, str>, BadRequest> {
    Ok(match path.contains('\\') {
        true => Cow::Owned(path.replace('\\', "/")),
        false => Cow::Borrowed(path),
    })
}

/// `//` is `/`.
fn merge_slashes(path: &str) -> Result<Cow<'_, str>, BadRequest> {
    if !path.contains("//") {
        return Ok(Cow::Borrowed(path));
    }
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    Ok(Cow::Owned(merged))
}

/// `.` and `..` are taken away as RFC 3986 does it.
fn remove_dots(path: &str) -> Result<Cow<'_, str>, BadRequest> {
    let segments = || path.split('/').skip(1);
    if !segments().any(|s| s == "." || s == "..") {
        return Ok(Cow::Borrowed(path));
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in segments() {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                let _parent = kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &kept {
        clean.push('/');
        clean.push_str(segment);
    }
    if ends_in_directory || clean.is_empty() {
        clean.push('/');
    }
    Ok(Cow::Owned(clean))
}

/// A `%` that introduces nothing is read as itself by some and refused by others.
pub(super) fn has_broken_encoding(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let bytes = path.as_bytes();
    (0..bytes.len())
        .filter(|at| bytes.get(*at) == Some(&b'%'))
        .any(|at| bytes.get(at..).and_then(encoded_byte).is_none())
}

/// Readings of one path that policy is asked about.
const READINGS_MAX: usize = 32;

#[cfg(test)]
mod tests;
