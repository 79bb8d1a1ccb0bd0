//! Walks an object and knows at each step where it is, so that an error can name the field.

use std::{borrow::Cow, collections::BTreeMap, ops::RangeInclusive};

use serde_json::{Map, Value};

use super::ReadPolicyError;

/// A value and where it stands.
pub(crate) struct Node<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    pub(crate) fn new(path: impl Into<String>, value: &'a Value) -> Self {
        Node {
            path: path.into(),
            value,
        }
    }

    /// A field that is not there, to be named in an error.
    pub(crate) fn absent(&self, name: &str) -> Node<'static> {
        Node::new(format!("{}.{name}", self.path), &Value::Null)
    }

    /// Where it stands.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn refuse(&self, expected: impl Into<Cow<'static, str>>) -> ReadPolicyError {
        ReadPolicyError::field(&self.path, self.value, expected)
    }

    /// For a part of the language that nothing here could enforce.
    pub(crate) fn unsupported(&self, reason: &'static str) -> ReadPolicyError {
        ReadPolicyError::unsupported(self.path.clone(), reason)
    }

    /// `null` is an empty object, as `spec:` with nothing behind it.
    fn fields(&self) -> Result<Option<&'a Map<String, Value>>, ReadPolicyError> {
        match self.value {
            Value::Object(fields) => Ok(Some(fields)),
            Value::Null => Ok(None),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(self.refuse("an object"))
            }
        }
    }

    /// Refuses a field that this build does not know: it might narrow what is allowed.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), ReadPolicyError> {
        for name in self.fields()?.into_iter().flat_map(Map::keys) {
            if !known.contains(&name.as_str()) {
                let path = format!("{}.{name}", self.path);
                return Err(ReadPolicyError::field(
                    path,
                    "a value",
                    "no field of this name",
                ));
            }
        }
        Ok(())
    }

    /// A field; `null` is the same as no field.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Node<'a>>, ReadPolicyError> {
        let value = self
            .fields()?
            .and_then(|fields| fields.get(name))
            .filter(|value| !value.is_null());
        Ok(value.map(|value| Node::new(format!("{}.{name}", self.path), value)))
    }

    pub(crate) fn required(&self, name: &str) -> Result<Node<'a>, ReadPolicyError> {
        let missing =
            || ReadPolicyError::field(format!("{}.{name}", self.path), "nothing", "a value");
        self.get(name)?.ok_or_else(missing)
    }

    /// The items of a list field, which may be empty; no field = `None`. An item of `null` is refused: it looks like "none",
    /// and as an empty object it would mean "any".
    pub(crate) fn items(&self, name: &str) -> Result<Option<Vec<Node<'a>>>, ReadPolicyError> {
        let Some(node) = self.get(name)? else {
            return Ok(None);
        };
        let Value::Array(items) = node.value else {
            return Err(node.refuse("a list"));
        };
        let at = |(i, value): (usize, &'a Value)| {
            let item = Node::new(format!("{}[{i}]", node.path), value);
            if value.is_null() {
                Err(item.refuse("an item that is not null"))
            } else {
                Ok(item)
            }
        };
        items
            .iter()
            .enumerate()
            .map(at)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The items of a list field; no field = `None`. An empty list is refused, as in Istio: it looks like "none" and
    /// would mean "any".
    pub(crate) fn list(&self, name: &str) -> Result<Option<Vec<Node<'a>>>, ReadPolicyError> {
        match self.items(name)? {
            Some(items) if items.is_empty() => {
                Err(self.required(name)?.refuse("a list that is not empty"))
            }
            items => Ok(items),
        }
    }

    /// As `list`, but an empty list is as good as none. For lists whose neighbours say enough, as in Istio.
    pub(crate) fn list_or_empty(&self, name: &str) -> Result<Vec<Node<'a>>, ReadPolicyError> {
        Ok(self.items(name)?.unwrap_or_default())
    }

    pub(crate) fn text(&self) -> Result<&'a str, ReadPolicyError> {
        self.value
            .as_str()
            .filter(|text| !text.is_empty())
            .ok_or_else(|| self.refuse("a text that is not empty"))
    }

    /// A text, which may be empty.
    pub(crate) fn text_or_empty(&self) -> Result<&'a str, ReadPolicyError> {
        self.value.as_str().ok_or_else(|| self.refuse("a text"))
    }

    pub(crate) fn boolean(&self) -> Result<bool, ReadPolicyError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.refuse("true or false"))
    }

    /// A whole number; `None` = it is a text.
    pub(crate) fn number_or_text(
        &self,
        range: RangeInclusive<u16>,
        expected: &'static str,
    ) -> Result<Option<u16>, ReadPolicyError> {
        if self.value.is_string() {
            return Ok(None);
        }
        self.number(range, expected).map(Some)
    }

    pub(crate) fn number(
        &self,
        range: RangeInclusive<u16>,
        expected: impl Into<Cow<'static, str>>,
    ) -> Result<u16, ReadPolicyError> {
        self.value
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.refuse(expected))
    }

    /// A part of a key.
    pub(crate) fn name(&self) -> Result<&'a str, ReadPolicyError> {
        let text = self.text()?;
        if text.contains('/') {
            Err(self.refuse("a name without '/'"))
        } else {
            Ok(text)
        }
    }

    pub(crate) fn text_map(&self) -> Result<BTreeMap<String, String>, ReadPolicyError> {
        let fields = self.fields()?.into_iter().flatten();
        fields
            .map(|(name, value)| {
                let refused =
                    || ReadPolicyError::field(format!("{}.{name}", self.path), value, "a text");
                Ok((name.clone(), value.as_str().ok_or_else(refused)?.to_owned()))
            })
            .collect()
    }

    /// All fields with their names, also those of `null`.
    pub(crate) fn all_entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, ReadPolicyError> {
        let fields = self.fields()?.into_iter().flatten();
        let at = |(name, value): (&'a String, &'a Value)| {
            (
                name.as_str(),
                Node::new(format!("{}.{name}", self.path), value),
            )
        };
        Ok(fields.map(at).collect())
    }

    /// All fields with their names; `null` is the same as no field.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, ReadPolicyError> {
        let fields = self
            .fields()?
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null());
        Ok(fields
            .map(|(name, value)| {
                (
                    name.as_str(),
                    Node::new(format!("{}.{name}", self.path), value),
                )
            })
            .collect())
    }
}
