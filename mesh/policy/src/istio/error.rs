//! Why an object could not be read.

use tulle_model::NamespacedName;

/// Why an object could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadPolicyError {
    /// Not one of Istio's policies.
    #[error(
        "the object is {found}, expected an AuthorizationPolicy or a PeerAuthentication of security.istio.io/v1 or v1beta1"
    )]
    Kind {
        /// Version and kind of the object.
        found: String,
    },
    /// A field holds what it must not.
    #[error("field {field} holds {found}, expected {expected}")]
    Field {
        /// Path of the field, for example `spec.rules[0].from[1].source.ipBlocks[0]` (cut after 512 characters).
        field: String,
        /// What it holds (cut after 128 characters).
        found: String,
        /// What it may hold.
        expected: &'static str,
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
}

impl ReadPolicyError {
    /// The path of the field that was refused, if one was.
    pub fn field_path(&self) -> Option<&str> {
        match self {
            ReadPolicyError::Field { field, .. } => Some(field),
            ReadPolicyError::Kind { .. } | ReadPolicyError::NotForNodeProxies { .. } => None,
        }
    }

    pub(super) fn field(
        field: impl Into<String>,
        found: impl ToString,
        expected: &'static str,
    ) -> Self {
        let cut = |text: String, len| text.chars().take(len).collect();
        ReadPolicyError::Field {
            field: cut(field.into(), FIELD_LEN_MAX),
            found: cut(found.to_string(), FOUND_LEN_MAX),
            expected,
        }
    }
}

/// This much of a wrong value explains enough.
const FOUND_LEN_MAX: usize = 128;
const FIELD_LEN_MAX: usize = 512;
