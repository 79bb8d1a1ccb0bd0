//! The corners of RE2's syntax that this build's engine reads differently.
//!
//! Cilium hands its expressions to Envoy, whose RE2 differs from this build's engine in a few places where both take a text and mean
//! different values. A text that lies in such a corner is refused by name, so that no rule matches anything else here than there.

use crate::l7;

/// What a text must be, for the error, if it is no expression that means the same in both engines.
pub(super) fn check_expression(text: &str) -> Result<(), String> {
    if text.len() > LEN_MAX {
        return Err(format!("an expression of at most {LEN_MAX} bytes"));
    }
    check_corners(text)
        .map_err(|how| format!("an expression that RE2 reads in the same way: {how}"))?;
    l7::check_expression(text).map_err(|error| match error {
        l7::ExpressionError::Syntax { reason, .. } => {
            let reason: String = reason.chars().take(FAULT_LEN_MAX).collect();
            format!("an expression in RE2's syntax ({reason})")
        }
        l7::ExpressionError::TooLarge { .. } => format!(
            "an expression whose compiled form takes at most {} bytes",
            l7::EXPRESSION_SIZE_MAX
        ),
    })
}

/// Refuses what both engines take and read differently.
fn check_corners(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        at += match rest {
            [b'\\', b'<' | b'>', ..] => {
                return Err("write '<' and '>' without '\\'");
            }
            [b'\\', b'b' | b'B', b'{', ..] => {
                return Err("no braces behind \\b");
            }
            [b'\\', _, ..] => 2,
            [b'{', b',', ..] => {
                return Err("write {0,n} for {,n}");
            }
            [b'(', b'?', flags @ ..] => {
                check_flags(flags)?;
                2
            }
            [b'[', class @ ..] => 1 + class_len(class)?,
            _ => 1,
        };
    }
    Ok(())
}

/// The flags at the beginning of a group: only those that RE2 has.
fn check_flags(group: &[u8]) -> Result<(), &'static str> {
    // A named group has a name there.
    if matches!(group, [b'P' | b'<', ..]) {
        return Ok(());
    }
    let flags = group.iter().take_while(|byte| !matches!(byte, b':' | b')'));
    if flags.into_iter().all(|flag| b"imsU-".contains(flag)) {
        Ok(())
    } else {
        Err("only the flags i, m, s and U")
    }
}

/// The length of a class behind its `[`, with the `]`.
fn class_len(class: &[u8]) -> Result<usize, &'static str> {
    let mut at = match class {
        [b'^', b']', ..] => 2,
        [b'^' | b']', ..] => 1,
        _ => 0,
    };
    while let Some(rest) = class.get(at..).filter(|rest| !rest.is_empty()) {
        at += match rest {
            [b']', ..] => return Ok(at + 1),
            [b'\\', _, ..] => 2,
            [b'[', b':', name @ ..] => {
                let end = name.windows(2).position(|pair| pair == b":]");
                2 + end.ok_or("write '[' in a class as \\[")? + 2
            }
            [b'[', ..] => {
                return Err("write '[' in a class as \\[");
            }
            [b'&', b'&', ..] | [b'-', b'-', ..] | [b'~', b'~', ..] => {
                return Err("write '&', '-' and '~' in a class once, or with '\\'");
            }
            _ => 1,
        };
    }
    // The class has no end; the compiler says so better.
    Ok(at)
}

/// No path that a server takes is longer than this, so no useful expression is.
const LEN_MAX: usize = 4096;
/// This much of a syntax error explains enough.
const FAULT_LEN_MAX: usize = 160;

#[cfg(test)]
mod tests;
