//! Why a lane ends before its time.

use std::io;

use tulle_identity::SealError;

use super::{Kind, ParsePrefaceError};

/// Why a lane is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("the peer closed the connection")]
    Closed,
    #[error("a record does not open")]
    Seal(#[from] SealError),
    #[error("a record of {0} bytes, expected 17 to 16382")]
    Length(usize),
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of the kind {0:?} out of its turn")]
    Unexpected(Kind),
    #[error("the preface is refused")]
    Preface(#[from] ParsePrefaceError),
    #[error("the session {found}, expected {expected}")]
    Session { found: u32, expected: u32 },
}

impl LaneError {
    /// The peer sent what no honest peer sends.
    pub(crate) fn is_broken(&self) -> bool {
        !matches!(self, LaneError::Io(_) | LaneError::Closed)
    }
}
