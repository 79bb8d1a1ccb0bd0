//! Texts that many facts share.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
};

use internment::ArcIntern;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text of which the process holds one copy, however many facts repeat it; the copy goes with the last of them.
///
/// A mesh of 100,000 pods has a few thousand namespaces, accounts, nodes and labels: as texts of their own they were more than half
/// of what a node's view of it cost. Made by one look-up in a table that all threads share, so it is for what is kept, not for what is
/// looked at in passing.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(ArcIntern<str>);

impl Text {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Text {
    fn default() -> Self {
        Text::from("")
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// By content, unlike the interned pointer's own, as `Borrow` demands.
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        if self == other {
            return Ordering::Equal;
        }
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<Text> for str {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl PartialEq<Text> for &str {
    fn eq(&self, other: &Text) -> bool {
        *self == other.as_str()
    }
}

impl PartialEq<Text> for String {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(ArcIntern::from(text))
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Text::from(text.as_str())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text::from(text.as_str())
    }
}

impl From<&Text> for Text {
    fn from(text: &Text) -> Self {
        text.clone()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        text.as_str().to_owned()
    }
}

impl From<&Text> for String {
    fn from(text: &Text) -> String {
        text.as_str().to_owned()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Text::from(String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::Text;

    #[test]
    fn equal_texts_are_one() {
        let (one, other) = (Text::from("a text"), Text::from(String::from("a text")));
        assert_eq!(one, other);
        assert!(std::ptr::eq(one.as_str(), other.as_str()));
        let (a, b) = (Text::from("a"), Text::from("b"));
        assert!(a < b);
        assert_eq!(Text::default(), "");
    }

    #[test]
    fn a_map_is_asked_with_what_is_no_text_yet() {
        let map = HashMap::from([(Text::from("key"), 1)]);
        assert_eq!(map.get("key"), Some(&1));
    }

    #[test]
    fn it_is_a_string_in_json() {
        let text: Text = serde_json::from_str("\"with \\\"quotes\\\"\"").unwrap();
        assert_eq!(text, "with \"quotes\"");
        assert_eq!(
            serde_json::to_string(&text).unwrap(),
            "\"with \\\"quotes\\\"\""
        );
    }
}
