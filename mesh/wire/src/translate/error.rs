//! Why a resource was refused.

/// Why a resource was refused; its text is what a NACK carries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeResourceError {
    /// Not a protobuf message of this type.
    #[error("the bytes are no message of the resource's type")]
    Protobuf(#[from] prost::DecodeError),
    /// A field holds what it must not.
    #[error("field {field} holds {found}, expected {expected}")]
    Field {
        /// Path of the field, for example `workload.addresses[1]` (cut after 512 characters).
        field: String,
        /// What it holds (cut after 128 characters).
        found: String,
        /// What it may hold.
        expected: &'static str,
    },
}

impl DecodeResourceError {
    /// The path of the field that was refused; `None` when not even the message could be read.
    pub fn field_path(&self) -> Option<&str> {
        match self {
            DecodeResourceError::Field { field, .. } => Some(field),
            DecodeResourceError::Protobuf(_) => None,
        }
    }

    pub(super) fn field(
        field: impl Into<String>,
        found: impl ToString,
        expected: &'static str,
    ) -> Self {
        // A path holds keys of maps, which are the peer's as well.
        let cut = |text: String, len| text.chars().take(len).collect();
        DecodeResourceError::Field {
            field: cut(field.into(), FIELD_LEN_MAX),
            found: cut(found.to_string(), FOUND_LEN_MAX),
            expected,
        }
    }
}

/// A peer's text goes into logs and NACKs; this much of it explains enough.
const FOUND_LEN_MAX: usize = 128;
const FIELD_LEN_MAX: usize = 512;
