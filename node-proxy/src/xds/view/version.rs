//! The version that a server gave a resource.

use std::sync::Arc;

/// A version, kept without an allocation if it is short: a view of the whole mesh remembers one for each of its resources.
#[derive(Debug, Clone)]
pub(super) struct Version(Kept);

#[derive(Debug, Clone)]
enum Kept {
    /// So many of the bytes, which are whole characters.
    Short(u8, [u8; SHORT_LEN_MAX]),
    Long(Arc<str>),
}

impl Version {
    pub(super) fn as_str(&self) -> &str {
        match &self.0 {
            Kept::Short(len, bytes) => {
                let bytes = bytes.get(..usize::from(*len)).unwrap_or_default();
                std::str::from_utf8(bytes).unwrap_or_default()
            }
            Kept::Long(text) => text,
        }
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        let mut bytes = [0; SHORT_LEN_MAX];
        let kept = match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Kept::Short(len, bytes)
            }
            _ => Kept::Long(text.into()),
        };
        Version(kept)
    }
}

/// Ours have 16; with the two bytes that say what it is, three words.
const SHORT_LEN_MAX: usize = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_comes_back_whatever_its_length() {
        for len in [0, 1, 16, 21, 22, 23, 24, 255, 256, 300] {
            let text: String = "1aé".chars().cycle().take(len).collect();
            assert_eq!(Version::from(text.as_str()).as_str(), text, "{len}");
        }
        assert_eq!(size_of::<Version>(), 24);
    }
}
