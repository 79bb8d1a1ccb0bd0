//! Whether a request is what a policy speaks of.
//!
//! Decides by what a server may make of a request, and servers differ: some take `/a/../b` for `/b`, some do not. Envoy rewrites the path
//! before it asks the policy; here nothing is rewritten, so a policy is asked about each reading that a server may have. An `ALLOW` must
//! hold for all of them, a `DENY` for one.

use std::borrow::Cow;

use tulle_model::{HeaderCondition, PathMatch, RequestMatch, StringMatch};

use crate::compiled::HttpFacts;

/// How sure a match must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readings {
    /// It must hold however a server reads the request: for what lets in.
    All,
    /// One reading is enough: for what refuses or notes.
    Any,
}

/// Whether `request` is what `wanted` speaks of.
pub(crate) fn fits_request(
    wanted: &RequestMatch,
    request: &HttpFacts<'_>,
    readings: Readings,
) -> bool {
    let method = |m: &StringMatch| fits_text(m, request.method);
    fits_lists(&wanted.methods, &wanted.not_methods, method)
        && fits_hosts(wanted, request.authority)
        && fits_paths(wanted, request.path, readings)
        && wanted
            .headers
            .iter()
            .all(|condition| fits_header(condition, request.headers, readings))
}

fn fits_lists<T>(any_of: &[T], none_of: &[T], fits: impl Fn(&T) -> bool) -> bool {
    (any_of.is_empty() || any_of.iter().any(&fits)) && !none_of.iter().any(&fits)
}

/// As texts are compared everywhere in Istio's policies.
pub(crate) fn fits_text(wanted: &StringMatch, text: &str) -> bool {
    match wanted {
        StringMatch::Exact(exact) => text == exact,
        StringMatch::Prefix(prefix) => text.starts_with(prefix),
        StringMatch::Suffix(suffix) => text.ends_with(suffix),
        StringMatch::Presence => !text.is_empty(),
    }
}

fn fits_hosts(wanted: &RequestMatch, authority: &str) -> bool {
    if wanted.hosts.is_empty() && wanted.not_hosts.is_empty() {
        return true;
    }
    let whole = authority.to_ascii_lowercase();
    let bare = without_port(&whole);
    // The final dot makes no other name.
    let plain = bare.strip_suffix('.').unwrap_or(bare);
    fits_lists(&wanted.hosts, &wanted.not_hosts, |wanted| {
        let wanted = match wanted {
            StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
            StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
            StringMatch::Suffix(text) => StringMatch::Suffix(text.to_ascii_lowercase()),
            StringMatch::Presence => StringMatch::Presence,
        };
        [whole.as_str(), bare, plain]
            .into_iter()
            .any(|host| fits_text(&wanted, host))
    })
}

/// `host:port`, `[v6]:port` without the port.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (host.ends_with(']') || !host.contains(':')) =>
        {
            host
        }
        Some(_) | None => authority,
    }
}

fn fits_paths(wanted: &RequestMatch, path: &str, readings: Readings) -> bool {
    if wanted.paths.is_empty() && wanted.not_paths.is_empty() {
        return true;
    }
    let fits = |path: &str| {
        fits_lists(&wanted.paths, &wanted.not_paths, |wanted| {
            fits_path(wanted, path)
        })
    };
    let raw = path.split(['?', '#']).next().unwrap_or_default();
    let plain = normalized(raw, false);
    match readings {
        Readings::All => fits(raw) && (raw == plain || fits(&plain)),
        Readings::Any => {
            fits(raw) || fits(&plain) || {
                let split = normalized(raw, true);
                fits(&split)
            }
        }
    }
}

fn fits_path(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Text(text) => fits_text(text, path),
        PathMatch::Template(template) => fits_template(template, path),
    }
}

fn fits_template(template: &str, path: &str) -> bool {
    let wanted: Vec<&str> = template.split('/').collect();
    let found: Vec<&str> = path.split('/').collect();
    let fits = |(wanted, found): (&&str, &&str)| match *wanted {
        "{*}" => !found.is_empty(),
        literal => literal == *found,
    };
    let Some(at) = wanted.iter().position(|segment| *segment == "{**}") else {
        return wanted.len() == found.len() && wanted.iter().zip(&found).all(fits);
    };
    let (head, tail) = (wanted.get(..at), wanted.get(at + 1..));
    let (Some(head), Some(tail)) = (head, tail) else {
        return false;
    };
    // The operator takes what is between, at least one segment.
    found.len() > head.len() + tail.len()
        && head.iter().zip(&found).all(fits)
        && tail.iter().rev().zip(found.iter().rev()).all(fits)
}

/// The path as a server may read it: letters that need no escape are written out, `\` is `/`, several `/` are one, `.` and `..` are
/// resolved; with `split`, escaped slashes separate segments too.
fn normalized(path: &str, split: bool) -> Cow<'_, str> {
    let decoded = decode(path, split);
    let is_plain = !decoded.contains("//")
        && !decoded.contains("/./")
        && !decoded.contains("/..")
        && !decoded.ends_with("/.");
    if is_plain {
        return decoded;
    }
    let mut segments: Vec<&str> = Vec::new();
    let is_rooted = decoded.starts_with('/');
    let all: Vec<&str> = decoded.split('/').collect();
    let last = all.len().saturating_sub(1);
    for (i, segment) in all.iter().enumerate() {
        match *segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            "" => {}
            other => segments.push(other),
        }
        // A directory keeps its final slash.
        if i == last && matches!(*segment, "" | "." | "..") && !segments.is_empty() {
            segments.push("");
        }
    }
    let root = if is_rooted { "/" } else { "" };
    Cow::Owned(format!("{root}{}", segments.join("/")))
}

/// Decodes the escapes of letters that need none (RFC 3986, 2.3), and of slashes if asked.
fn decode(path: &str, slashes: bool) -> Cow<'_, str> {
    if !path.contains(['%', '\\']) {
        return Cow::Borrowed(path);
    }
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(letter) = rest.chars().next() {
        let escaped = rest
            .strip_prefix('%')
            .and_then(|hex| hex.get(..2))
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (put, len) = match escaped {
            Some(b'/' | b'\\') if slashes => ('/', 3),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                (char::from(byte), 3)
            }
            Some(_) | None if letter == '\\' => ('/', 1),
            Some(_) | None => (letter, letter.len_utf8()),
        };
        text.push(put);
        rest = rest.get(len..).unwrap_or_default();
    }
    Cow::Owned(text)
}

/// Several values of a header are one, with commas between; one of them alone is enough to refuse.
fn fits_header(condition: &HeaderCondition, headers: &[(&str, &[u8])], readings: Readings) -> bool {
    let values: Vec<Cow<'_, str>> = headers
        .iter()
        .filter(|(name, _)| *name == condition.name)
        .map(|(_, value)| String::from_utf8_lossy(value))
        .collect();
    let fits = |value: &str| {
        fits_lists(&condition.values, &condition.not_values, |wanted| {
            fits_text(wanted, value)
        })
    };
    match values.as_slice() {
        // Without a value, nothing can be one that is wanted, nor one that is not.
        [] => condition.values.is_empty(),
        [value] => fits(value),
        several => {
            let joined = fits(&several.join(","));
            match readings {
                Readings::All => joined,
                Readings::Any => joined || several.iter().any(|value| fits(value)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
