//! Why an object could not be read.

use std::borrow::Cow;

use tulle_model::NamespacedName;

use super::PolicyKind;

/// Why an object could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadPolicyError {
    /// Not a policy.
    #[error("the object is {found}, expected one of {}", PolicyKind::EXPECTED)]
    Kind {
        /// Version and kind of the object.
        found: String,
    },
    /// A field holds what it must not.
    #[error("{object}field {field} holds {found}, expected {expected}")]
    Field {
        /// Kind and name of the object, with a colon behind; empty while they are not known.
        object: String,
        /// Path of the field, for example `spec.rules[0].from[1].source.ipBlocks[0]` (cut after 512 characters).
        field: String,
        /// What it holds (cut after 128 characters).
        found: String,
        /// What it may hold.
        expected: Cow<'static, str>,
    },
    /// A part of a language that nothing here could enforce.
    #[error("{object}field {field} is not supported: {reason}")]
    Unsupported {
        /// Kind and name of the object, with a colon behind; empty while they are not known.
        object: String,
        /// Path of the field (cut after 512 characters).
        field: String,
        /// Why, and what to do instead where there is something.
        reason: &'static str,
    },
    /// The object is right, but a node proxy can do nothing with it.
    #[error("{kind} {key} is not for node proxies: {reason}")]
    NotForNodeProxies {
        /// The object's kind.
        kind: &'static str,
        /// The object's name.
        key: NamespacedName,
        /// Who else it is for, or why it says nothing.
        reason: &'static str,
    },
    /// The text holds no object that could be looked at.
    #[error("the document is no YAML object: {fault}")]
    Document {
        /// What is wrong, with line and column where they are known.
        fault: String,
    },
}

impl ReadPolicyError {
    /// The path of the field that was refused, if one was.
    pub fn field_path(&self) -> Option<&str> {
        match self {
            ReadPolicyError::Field { field, .. } | ReadPolicyError::Unsupported { field, .. } => {
                Some(field)
            }
            ReadPolicyError::Kind { .. }
            | ReadPolicyError::NotForNodeProxies { .. }
            | ReadPolicyError::Document { .. } => None,
        }
    }

    pub(crate) fn field(
        field: impl Into<String>,
        found: impl ToString,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        ReadPolicyError::Field {
            object: String::new(),
            field: cut(field.into(), FIELD_LEN_MAX),
            found: cut(found.to_string(), FOUND_LEN_MAX),
            expected: expected.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, reason: &'static str) -> Self {
        ReadPolicyError::Unsupported {
            object: String::new(),
            field: cut(field.into(), FIELD_LEN_MAX),
            reason,
        }
    }

    pub(crate) fn document(fault: impl ToString) -> Self {
        ReadPolicyError::Document {
            fault: cut(fault.to_string(), FIELD_LEN_MAX),
        }
    }

    /// The same with the object's name, if it has none yet.
    pub(crate) fn of(mut self, kind: PolicyKind, key: &NamespacedName) -> Self {
        if let ReadPolicyError::Field { object, .. } | ReadPolicyError::Unsupported { object, .. } =
            &mut self
            && object.is_empty()
        {
            *object = if kind.is_namespaced() {
                format!("{} {key}: ", kind.name())
            } else {
                format!("{} {}: ", kind.name(), key.name)
            };
        }
        self
    }
}

fn cut(text: String, len: usize) -> String {
    if text.len() <= len {
        return text;
    }
    text.chars().take(len).collect()
}

/// This much of a wrong value explains enough.
const FOUND_LEN_MAX: usize = 128;
const FIELD_LEN_MAX: usize = 512;
