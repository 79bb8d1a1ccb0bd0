//! Patterns of DNS names and of TLS server names.
//!
//! Decides whether a name fits a pattern, exactly as Cilium's `matchPattern` grammar says: `*` stands for any number of letters,
//! digits, `-` and `_` within one label, a leading `**.` for one or more whole labels, and the lone `*` for every name. A
//! pattern is matched by hand, in time linear in the name for each star: no expression has to be built for each of a mesh's patterns,
//! and no input can make one slow.

use std::fmt;

use tulle_model::NamePattern;

/// Whether `name` (any case, with or without its final dot) is a name that `pattern` means.
pub fn matches_name(pattern: &NamePattern, name: &str) -> bool {
    let name = normalized(name);
    match pattern {
        NamePattern::Exact(exact) => normalized(exact) == name,
        NamePattern::Pattern(pattern) => matches_pattern(normalized(pattern).as_str(), &name),
    }
}

/// Whether `name` (any case) is a TLS server name that `pattern` means: the same grammar, without final dots.
pub fn matches_server_name(pattern: &str, name: &str) -> bool {
    matches_pattern(&normalized(pattern), &normalized(name))
}

/// Lower case, no final dot. The root's name becomes the empty text.
fn normalized(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn matches_pattern(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        // Every name of whole labels, also the root's.
        return name.is_empty() || name.split('.').all(is_label);
    }
    let Some(rest) = pattern.strip_prefix("**.") else {
        return matches_labels(pattern, name);
    };
    // One or more labels ahead of what the rest says; the rest says how many labels it takes.
    let rest_len = rest.split('.').count();
    let labels: Vec<&str> = name.split('.').collect();
    let Some(ahead) = labels.len().checked_sub(rest_len) else {
        return false;
    };
    let (front, back) = labels.split_at(ahead);
    !front.is_empty()
        && front.iter().all(|label| is_label(label))
        && rest.split('.').zip(back).all(|(p, l)| matches_label(p, l))
}

/// Label by label.
fn matches_labels(pattern: &str, name: &str) -> bool {
    let mut wanted = pattern.split('.');
    let mut labels = name.split('.');
    loop {
        match (wanted.next(), labels.next()) {
            (None, None) => return true,
            (Some(pattern), Some(label)) if matches_label(pattern, label) => {}
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => return false,
        }
    }
}

/// One label against its part of the pattern: the usual walk with one place to come back to, the last star.
fn matches_label(pattern: &str, label: &str) -> bool {
    let (pattern, label) = (pattern.as_bytes(), label.as_bytes());
    let (mut p, mut l) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = label.get(l) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, l));
                p += 1;
            }
            Some(wanted) if wanted == byte => {
                p += 1;
                l += 1;
            }
            Some(_) | None => {
                let Some((star_p, star_l)) = star else {
                    return false;
                };
                // The star takes one more letter, if it is one that a star may take.
                if !label.get(star_l).copied().is_some_and(is_letter) {
                    return false;
                }
                star = Some((star_p, star_l + 1));
                p = star_p + 1;
                l = star_l + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|left| *left == b'*')
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(is_letter)
}

/// What a star may stand for.
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// A pattern as it is written, for reports.
#[derive(Debug, Clone, Copy)]
pub struct DisplayPattern<'a>(pub &'a NamePattern);

impl fmt::Display for DisplayPattern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NamePattern::Exact(text) | NamePattern::Pattern(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests;
