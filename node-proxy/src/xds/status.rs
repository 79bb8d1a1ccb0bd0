//! What is known about the stream, for the admin server and for readiness.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ResourceKind;

/// How the stream is, and where the view came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct XdsStatus {
    /// Whether a stream is open.
    pub connected: bool,
    /// Where the view came from.
    pub origin: ViewOrigin,
    /// Why the last stream ended or could not be opened.
    pub last_error: Option<String>,
    /// Each type.
    pub types: BTreeMap<ResourceKind, TypeStatus>,
}

/// Where the view came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ViewOrigin {
    /// There is none yet.
    #[default]
    None,
    /// From disk; the server has not spoken yet.
    Saved,
    /// From the server.
    Server,
}

/// What is known of one type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeStatus {
    /// Whether the server has answered at all since the process began.
    pub answered: bool,
    /// Resources held.
    pub resources: usize,
    /// The version of the server's state at its last answer, for people.
    pub server_version: String,
    /// What was refused in the last answer that had something to refuse, at most a few.
    pub refused: Vec<String>,
}

impl XdsStatus {
    /// Whether the server has told everything that decides about connections.
    ///
    /// Trust bundles are left out: a server that does not know them (istiod) never answers for them.
    pub fn is_whole(&self) -> bool {
        let answered = |kind| self.types.get(&kind).is_some_and(|status| status.answered);
        answered(ResourceKind::Address) && answered(ResourceKind::Authorization)
    }

    /// Whether there is a view to work with.
    pub fn has_view(&self) -> bool {
        self.origin != ViewOrigin::None
    }
}
