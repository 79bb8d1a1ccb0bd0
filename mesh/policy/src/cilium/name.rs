//! DNS names and patterns of them.

use tulle_model::NamePattern;

use crate::read::{Node, ReadPolicyError};

/// `matchName` or `matchPattern`.
pub(super) fn read_name_pattern_at(node: &Node<'_>) -> Result<NamePattern, ReadPolicyError> {
    node.only(&["matchName", "matchPattern"])?;
    match (node.get("matchName")?, node.get("matchPattern")?) {
        (Some(name), None) => {
            read_name(name.text()?).ok_or_else(|| name.refuse("a DNS name such as api.example.com"))
        }
        (None, Some(pattern)) => read_name_pattern(pattern.text()?).ok_or_else(|| {
            pattern.refuse("a pattern of DNS names such as *.example.com or **.example.com")
        }),
        (None, None) | (Some(_), Some(_)) => Err(node.refuse("either matchName or matchPattern")),
    }
}

/// A name without a star.
fn read_name(text: &str) -> Option<NamePattern> {
    let name = normal(text)?;
    (!name.contains('*')).then_some(NamePattern::Exact(name))
}

/// Reads a `matchPattern` into the form of `NamePattern`; `None` = it is none.
///
/// Two stars mean something at the beginning only, as a label of their own; elsewhere several stars are as good as one.
pub fn read_name_pattern(text: &str) -> Option<NamePattern> {
    let name = normal(text)?;
    if !name.contains('*') {
        return Some(NamePattern::Exact(name));
    }
    let (head, rest) = match name.strip_prefix("**.") {
        // Any labels before nothing: every name.
        Some("") => ("*.", ""),
        Some(rest) => ("**.", rest),
        None => ("", name.as_str()),
    };
    let mut pattern = head.to_owned();
    for letter in rest.chars() {
        if letter != '*' || !pattern.ends_with('*') {
            pattern.push(letter);
        }
    }
    Some(NamePattern::Pattern(pattern))
}

/// Lower case, with the final dot; `None` = letters or lengths that no name has.
fn normal(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let bare = text.strip_suffix('.').unwrap_or(&text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_LEN_MAX
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*'))
    };
    (bare.len() < NAME_LEN_MAX && bare.split('.').all(label)).then(|| format!("{bare}."))
}

/// The limits of DNS (RFC 1035, 2.3.4), as texts without and with the final dot.
const LABEL_LEN_MAX: usize = 63;
const NAME_LEN_MAX: usize = 254;
