//! A name inside a namespace.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Text;

/// `namespace/name`, the key of services (with the hostname as name), policies and most Kubernetes objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamespacedName {
    /// The Kubernetes namespace.
    pub namespace: Text,
    /// The name, or the hostname of a service.
    pub name: Text,
}

impl NamespacedName {
    /// Joins a namespace and a name.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        NamespacedName {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for NamespacedName {
    type Err = ParseNamespacedNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(NamespacedName::new(namespace, name))
            }
            Some(_) | None => Err(ParseNamespacedNameError {
                found: text.chars().take(128).collect(),
            }),
        }
    }
}

impl TryFrom<String> for NamespacedName {
    type Error = ParseNamespacedNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NamespacedName> for String {
    fn from(name: NamespacedName) -> String {
        name.to_string()
    }
}

/// The text is not `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a name: expected namespace/name")]
pub struct ParseNamespacedNameError {
    /// What was given (cut after 128 characters).
    pub found: String,
}

#[cfg(test)]
mod tests;
